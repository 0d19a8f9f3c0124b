"""Reset the second factor without it: whoever has the phone alone waits TWO_STEP_RESET_DAYS, all
devices are told, and any of them can put a stop to it.

Otherwise a forgotten password would be a lost account; at once, a stolen SIM would be all it takes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.features.audit.record import record
from app.features.auth.errors import TwoStepNotSet
from app.features.auth.factor import forget_factor, load_factor, store_factor, tell_devices
from app.features.auth.password_tokens import find_owner
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.end import end_all_sessions
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.scopes import user_scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """`reset_at`: when it becomes possible, or became."""

    is_done: bool
    reset_at: datetime


async def reset_two_step(
    db: Database,
    keyring: Keyring,
    *,
    revocations: RevocationList,
    password_token: str,
    waiting: timedelta,
) -> Reset:
    """Ask for the reset, or after the waiting period do it: then the next code signs in alone.

    It can be done for as long again as was waited; then it has to be asked for anew.

    Raises:
        password_token_expired
    """

    async def work(tx: Tx) -> Reset:
        user_id = await find_owner(tx, password_token)
        log = await lock_scopes(tx, [user_scope(user_id)])
        await find_owner(tx, password_token)
        reset_at = (await load_factor(tx, keyring, user_id)).reset_at
        if reset_at is not None and reset_at <= tx.now < reset_at + waiting:
            await forget_factor(tx, user_id)
            tell_devices(log, user_id, "reset", reset_at=reset_at)
            record(tx, SecurityEvent("second_factor_reset", user_id))
            await end_all_sessions(tx, log, revocations=revocations, user_id=user_id)
            return Reset(is_done=True, reset_at=reset_at)
        if reset_at is not None and tx.now < reset_at:
            return Reset(is_done=False, reset_at=reset_at)
        reset_at = tx.now + waiting
        await store_factor(tx, keyring, user_id, reset_asked_at=tx.now, reset_at=reset_at)
        tell_devices(log, user_id, "reset_requested", reset_at=reset_at)
        record(tx, SecurityEvent("second_factor_reset_requested", user_id))
        return Reset(is_done=False, reset_at=reset_at)

    return await db.write(work)


async def cancel_reset(db: Database, keyring: Keyring, *, caller: CurrentSession) -> None:
    """Put a stop to it, from any device.

    Raises:
        two_step_not_set: no reset waits.
    """

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(caller.user_id)])
        factor = await load_factor(tx, keyring, caller.user_id)
        if factor.reset_at is None:
            raise TwoStepNotSet
        await store_factor(tx, keyring, caller.user_id, reset_asked_at=None, reset_at=None)
        tell_devices(log, caller.user_id, "reset_cancelled")
        event = "second_factor_reset_cancelled"
        record(tx, SecurityEvent(event, caller.user_id, caller.session_id))

    await db.write(work)
