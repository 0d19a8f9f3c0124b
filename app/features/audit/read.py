"""Read the record: rows with their personal part opened, where its key still exists."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import orjson
from sqlalchemy import ColumnElement, func, select

from app.features.audit.chain import COLUMNS
from app.features.audit.models import AuditEventRow
from app.features.audit.write import PERSONAL_PLACE, owner_of
from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.events import Detail
from app.kernel.ids import SessionId, UserId

REFUSALS = ("token_refused", "permission_refused", "not_found", "rate_limited", "sign_in_refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """A row as it may be read. `seq` is None while it is queued. `personal` holds `address`,
    `subjects` and what else was sealed; it is empty if the key was destroyed, or nobody asked.
    """

    id: int
    seq: int | None
    name: str
    at: datetime
    count: int
    user_id: UserId | None
    session_id: SessionId | None
    phone_id: int | None
    request_id: str | None
    details: Mapping[str, Detail]
    personal: Mapping[str, Any] = field(repr=False)

    @property
    def address(self) -> str | None:
        return self.personal.get("address")

    @property
    def subjects(self) -> Sequence[str]:
        return self.personal.get("subjects", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to look for; all that is given must hold. `since` is inclusive, `until` is not."""

    name: str | None = None
    user_id: int | None = None
    session_id: int | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after_id: int | None = None
    before_id: int | None = None


async def list_newest(
    tx: Tx, keyring: Keyring | None, wanted: Filter, *, limit: int
) -> list[RecordedEvent]:
    """The newest that fit, the oldest of them first. Without a keyring nothing personal is opened."""
    statement = select(*COLUMNS).where(*_conditions(wanted))
    rows = await tx.all(statement.order_by(AuditEventRow.id.desc()).limit(limit))
    return await open_rows(tx, keyring, list(reversed(rows)))


async def open_rows(tx: Tx, keyring: Keyring | None, rows: Sequence[Any]) -> list[RecordedEvent]:
    """`rows` of the chain's `COLUMNS`, in their order, all keys in one query."""
    keys: dict[str, DataKey] = {}
    if keyring is not None:
        sealed = [row for row in rows if row.personal is not None]
        keys = await keyring.load(tx, {owner_of(row.user_id, row.phone_id) for row in sealed})
    return [_open(row, keys.get(owner_of(row.user_id, row.phone_id))) for row in rows]


def _open(row: Any, key: DataKey | None) -> RecordedEvent:
    return RecordedEvent(
        id=row.id,
        seq=row.seq,
        name=row.name,
        at=row.at,
        count=row.count,
        user_id=row.user_id,
        session_id=row.session_id,
        phone_id=row.phone_id,
        request_id=row.request_id,
        details=_load(row.details.encode()),
        personal=_open_personal(row, key),
    )


def _open_personal(row: Any, key: DataKey | None) -> Mapping[str, Any]:
    if key is None or row.personal is None:
        return {}
    table, column = PERSONAL_PLACE
    try:
        return _load(key.open(row.personal, table=table, column=column, row_id=row.id))
    except CiphertextInvalid:
        # A row that was tampered with: `verify` tells, and the rest stays readable.
        return {}


def _load(document: bytes) -> Mapping[str, Any]:
    """Whatever stands there after somebody changed it, a reader gets a document."""
    try:
        value = cast("object", orjson.loads(document))
    except orjson.JSONDecodeError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    row = AuditEventRow
    conditions: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        # By its beginning as well: `alert_` finds every alert.
        "name": lambda value: row.name.startswith(value, autoescape=True),
        "user_id": lambda value: row.user_id == value,
        "session_id": lambda value: row.session_id == value,
        "request_id": lambda value: row.request_id == value,
        "since": lambda value: row.at >= value,
        "until": lambda value: row.at < value,
        "after_id": lambda value: row.id > value,
        "before_id": lambda value: row.id < value,
    }
    values = {name: getattr(wanted, name) for name in conditions}
    return [conditions[name](value) for name, value in values.items() if value is not None]


@dataclass(frozen=True, slots=True)
class Total:
    """`count` events in `rows` rows."""

    name: str
    count: int
    rows: int


async def count_by_name(tx: Tx, *, since: datetime) -> list[Total]:
    """Every name that occurred, the most frequent first."""
    count = func.sum(AuditEventRow.count)
    found = await tx.all(
        select(AuditEventRow.name, count, func.count())
        .where(AuditEventRow.at >= since)
        .group_by(AuditEventRow.name)
        .order_by(count.desc(), AuditEventRow.name)
    )
    return [Total(name, int(total), rows) for name, total, rows in found]


async def count_refusals_by_user(tx: Tx, *, since: datetime, limit: int) -> list[tuple[int, int]]:
    """Who was refused most: (user id, times)."""
    count = func.sum(AuditEventRow.count)
    found = await tx.all(
        select(AuditEventRow.user_id, count)
        .where(
            AuditEventRow.at >= since,
            AuditEventRow.user_id.is_not(None),
            AuditEventRow.name.in_(REFUSALS),
        )
        .group_by(AuditEventRow.user_id)
        .order_by(count.desc())
        .limit(limit)
    )
    return [(user_id, int(total)) for user_id, total in found if user_id is not None]
