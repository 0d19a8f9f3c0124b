"""Verify a code: it opens a session, and an account where there was none."""

from dataclasses import dataclass, field

from sqlalchemy import select, update

from app.features.audit.record import record
from app.features.auth.codes import CodeHasher
from app.features.auth.errors import CodeExpired, CodeInvalid
from app.features.auth.factor import list_methods, load_factor
from app.features.auth.limits import count_wrong_guesses, tries_allowed
from app.features.auth.models import VerificationRow
from app.features.auth.password_tokens import create_password_token
from app.features.auth.send_verification import PHONE_PLACE
from app.features.sessions.open import SessionTokens, open_session
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.features.users.create import create_user, find_user_by_phone
from app.features.users.me import load_me
from app.features.users.people import has_phone
from app.features.users.views import MeView
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import SERVER_KEY, Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.tokens.access import AccessTokens
from app.kernel.events import EventSink, SecurityEvent
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import user_scope
from app.kernel.text import clean_name
from app.settings import TokenSettings

# The contract lets a new account come without a name; the client asks for it when it sees
# `is_new_user`. Never anything made of the phone.
DEFAULT_FIRST_NAME = "New user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the caller sends. Names count for a new account only."""

    verification_id: str
    code: str
    device_name: str | None = None
    first_name: str | None = None
    last_name: str | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    tokens: SessionTokens
    is_new_user: bool
    user: MeView


@dataclass(frozen=True, slots=True)
class HalfSignedIn:
    """The code was right; the second factor is still to come. `methods`: what is set."""

    user_id: UserId
    password_token: str = field(repr=False)
    methods: list[str]


@dataclass(frozen=True, slots=True)
class CountedCode:
    """A try that was taken before the code is looked at."""

    row_id: int
    phone: str
    code_hash: bytes
    attempts_left: int


async def verify_code(
    db: Database,
    keyring: Keyring,
    *,
    index: BlindIndex,
    tokens: AccessTokens,
    revocations: RevocationList,
    hasher: CodeHasher,
    events: EventSink,
    limits: TokenSettings,
    attempt: Attempt,
    address: str | None = None,
) -> SignedIn | HalfSignedIn:
    """Count the try, compare outside any transaction, then use the code: of parallel tries that
    know it one wins. Known and unknown phones take the same way up to the right code.

    Raises:
        CodeInvalid: with `attempts_left`.
        CodeExpired: see there.
        name_invalid
    """
    _check_names(attempt)
    counted = await db.write(lambda tx: take_code_try(tx, keyring, attempt.verification_id))
    if not await hasher.matches(attempt.verification_id, attempt.code, counted.code_hash):
        # Which code it was would lead to the number when the rest of the event is forgotten.
        about = {"verification": str(counted.row_id)}
        phone_index = index.phone(counted.phone)
        events.record(SecurityEvent("sign_in_refused", personal=about, phone_index=phone_index))
        raise CodeInvalid(attempts_left=counted.attempts_left)

    async def work(tx: Tx) -> SignedIn | HalfSignedIn:
        phone = counted.phone
        await use_code(tx, index, row_id=counted.row_id, phone=phone)
        known = await find_user_by_phone(tx, index, phone)
        if known is not None and not await has_phone(tx, keyring, known, phone):
            raise CodeExpired
        user_id = known or await _sign_up(tx, keyring, index, phone=phone, attempt=attempt)
        log = await lock_scopes(tx, [user_scope(user_id)])
        factor = await load_factor(tx, keyring, user_id)
        if factor.is_on:
            token = await create_password_token(
                tx, keyring, user_id=user_id, device_name=attempt.device_name
            )
            record(tx, SecurityEvent("second_factor_asked", user_id))
            return HalfSignedIn(user_id, token, list_methods(factor))
        session = await open_session(
            tx,
            log,
            keyring=keyring,
            tokens=tokens,
            revocations=revocations,
            limits=limits,
            user_id=user_id,
            device_name=attempt.device_name,
            address=address,
        )
        _record(tx, user_id, session.session_id, attempt, is_new_user=known is None)
        me = await load_me(tx, keyring, user_id=user_id)
        return SignedIn(session, known is None, me)

    return await db.write(work)


def _record(
    tx: Tx, user_id: UserId, session_id: SessionId, attempt: Attempt, *, is_new_user: bool
) -> None:
    device = {"device_name": attempt.device_name} if attempt.device_name else {}
    details = {"is_new_user": is_new_user}
    record(tx, SecurityEvent("signed_in", user_id, session_id, details, device))


def _check_names(attempt: Attempt) -> None:
    """Before a try is spent."""
    for name in ("first_name", "last_name", "device_name"):
        value = getattr(attempt, name)
        if value is not None:
            clean_name(value, field=name)


async def take_code_try(tx: Tx, keyring: Keyring, verification_id: str) -> CountedCode:
    """Take one of the tries. The phone's lock makes the count over all its codes exact."""
    phone_index = await tx.scalar(
        select(VerificationRow.phone_index).where(VerificationRow.public_id == verification_id)
    )
    if phone_index is None:
        raise CodeExpired
    await tx.lock_names([f"phone:{phone_index.hex()}"])
    row = await tx.first(
        select(VerificationRow.id, VerificationRow.phone, VerificationRow.code_hash).where(
            VerificationRow.public_id == verification_id,
            VerificationRow.used_at.is_(None),
            VerificationRow.replaced_at.is_(None),
            VerificationRow.expires_at > tx.now,
        )
    )
    if row is None:
        raise CodeExpired
    row_id, sealed_phone, code_hash = row
    if code_hash is None:
        raise CodeExpired
    allowed = tries_allowed(await count_wrong_guesses(tx, phone_index=phone_index, but=row_id))
    attempts = await tx.scalar(
        update(VerificationRow)
        .where(VerificationRow.id == row_id, VerificationRow.attempts < allowed)
        .values(attempts=VerificationRow.attempts + 1)
        .returning(VerificationRow.attempts)
    )
    if attempts is None:
        raise CodeExpired
    key = await keyring.require(tx, SERVER_KEY)
    table, column = PHONE_PLACE
    phone = key.find_text(sealed_phone, table=table, column=column, row_id=row_id)
    # A number that was moved here from another request, so that its code signs in to that account.
    if phone is None:
        raise CodeExpired
    return CountedCode(row_id, phone, code_hash, allowed - attempts)


async def use_code(tx: Tx, index: BlindIndex, *, row_id: int, phone: str) -> None:
    """Use the code up. What it held is emptied; the row stays to know the address by."""
    await tx.lock_names([f"phone:{digest.hex()}" for digest in index.phones(phone)])
    used = await tx.scalar(
        update(VerificationRow)
        .where(
            VerificationRow.id == row_id,
            VerificationRow.used_at.is_(None),
            VerificationRow.replaced_at.is_(None),
            VerificationRow.expires_at > tx.now,
        )
        .values(used_at=tx.now, phone=b"", code_hash=None)
        .returning(VerificationRow.id)
    )
    if used is None:
        raise CodeExpired


async def _sign_up(
    tx: Tx, keyring: Keyring, index: BlindIndex, *, phone: str, attempt: Attempt
) -> UserId:
    return await create_user(
        tx,
        keyring,
        index,
        phone=phone,
        first_name=attempt.first_name or DEFAULT_FIRST_NAME,
        last_name=attempt.last_name,
    )
