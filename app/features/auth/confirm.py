"""Confirm that it is the owner who holds a signed-in device: the session is fresh again."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from app.features.audit.record import record
from app.features.auth.codes import CodeHasher
from app.features.auth.errors import CodeExpired, CodeInvalid, PasswordInvalid, PasswordRequired
from app.features.auth.factor import has_factor
from app.features.auth.passwords import PasswordHasher
from app.features.auth.prove import Counted, Proof, compare, count_try, settle
from app.features.auth.tries import Asker, give_back
from app.features.auth.verify_code import take_code_try, use_code
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.fresh import freshen
from app.features.updates.log import lock_scopes
from app.features.users.models import UserRow
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.hashing import HashingBusy
from app.kernel.addresses import network_of
from app.kernel.events import EventSink, SecurityEvent
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope


@dataclass(frozen=True, slots=True)
class CodeProof:
    """A new code to the account's own phone."""

    verification_id: str
    code: str = field(repr=False)


async def confirm_by_factor(
    db: Database,
    keyring: Keyring,
    *,
    index: BlindIndex,
    hasher: PasswordHasher,
    events: EventSink,
    caller: CurrentSession,
    proof: Proof,
    address: str,
) -> datetime:
    """Confirm by the second factor.

    Returns:
        When.

    Raises:
        password_invalid, two_step_not_set
        RateLimited: see `tries.py`.
        hashing_busy
    """
    asker = Asker(index.address(network_of(address)), caller.session_id)

    async def begin(tx: Tx) -> Counted:
        await lock_scopes(tx, [user_scope(caller.user_id)])
        return await count_try(tx, keyring, user_id=caller.user_id, asker=asker)

    counted = await db.write(begin)
    try:
        is_right = await compare(hasher, counted, proof)
    except HashingBusy:
        await db.write(lambda tx: give_back(tx, counted.try_id))
        raise

    async def work(tx: Tx) -> datetime:
        log = await lock_scopes(tx, [user_scope(caller.user_id)])
        await settle(tx, log, keyring, counted=counted, proof=proof, is_right=is_right)
        await freshen(tx, session_id=caller.session_id)
        record(tx, SecurityEvent("session_confirmed", caller.user_id, caller.session_id))
        return tx.now

    try:
        return await db.write(work)
    except PasswordInvalid:
        events.record(SecurityEvent("second_factor_refused", caller.user_id, caller.session_id))
        raise


async def confirm_by_code(
    db: Database,
    keyring: Keyring,
    *,
    index: BlindIndex,
    hasher: CodeHasher,
    events: EventSink,
    caller: CurrentSession,
    proof: CodeProof,
) -> datetime:
    """Confirm by a new code to the phone, where no second factor is set.

    Returns:
        When.

    Raises:
        password_required: there is a second factor.
        code_invalid: with `attempts_left`.
        code_expired: see there; also for a code to another phone.
    """
    await db.read(lambda tx: _refuse_with_factor(tx, caller.user_id))
    counted = await db.write(lambda tx: take_code_try(tx, keyring, proof.verification_id))
    if not await db.read(lambda tx: _is_own_phone(tx, index, caller.user_id, counted.phone)):
        raise CodeExpired
    if not await hasher.matches(proof.verification_id, proof.code, counted.code_hash):
        events.record(SecurityEvent("confirmation_refused", caller.user_id, caller.session_id))
        raise CodeInvalid(attempts_left=counted.attempts_left)

    async def work(tx: Tx) -> datetime:
        await use_code(tx, index, row_id=counted.row_id, phone=counted.phone)
        await lock_scopes(tx, [user_scope(caller.user_id)])
        await _refuse_with_factor(tx, caller.user_id)
        await freshen(tx, session_id=caller.session_id)
        record(tx, SecurityEvent("session_confirmed", caller.user_id, caller.session_id))
        return tx.now

    return await db.write(work)


async def _refuse_with_factor(tx: Tx, user_id: UserId) -> None:
    if await has_factor(tx, user_id):
        raise PasswordRequired


async def _is_own_phone(tx: Tx, index: BlindIndex, user_id: UserId, phone: str) -> bool:
    statement = select(UserRow.phone_index).where(UserRow.id == user_id)
    return await tx.scalar(statement) in index.phones(phone)
