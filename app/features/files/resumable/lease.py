"""One body with a checksum at a time of an upload: all of it lies in the storage before any of it counts.

The lease is a note of an object that nobody writes. Whoever lets it go, or is killed, leaves what the job of
doomed objects takes away like any other.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, false, insert, select, update

from app.features.files.models import DoomedObjectRow
from app.features.files.resumable.upload import Upload
from app.infra.database.tx import Tx

# Whoever has not been heard of for so long was killed, and another may try: soon, for a client waits for it.
BODY_LEASE: Final = timedelta(seconds=15)


async def take_lease(tx: Tx, upload: Upload) -> bool:
    """False: somebody else has it. The upload's row is locked."""
    row = await tx.first(
        select(DoomedObjectRow.due_at, DoomedObjectRow.is_taken).where(
            DoomedObjectRow.object_name == _name(upload)
        )
    )
    if row is None:
        note: dict[str, object] = {
            "object_name": _name(upload),
            "owner_id": None,
            "is_taken": False,
            "due_at": tx.now + BODY_LEASE,
        }
        await tx.execute(insert(DoomedObjectRow).values(note))
        return True
    return row.due_at <= tx.now and not row.is_taken and await renew_lease(tx, upload)


async def renew_lease(tx: Tx, upload: Upload) -> bool:
    """False: it is being taken away."""
    statement = update(DoomedObjectRow).where(
        DoomedObjectRow.object_name == _name(upload), DoomedObjectRow.is_taken == false()
    )
    return await tx.execute(statement.values(due_at=tx.now + BODY_LEASE)) == 1


async def end_lease(tx: Tx, upload: Upload) -> None:
    await tx.execute(
        delete(DoomedObjectRow).where(
            DoomedObjectRow.object_name == _name(upload), DoomedObjectRow.is_taken == false()
        )
    )


def _name(upload: Upload) -> str:
    return f"body-of-{upload.token}"
