"""Phone numbers that events before sign-in are about: who asks for a code has no account that could own a key.

Each number has a key of its own for each day on which a code was asked for it, whether or not anybody is
registered by it, so that keys tell nothing and there are no more of them than codes. With the account, or
with the retention of events, the keys of its number are destroyed.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from app.features.audit.models import AuditPhoneRow
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.clock import to_milliseconds

_DAY_MILLISECONDS = 86_400_000
_BATCH = 1_000


def phone_key(phone_id: int) -> str:
    """The owner's name of what the record says about a number on a day."""
    return f"phone:{phone_id}"


async def ensure_phones(
    tx: Tx, keyring: Keyring, phone_indexes: Collection[bytes]
) -> dict[bytes, int]:
    """Today's id of each number, with its key. The caller has counted the request against the limits of
    codes, which bound how many there can be.
    """
    if not phone_indexes:
        return {}
    day = _day_of(tx.now)
    rows = [{"phone_index": index, "day": day} for index in sorted(phone_indexes)]
    await insert_ignore(tx, AuditPhoneRow, rows, index=["phone_index", "day"])
    ids = await find_phones(tx, phone_indexes)
    owners = [phone_key(phone_id) for phone_id in ids.values()]
    known = await keyring.load(tx, owners)
    await keyring.create_many(tx, [owner for owner in owners if owner not in known])
    return ids


async def find_phones(tx: Tx, phone_indexes: Collection[bytes]) -> dict[bytes, int]:
    """The newest id of each number for which a code was asked today or yesterday; makes none: what is
    refused may name any number.
    """
    if not phone_indexes:
        return {}
    since = _day_of(tx.now) - 1
    found = await tx.all(
        select(AuditPhoneRow.phone_index, AuditPhoneRow.id)
        .where(AuditPhoneRow.phone_index.in_(phone_indexes), AuditPhoneRow.day >= since)
        .order_by(AuditPhoneRow.day)
    )
    return {row.phone_index: row.id for row in found}


async def list_phone_ids(tx: Tx, phone_indexes: Iterable[bytes]) -> list[int]:
    """All ids of a number, one for each day."""
    row = AuditPhoneRow
    statement = select(row.id).where(row.phone_index.in_(list(phone_indexes)))
    return list(await tx.scalars(statement.order_by(row.id)))


async def forget_phone(tx: Tx, keyring: Keyring, phone_index: bytes) -> None:
    """Nothing that the record says about the number opens again, nor is it found by it."""
    ids = await list_phone_ids(tx, [phone_index])
    await _destroy(tx, keyring, ids)


async def move_phones(tx: Tx, changes: Mapping[bytes, bytes]) -> None:
    """When INDEX_KEY is changed: from a number's older index to its newer one. What a day has under both
    stays under the older one, until it expires.
    """
    row = AuditPhoneRow
    for older, newer in changes.items():
        taken = select(row.day).where(row.phone_index == newer)
        await tx.execute(
            update(row)
            .where(row.phone_index == older, row.day.not_in(taken.scalar_subquery()))
            .values(phone_index=newer)
        )


async def prune_phones(db: Database, keyring: Keyring, *, retention: timedelta) -> None:
    """Destroy what is older than every event that it sealed may become, in small transactions."""

    async def work(tx: Tx) -> int:
        row = AuditPhoneRow
        some = select(row.id).where(row.day < _day_of(tx.now - retention)).limit(_BATCH)
        ids = list(await tx.scalars(some))
        await _destroy(tx, keyring, ids)
        return len(ids)

    while await db.write(work, timeout_seconds=LONG_SECONDS):
        pass


async def _destroy(tx: Tx, keyring: Keyring, ids: Collection[int]) -> None:
    if not ids:
        return
    await keyring.destroy(tx, [phone_key(phone_id) for phone_id in ids])
    await tx.execute(delete(AuditPhoneRow).where(AuditPhoneRow.id.in_(ids)))


def _day_of(moment: datetime) -> int:
    """Whole days of UTC since 1970."""
    return to_milliseconds(moment) // _DAY_MILLISECONDS
