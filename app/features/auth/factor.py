"""The second factor of a person as it is stored. The lock of the person's scope guards it: sign-ins
and changes read it after taking that.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from sqlalchemy import delete, or_, select, update

from app.features.auth.models import FactorTryRow, PasswordTokenRow, SecondFactorRow
from app.features.auth.recovery_codes import count_recovery_codes, delete_recovery_codes
from app.features.updates.log import ScopeLog
from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring, KeyUnreadable, user_key
from app.infra.cipher.revisions import raise_revision, revision_of
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope

_TABLE = "second_factors"
_SECRETS = ("password_hash", "totp_secret", "pending_secret")


@dataclass(frozen=True, slots=True, repr=False)
class Factor:
    """Opened; empty where nothing is set. Never shown."""

    password_hash: bytes | None = None
    totp_secret: str | None = None
    totp_step: int | None = None
    pending_secret: str | None = None
    pending_until: datetime | None = None
    reset_asked_at: datetime | None = None
    reset_at: datetime | None = None

    @property
    def is_on(self) -> bool:
        """Signing in asks for it."""
        return self.password_hash is not None or self.totp_secret is not None


class ResetView(TypedDict):
    asked_at: str
    reset_at: str


class TwoStepView(TypedDict):
    is_on: bool
    has_password: bool
    has_totp: bool
    recovery_codes_left: int
    reset: ResetView | None


async def has_factor(tx: Tx, user_id: UserId) -> bool:
    """Whether signing in asks for one."""
    statement = select(SecondFactorRow.user_id).where(
        SecondFactorRow.user_id == user_id,
        or_(SecondFactorRow.password_hash.is_not(None), SecondFactorRow.totp_secret.is_not(None)),
    )
    return await tx.scalar(statement) is not None


async def load_factor(tx: Tx, keyring: Keyring, user_id: UserId) -> Factor:
    """Raises:
    key_unreadable: a secret does not open. Without it nobody signs in, least of all who damaged it.
    """
    row = await tx.first(
        select(
            SecondFactorRow.password_hash,
            SecondFactorRow.totp_secret,
            SecondFactorRow.totp_step,
            SecondFactorRow.pending_secret,
            SecondFactorRow.pending_until,
            SecondFactorRow.reset_asked_at,
            SecondFactorRow.reset_at,
            revision_of(SecondFactorRow, SecondFactorRow.user_id).label("revision"),
        ).where(SecondFactorRow.user_id == user_id)
    )
    if row is None:
        return Factor()
    key = await keyring.require(tx, user_key(user_id))
    return Factor(
        password_hash=_open(key, "password_hash", user_id, row.password_hash, row.revision),
        totp_secret=_open_text(key, "totp_secret", user_id, row.totp_secret, row.revision),
        totp_step=row.totp_step,
        pending_secret=_open_text(key, "pending_secret", user_id, row.pending_secret, row.revision),
        pending_until=row.pending_until,
        reset_asked_at=row.reset_asked_at,
        reset_at=row.reset_at,
    )


async def store_factor(tx: Tx, keyring: Keyring, user_id: UserId, **values: object) -> None:
    """Write columns of the row, which is made if need be. `bytes` and texts are secrets and sealed,
    whatever ENCRYPT_PERSONAL_DATA says. Those that stay are sealed anew beside them: an earlier
    password that is put back does not open.
    """
    key = await keyring.require(tx, user_key(user_id))
    kept = await load_factor(tx, keyring, user_id)
    secrets = {name: getattr(kept, name) for name in _SECRETS} | values
    revision = await raise_revision(tx, SecondFactorRow, user_id)
    sealed = {name: _seal(key, name, user_id, value, revision) for name, value in secrets.items()}
    row = {"user_id": user_id, "changed_at": tx.now}
    await insert_ignore(tx, SecondFactorRow, [row], index=["user_id"])
    await tx.execute(
        update(SecondFactorRow)
        .where(SecondFactorRow.user_id == user_id)
        .values(sealed | {"changed_at": tx.now})
    )


async def forget_factor(tx: Tx, user_id: UserId) -> None:
    """Remove the second factor with all that hangs on it; also for accounts that end."""
    await delete_recovery_codes(tx, user_id)
    await delete_password_tokens(tx, user_id)
    await tx.execute(delete(FactorTryRow).where(FactorTryRow.user_id == user_id))
    await tx.execute(delete(SecondFactorRow).where(SecondFactorRow.user_id == user_id))
    await raise_revision(tx, SecondFactorRow, user_id)


async def delete_password_tokens(tx: Tx, user_id: UserId) -> None:
    """Sign-ins that were half done under another factor begin anew."""
    await tx.execute(delete(PasswordTokenRow).where(PasswordTokenRow.user_id == user_id))


async def render_factor(tx: Tx, factor: Factor, user_id: UserId) -> TwoStepView:
    reset: ResetView | None = None
    if factor.reset_asked_at is not None and factor.reset_at is not None:
        reset = ResetView(
            asked_at=format_time(factor.reset_asked_at), reset_at=format_time(factor.reset_at)
        )
    return TwoStepView(
        is_on=factor.is_on,
        has_password=factor.password_hash is not None,
        has_totp=factor.totp_secret is not None,
        recovery_codes_left=await count_recovery_codes(tx, user_id),
        reset=reset,
    )


def list_methods(factor: Factor) -> list[str]:
    """What is set, in the words of the wire."""
    methods = {"password": factor.password_hash, "totp": factor.totp_secret}
    return [name for name, secret in methods.items() if secret is not None]


def tell_devices(
    log: ScopeLog, user_id: UserId, change: str, *, reset_at: datetime | None = None
) -> None:
    """`two_step_changed` to all devices of the person. `log` holds the person's scope."""
    content = {"change": change, "reset_at": reset_at and format_time(reset_at)}
    log.append(user_scope(user_id), "two_step_changed", data=content, content=content)


def _open(
    key: DataKey, column: str, user_id: UserId, value: bytes | None, revision: int
) -> bytes | None:
    if value is None:
        return None
    try:
        return key.open(value, table=_TABLE, column=column, row_id=user_id, revision=revision)
    except CiphertextInvalid:
        raise KeyUnreadable from None


def _open_text(
    key: DataKey, column: str, user_id: UserId, value: bytes | None, revision: int
) -> str | None:
    opened = _open(key, column, user_id, value, revision)
    return None if opened is None else opened.decode()


def _seal(key: DataKey, column: str, user_id: UserId, value: object, revision: int) -> object:
    match value:
        case str():
            return key.seal_text(
                value, table=_TABLE, column=column, row_id=user_id, revision=revision
            )
        case bytes():
            return key.seal(value, table=_TABLE, column=column, row_id=user_id, revision=revision)
        case _:
            return value
