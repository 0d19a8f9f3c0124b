"""The record of what concerned a person: it outlives the account, unreadable in what is personal; exported."""

from collections.abc import Sequence
from typing import cast

import orjson
from sqlalchemy import select

from app.features.audit.chain import COLUMNS
from app.features.audit.models import AuditEventRow
from app.features.audit.phones import forget_phone, list_phone_ids
from app.features.audit.read import open_rows
from app.features.audit.write import ALERT_PREFIX, PERSONAL_PLACE
from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.addresses import place_of
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages

_PAGE = 500


class AuditPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """What is personal goes with the person's key, what came before sign-in with those of the
        number; the chain stays whole.
        """
        if leaver.phone_index is not None:
            await forget_phone(tx, services.keyring, leaver.phone_index)

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Nothing is left for later."""

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """Every event of the person, without what it was compared by."""
        pages = in_pages(services.db, lambda tx, after: _page(tx, services.keyring, user_id, after))
        return [Section("events", pages)]


async def _page(tx: Tx, keyring: Keyring, user_id: UserId, after: int) -> Page:
    statement = (
        select(
            AuditEventRow.id,
            AuditEventRow.name,
            AuditEventRow.at,
            AuditEventRow.count,
            AuditEventRow.session_id,
            AuditEventRow.details,
            AuditEventRow.personal,
        )
        .where(AuditEventRow.user_id == user_id, AuditEventRow.id > after)
        .order_by(AuditEventRow.id)
        .limit(_PAGE)
    )
    rows = await tx.all(statement)
    key = await keyring.require(tx, user_key(user_id))
    items = [
        {
            "name": row.name,
            "at": format_time(row.at),
            "count": row.count,
            "session_id": row.session_id,
            "details": orjson.loads(row.details),
            "personal": _open(key, row.id, row.personal),
        }
        for row in rows
    ]
    return items, rows[-1].id if len(rows) == _PAGE else None


async def read_phone_page(tx: Tx, keyring: Keyring, phone_index: bytes, after: int) -> Page:
    """Events from before sign-in that are about a number, for whoever has the account. Anybody may have asked:
    of the address only the place is told, as in the list of devices.
    """
    ids = await list_phone_ids(tx, [phone_index])
    row = AuditEventRow
    statement = select(*COLUMNS).where(row.phone_id.in_(ids), row.id > after).order_by(row.id)
    events = await open_rows(tx, keyring, await tx.all(statement.limit(_PAGE)))
    items = [
        {
            "name": event.name,
            "at": format_time(event.at),
            "count": event.count,
            "place": place_of(event.address) if event.address else None,
        }
        for event in events
        if not event.name.startswith(ALERT_PREFIX)
    ]
    return items, events[-1].id if len(events) == _PAGE else None


def _open(key: DataKey, row_id: int, value: bytes | None) -> dict[str, object]:
    if value is None:
        return {}
    table, column = PERSONAL_PLACE
    try:
        plain = key.open(value, table=table, column=column, row_id=row_id)
    except CiphertextInvalid:
        return {}
    personal = cast("dict[str, object]", orjson.loads(plain))
    return {name: text for name, text in personal.items() if name != "subjects"}
