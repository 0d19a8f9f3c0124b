"""Objects that are to be deleted: noted before they are written, and struck out when they are somebody's.

Whoever writes objects moves the time of their notes on. Whoever deletes them takes the notes first; an upload
that finds one of its own taken is refused, so that no row ever refers to bytes that are being deleted.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, false, insert, select, update

from app.features.files.models import DoomedObjectRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert
from app.kernel.ids import UserId

# Whoever has not been heard of for so long is over: its process was killed.
LEASE: Final = timedelta(minutes=10)


async def note_objects(
    tx: Tx, names: Sequence[str], *, owner_id: UserId | None = None, reserved: int | None = None
) -> None:
    """Before any of them is written, in a transaction of its own. `owner_id`: it is this person's upload, which may
    take `reserved` bytes.
    """
    rows = [
        {
            "object_name": name,
            "owner_id": owner_id,
            "reserved": reserved,
            "is_taken": False,
            "due_at": tx.now + LEASE,
        }
        for name in names
    ]
    await tx.execute(insert(DoomedObjectRow), rows)


async def reserve(tx: Tx, name: str, size: int) -> None:
    """What the upload of this object may take from now on, in bytes of the storage."""
    mine = DoomedObjectRow.object_name == name
    await tx.execute(update(DoomedObjectRow).where(mine).values(reserved=size))


async def renew_notes(tx: Tx, names: Sequence[str]) -> None:
    statement = update(DoomedObjectRow).where(
        DoomedObjectRow.object_name.in_(names), DoomedObjectRow.is_taken == false()
    )
    await tx.execute(statement.values(due_at=tx.now + LEASE))


async def strike_out(tx: Tx, names: Sequence[str]) -> bool:
    """In the transaction that makes the objects somebody's; False: one is being deleted, and none may be."""
    statement = delete(DoomedObjectRow).where(
        DoomedObjectRow.object_name.in_(names), DoomedObjectRow.is_taken == false()
    )
    return await tx.execute(statement) == len(set(names))


async def give_up(tx: Tx, names: Sequence[str]) -> None:
    """Let notes fall due. Those that were struck out are nobody's to give up: their objects are somebody's."""
    await tx.execute(
        update(DoomedObjectRow)
        .where(DoomedObjectRow.object_name.in_(names))
        .values(owner_id=None, due_at=tx.now)
    )


async def doom_objects(tx: Tx, names: Sequence[str]) -> None:
    """At once, in the transaction that ends what referred to them."""
    rows = [
        {"object_name": name, "owner_id": None, "is_taken": False, "due_at": tx.now}
        for name in dict.fromkeys(names)
    ]
    if rows:
        update_too = ["owner_id", "is_taken", "due_at"]
        await upsert(tx, DoomedObjectRow, rows, index=["object_name"], update=update_too)


async def is_any_due(tx: Tx) -> bool:
    statement = select(DoomedObjectRow.object_name).where(DoomedObjectRow.due_at <= tx.now)
    return await tx.first(statement.limit(1)) is not None


async def take_due(tx: Tx, *, limit: int, again_after: timedelta) -> Sequence[str]:
    """Names that are to be deleted now; another worker looks at them only after a while, should we be killed."""
    statement = (
        select(DoomedObjectRow.object_name)
        .where(DoomedObjectRow.due_at <= tx.now)
        .order_by(DoomedObjectRow.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    names = await tx.scalars(statement)
    if names:
        await tx.execute(
            update(DoomedObjectRow)
            .where(DoomedObjectRow.object_name.in_(names))
            .values(owner_id=None, is_taken=True, due_at=tx.now + again_after)
        )
    return names


async def strike_off(tx: Tx, names: Sequence[str]) -> None:
    """They are deleted."""
    await tx.execute(
        delete(DoomedObjectRow).where(
            DoomedObjectRow.object_name.in_(names), DoomedObjectRow.is_taken
        )
    )
