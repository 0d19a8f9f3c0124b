"""Verify the second factor: it opens the session that a code to the phone alone did not."""

from dataclasses import dataclass, field

from app.features.audit.record import record
from app.features.auth.errors import PasswordInvalid
from app.features.auth.password_tokens import (
    HalfSignedIn,
    find_owner,
    return_attempt,
    take_attempt,
    use_password_token,
)
from app.features.auth.passwords import PasswordHasher
from app.features.auth.prove import Counted, Proof, compare, count_try, settle
from app.features.auth.tries import Asker, give_back
from app.features.auth.verify_code import SignedIn
from app.features.sessions.open import open_session
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.features.users.me import load_me
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.hashing import HashingBusy
from app.infra.tokens.access import AccessTokens
from app.kernel.addresses import network_of
from app.kernel.events import EventSink, SecurityEvent
from app.kernel.scopes import user_scope
from app.kernel.text import clean_name
from app.settings import TokenSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStep:
    """What the caller sends; without a `device_name` the one of the first step holds."""

    password_token: str = field(repr=False)
    proof: Proof
    device_name: str | None = None


async def verify_password(
    db: Database,
    keyring: Keyring,
    *,
    index: BlindIndex,
    tokens: AccessTokens,
    revocations: RevocationList,
    hasher: PasswordHasher,
    events: EventSink,
    limits: TokenSettings,
    step: SecondStep,
    address: str,
) -> SignedIn:
    """Sign in from `address` (an IP).

    Raises:
        password_invalid: with `attempts_left`.
        password_token_expired
        RateLimited: see `tries.py`.
        hashing_busy, name_invalid
    """
    if step.device_name is not None:
        clean_name(step.device_name, field="device_name")
    asker = Asker(index.address(network_of(address)))

    async def begin(tx: Tx) -> tuple[HalfSignedIn, Counted]:
        user_id = await find_owner(tx, step.password_token)
        await lock_scopes(tx, [user_scope(user_id)])
        half = await take_attempt(tx, keyring, step.password_token)
        return half, await count_try(tx, keyring, user_id=user_id, asker=asker)

    async def unsee(tx: Tx) -> None:
        await return_attempt(tx, half.hash)
        await give_back(tx, counted.try_id)

    half, counted = await db.write(begin)
    try:
        is_right = await compare(hasher, counted, step.proof)
    except HashingBusy:
        await db.write(unsee)
        raise

    async def work(tx: Tx) -> SignedIn:
        log = await lock_scopes(tx, [user_scope(half.user_id)])
        await use_password_token(tx, half.hash)
        await settle(tx, log, keyring, counted=counted, proof=step.proof, is_right=is_right)
        session = await open_session(
            tx,
            log,
            keyring=keyring,
            tokens=tokens,
            revocations=revocations,
            limits=limits,
            user_id=half.user_id,
            device_name=step.device_name or half.device_name,
            address=address,
        )
        device_name = step.device_name or half.device_name
        record(
            tx,
            SecurityEvent(
                "signed_in",
                half.user_id,
                session.session_id,
                {"is_new_user": False, "second_factor": True},
                {"device_name": device_name} if device_name else {},
            ),
        )
        return SignedIn(
            session, is_new_user=False, user=await load_me(tx, keyring, user_id=half.user_id)
        )

    try:
        return await db.write(work)
    except PasswordInvalid:
        events.record(SecurityEvent("second_factor_refused", half.user_id))
        raise PasswordInvalid(attempts_left=half.attempts_left) from None
