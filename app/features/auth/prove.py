"""Proving the second factor: count the try, compare outside any transaction, then settle it in the
transaction of what it opens. Every door that asks for the factor goes these three steps.
"""

from dataclasses import dataclass, field

from sqlalchemy import update

from app.features.audit.record import record
from app.features.auth.errors import PasswordInvalid, TwoStepNotSet
from app.features.auth.factor import Factor, load_factor, store_factor, tell_devices
from app.features.auth.models import SecondFactorRow
from app.features.auth.passwords import PasswordHasher
from app.features.auth.recovery_codes import use_recovery_code
from app.features.auth.totp import find_step
from app.features.auth.tries import Asker, mark_right, take_try
from app.features.updates.log import ScopeLog
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId


@dataclass(frozen=True, slots=True)
class Proof:
    """Exactly one of the three."""

    password: str | None = field(default=None, repr=False)
    totp: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Counted:
    """A try that was taken before the proof is looked at."""

    user_id: UserId
    try_id: int
    factor: Factor


async def count_try(tx: Tx, keyring: Keyring, *, user_id: UserId, asker: Asker) -> Counted:
    """Take one of the tries; the lock of the user's scope is held.

    Raises:
        two_step_not_set
        RateLimited: see `take_try`.
    """
    factor = await load_factor(tx, keyring, user_id)
    if not factor.is_on:
        raise TwoStepNotSet
    return Counted(user_id, await take_try(tx, user_id=user_id, asker=asker), factor)


async def compare(hasher: PasswordHasher, counted: Counted, proof: Proof) -> bool:
    """Whether a password is right; the other proofs are decided by `settle`.

    Raises:
        hashing_busy: it was not looked at; the try is to be given back.
    """
    if proof.password is None:
        return True
    hashed = counted.factor.password_hash
    if hashed is None:
        return False
    return await hasher.matches(proof.password, user_id=counted.user_id, hashed=hashed)


async def settle(
    tx: Tx, log: ScopeLog, keyring: Keyring, *, counted: Counted, proof: Proof, is_right: bool
) -> None:
    """Use the proof up; `is_right`: what `compare` says of it. `log` holds the user's scope. A reset
    that waits is over: the owner has shown up.

    Raises:
        password_invalid: a wrong or used code, or the password was changed meanwhile.
    """
    user_id = counted.user_id
    factor = await load_factor(tx, keyring, user_id)
    if not is_right or not await _is_used(tx, factor, counted, proof):
        raise PasswordInvalid
    await mark_right(tx, counted.try_id)
    if factor.reset_at is not None:
        await store_factor(tx, keyring, user_id, reset_asked_at=None, reset_at=None)
        tell_devices(log, user_id, "reset_cancelled")
        record(tx, SecurityEvent("second_factor_reset_cancelled", user_id))


async def _is_used(tx: Tx, factor: Factor, counted: Counted, proof: Proof) -> bool:
    user_id = counted.user_id
    if proof.password is not None:
        return factor.password_hash == counted.factor.password_hash
    if proof.recovery_code is not None:
        return factor.is_on and await use_recovery_code(tx, user_id, proof.recovery_code)
    if proof.totp is None or factor.totp_secret is None:
        return False
    step = find_step(factor.totp_secret, proof.totp, now=tx.now, after=factor.totp_step)
    if step is None:
        return False
    await tx.execute(
        update(SecondFactorRow).where(SecondFactorRow.user_id == user_id).values(totp_step=step)
    )
    return True
