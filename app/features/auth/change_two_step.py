"""Set, change and remove the second factor. Each change ends all other sessions and half-done
sign-ins, and is told to all devices.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from app.features.audit.record import record
from app.features.auth.errors import PasswordInvalid, TwoStepNotSet
from app.features.auth.factor import (
    Factor,
    TwoStepView,
    delete_password_tokens,
    forget_factor,
    load_factor,
    render_factor,
    store_factor,
    tell_devices,
)
from app.features.auth.passwords import PasswordHasher
from app.features.auth.recovery_codes import count_recovery_codes, replace_recovery_codes
from app.features.auth.totp import find_step, new_secret, render_uri
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.end import end_all_sessions
from app.features.sessions.fresh import freshen, require_fresh
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import ScopeLog, lock_scopes
from app.features.users.me import load_me
from app.features.users.views import MeView
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope

PENDING_FOR = timedelta(minutes=30)

Part = Literal["password", "totp"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is set: a new password, the first code of the authenticator app, or both."""

    password: str | None = field(default=None, repr=False)
    totp: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChangedTwoStep:
    """`recovery_codes`: where they were made just now, for the only time."""

    state: TwoStepView
    recovery_codes: list[str] | None


@dataclass(frozen=True, slots=True)
class PendingTotp:
    secret: str = field(repr=False)
    uri: str = field(repr=False)


async def get_two_step(db: Database, keyring: Keyring, *, user_id: UserId) -> TwoStepView:
    async def work(tx: Tx) -> TwoStepView:
        return await render_factor(tx, await load_factor(tx, keyring, user_id), user_id)

    return await db.read(work)


async def begin_totp(
    db: Database, keyring: Keyring, *, caller: CurrentSession, fresh_minutes: int
) -> PendingTotp:
    """A secret for an authenticator app; it counts only after its first code (`change_two_step`).

    Raises:
        fresh_authentication_required
    """
    secret = new_secret()

    async def work(tx: Tx) -> PendingTotp:
        await lock_scopes(tx, [user_scope(caller.user_id)])
        await require_fresh(tx, session_id=caller.session_id, minutes=fresh_minutes)
        until = tx.now + PENDING_FOR
        await store_factor(tx, keyring, caller.user_id, pending_secret=secret, pending_until=until)
        me = await load_me(tx, keyring, user_id=caller.user_id)
        return PendingTotp(secret, render_uri(secret, account=me["phone"] or str(caller.user_id)))

    return await db.write(work)


async def change_two_step(
    db: Database,
    keyring: Keyring,
    *,
    revocations: RevocationList,
    hasher: PasswordHasher,
    caller: CurrentSession,
    choice: Choice,
    fresh_minutes: int,
) -> ChangedTwoStep:
    """Raises:
    fresh_authentication_required
    password_too_common
    password_invalid: the app's code is wrong, or there is no secret that waits for one.
    hashing_busy
    """

    async def check(tx: Tx) -> MeView:
        await require_fresh(tx, session_id=caller.session_id, minutes=fresh_minutes)
        return await load_me(tx, keyring, user_id=caller.user_id)

    me = await db.read(check)
    values: dict[str, object] = {}
    if choice.password is not None:
        values["password_hash"] = await hasher.hash_new(
            choice.password, user_id=caller.user_id, personal_words=_list_words(me)
        )

    async def work(tx: Tx) -> ChangedTwoStep:
        log = await lock_scopes(tx, [user_scope(caller.user_id)])
        await require_fresh(tx, session_id=caller.session_id, minutes=fresh_minutes)
        before = await load_factor(tx, keyring, caller.user_id)
        if choice.totp is not None:
            values.update(_confirm_pending(tx, before, choice.totp))
        values.update(reset_asked_at=None, reset_at=None)
        await store_factor(tx, keyring, caller.user_id, **values)
        codes = None
        if choice.totp is not None and not await count_recovery_codes(tx, caller.user_id):
            codes = await replace_recovery_codes(tx, caller.user_id)
        change = "changed" if before.is_on else "set"
        await _finish(tx, log, revocations, caller, change)
        # Whoever sets a secret knows it.
        await freshen(tx, session_id=caller.session_id)
        after = await load_factor(tx, keyring, caller.user_id)
        return ChangedTwoStep(await render_factor(tx, after, caller.user_id), codes)

    return await db.write(work)


async def remove_two_step(
    db: Database,
    keyring: Keyring,
    *,
    revocations: RevocationList,
    caller: CurrentSession,
    part: Part | None,
    fresh_minutes: int,
) -> None:
    """Remove a part of the second factor, or all of it.

    Raises:
        fresh_authentication_required, two_step_not_set
    """

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(caller.user_id)])
        await require_fresh(tx, session_id=caller.session_id, minutes=fresh_minutes)
        factor = await load_factor(tx, keyring, caller.user_id)
        has = {"password": factor.password_hash is not None, "totp": factor.totp_secret is not None}
        if not (has[part] if part else factor.is_on):
            raise TwoStepNotSet
        if part is None or not all(has.values()):
            await forget_factor(tx, caller.user_id)
            change = "removed"
        else:
            await store_factor(tx, keyring, caller.user_id, **_EMPTY[part])
            change = "changed"
        await _finish(tx, log, revocations, caller, change)

    await db.write(work)


async def make_recovery_codes(
    db: Database,
    *,
    keyring: Keyring,
    caller: CurrentSession,
    fresh_minutes: int,
) -> list[str]:
    """New recovery codes in place of the old ones.

    Raises:
        fresh_authentication_required, two_step_not_set
    """

    async def work(tx: Tx) -> list[str]:
        log = await lock_scopes(tx, [user_scope(caller.user_id)])
        await require_fresh(tx, session_id=caller.session_id, minutes=fresh_minutes)
        factor = await load_factor(tx, keyring, caller.user_id)
        if not factor.is_on:
            raise TwoStepNotSet
        tell_devices(log, caller.user_id, "recovery_codes_made")
        record(tx, SecurityEvent("recovery_codes_made", caller.user_id, caller.session_id))
        return await replace_recovery_codes(tx, caller.user_id)

    return await db.write(work)


_EMPTY: dict[Part, dict[str, object]] = {
    "password": {"password_hash": None},
    "totp": {"totp_secret": None, "totp_step": None},
}


def _confirm_pending(tx: Tx, factor: Factor, code: str) -> dict[str, object]:
    secret, until = factor.pending_secret, factor.pending_until
    if secret is None or until is None or until <= tx.now:
        raise PasswordInvalid
    step = find_step(secret, code, now=tx.now, after=None)
    if step is None:
        raise PasswordInvalid
    return {
        "totp_secret": secret,
        "totp_step": step,
        "pending_secret": None,
        "pending_until": None,
    }


async def _finish(
    tx: Tx, log: ScopeLog, revocations: RevocationList, caller: CurrentSession, change: str
) -> None:
    tell_devices(log, caller.user_id, change)
    record(tx, SecurityEvent(f"second_factor_{change}", caller.user_id, caller.session_id))
    await delete_password_tokens(tx, caller.user_id)
    await end_all_sessions(
        tx, log, revocations=revocations, user_id=caller.user_id, but=caller.session_id
    )


def _list_words(me: MeView) -> list[str]:
    """What a guesser who knows the person begins with."""
    phone = me["phone"] or ""
    words = (phone, phone.lstrip("+"), me["username"], me["first_name"], me["last_name"])
    return [word for word in words if word]
