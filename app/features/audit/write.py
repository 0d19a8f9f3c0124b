"""Events become queued rows: their personal part sealed, the rest also a line of the log."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace

import orjson
import structlog
from sqlalchemy import insert

from app.features.audit.chain import mac_key, mac_of
from app.features.audit.models import AuditEventRow
from app.features.audit.phones import ensure_phones, find_phones, phone_key
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import SERVER_KEY, Keyring, user_key
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId

ALERT_PREFIX = "alert_"
PERSONAL_PLACE = ("audit_events", "personal")

log = structlog.stdlib.get_logger("app.security")


@dataclass(frozen=True, slots=True)
class Entry:
    """`count` events of one source since `at`; `subjects`: what they were about, in their order."""

    event: SecurityEvent
    at: datetime
    count: int = 1
    subjects: Sequence[str] = ()


def event_writer(keyring: Keyring) -> Callable[[Tx, Sequence[SecurityEvent]], Awaitable[None]]:
    """What `Database.write_events` asks for."""

    async def write(tx: Tx, events: Sequence[SecurityEvent]) -> None:
        await ensure_phones(tx, keyring, {e.phone_index for e in events if e.phone_index})
        subjects = [[event.subject] if event.subject else [] for event in events]
        entries = [
            Entry(event, tx.now, subjects=about)
            for event, about in zip(events, subjects, strict=True)
        ]
        await write_entries(tx, keyring, entries)

    return write


async def write_entries(tx: Tx, keyring: Keyring, entries: Sequence[Entry]) -> None:
    """Queue one row each, in their order; the lines of the log leave after the commit."""
    ids = await tx.reserve_ids(AuditEventRow, len(entries))
    wanted = {entry.event.phone_index for entry in entries if entry.event.phone_index}
    phones = await find_phones(tx, wanted)
    phone_ids = [phones.get(entry.event.phone_index or b"") for entry in entries]
    owners = [
        owner_of(entry.event.user_id, phone_id)
        for entry, phone_id in zip(entries, phone_ids, strict=True)
    ]
    keys = await keyring.load(tx, owners)
    mac = mac_key(keyring)
    rows = [
        _row(row_id, entry, phone_id, keys.get(owner), mac=mac)
        for row_id, entry, phone_id, owner in zip(ids, entries, phone_ids, owners, strict=True)
    ]
    await tx.execute(insert(AuditEventRow), rows)
    tx.after_commit(lambda: _log(entries))


def owner_of(user_id: UserId | None, phone_id: int | None) -> str:
    """Whose key seals the personal part."""
    if phone_id is not None:
        return phone_key(phone_id)
    return SERVER_KEY if user_id is None else user_key(user_id)


def _row(
    row_id: int, entry: Entry, phone_id: int | None, key: DataKey | None, *, mac: bytes
) -> dict[str, object]:
    event = entry.event
    row: dict[str, object] = {
        "id": row_id,
        "name": event.name,
        "at": entry.at,
        "count": entry.count,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "phone_id": phone_id,
        "request_id": event.request_id,
        "details": orjson.dumps(dict(event.details), option=orjson.OPT_SORT_KEYS).decode(),
        "personal": _seal(row_id, entry, phone_id, key),
    }
    return row | {"mac": mac_of(mac, SimpleNamespace(**row))}


def _seal(row_id: int, entry: Entry, phone_id: int | None, key: DataKey | None) -> bytes | None:
    """None where there is nothing, and where the person's key was destroyed: they are forgotten. A number
    that has no key is not named, nor anything that leads to it.
    """
    is_unnamed = entry.event.phone_index is not None and phone_id is None
    personal: dict[str, object] = {} if is_unnamed else dict(entry.event.personal)
    if entry.event.address is not None:
        personal["address"] = entry.event.address
    subjects = list(entry.subjects)
    if phone_id is not None and entry.event.phone_index is not None:
        subjects.append(entry.event.phone_index.hex())
    if subjects:
        personal["subjects"] = subjects
    if key is None or not personal:
        return None
    table, column = PERSONAL_PLACE
    return key.seal(orjson.dumps(personal), table=table, column=column, row_id=row_id)


def _log(entries: Sequence[Entry]) -> None:
    for entry in entries:
        event = entry.event
        write = log.warning if event.name.startswith(ALERT_PREFIX) else log.info
        members = {name: value for name, value in event.details.items() if value is not None}
        if event.request_id is not None:
            members["request_id"] = event.request_id
        if entry.count > 1:
            members["count"] = entry.count
        # What the event says of itself, not what the request at hand would add.
        write(event.name, **members, user_id=event.user_id, session_id=event.session_id)
