"""Taking back the room of files that nobody reads any more: first the file, then its bytes, then the objects.

Each step is a small transaction of its own, and safe to repeat: progress lies in what is gone.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import delete, exists, select, update

from app.features.files.doomed import doom_objects, is_any_due, strike_off, take_due
from app.features.files.models import (
    BlobRow,
    FileRow,
    FileUseRow,
    FileWorkRow,
    RenditionRow,
    UploadRow,
)
from app.features.files.queries import lock_files
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import Keyring, blob_key
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.infra.storage.port import StorageUnavailable
from app.kernel.ids import BlobId, FileId, UserId
from app.kernel.scopes import user_scope

_BATCH: Final = 100
_AT_ONCE: Final = 8
# For this long a worker has what it took to itself.
_TAKEN_FOR: Final = timedelta(minutes=5)

log = structlog.stdlib.get_logger("app.files")


async def end_unused_files(db: Database, *, before: datetime) -> int:
    """Uploads that nobody has shown anywhere since `before`. How many."""

    async def work(tx: Tx) -> int:
        is_late = FileRow.unused_since < before
        waiting = select(FileRow.id).where(is_late, FileRow.ended_at.is_(None))
        found = await tx.scalars(waiting.order_by(FileRow.unused_since).limit(_BATCH))
        # Whoever shows one of them at this moment has locked it, and it is not late any more.
        locked = await lock_files(tx, found)
        return await tx.execute(
            update(FileRow).where(FileRow.id.in_(locked), is_late).values(ended_at=tx.now)
        )

    ended = 0
    while await db.read(lambda tx: _is_any_unused(tx, before)):
        ended += await db.write(work)
    return ended


async def delete_ended_files(db: Database, keyring: Keyring, *, before: datetime) -> int:
    """Files that ended before, and the bytes that were theirs alone. How many files."""
    deleted = 0
    while ended := await db.read(lambda tx: _list_ended(tx, before)):
        for owner_id in {owner_id for owner_id, _ in ended}:
            ids = [file_id for of_owner, file_id in ended if of_owner == owner_id]
            await db.write(
                lambda tx, owner_id=owner_id, ids=ids: _delete_files(tx, keyring, owner_id, ids)
            )
        deleted += len(ended)
    return deleted


async def delete_doomed_objects(services: Services) -> int:
    """What lies in the storage and belongs to nobody. How many."""
    db, deleted = services.db, 0
    while await db.read(is_any_due):
        names = await db.write(lambda tx: take_due(tx, limit=_BATCH, again_after=_TAKEN_FOR))
        gone = await _delete_objects(services, names)
        await db.write(lambda tx, gone=gone: strike_off(tx, gone))
        deleted += len(gone)
        if len(gone) < len(names):
            break
    return deleted


async def _delete_objects(services: Services, names: Sequence[str]) -> list[str]:
    """Those that are gone; the others stay noted, for another time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def remove(name: str) -> str | None:
        async with places:
            try:
                await services.storage.delete(name)
            except StorageUnavailable as problem:
                log.warning("object_not_deleted", code=problem.code)
                return None
            return name

    gone = await asyncio.gather(*(remove(name) for name in names))
    return [name for name in gone if name is not None]


async def _is_any_unused(tx: Tx, before: datetime) -> bool:
    statement = select(FileRow.id).where(FileRow.unused_since < before, FileRow.ended_at.is_(None))
    return await tx.first(statement.limit(1)) is not None


async def _list_ended(tx: Tx, before: datetime) -> list[tuple[UserId, FileId]]:
    # Of a file that went with its owner's account others may have made uses: they are told first.
    is_shown = exists().where(FileUseRow.file_id == FileRow.id)
    statement = (
        select(FileRow.owner_id, FileRow.id)
        .where(FileRow.ended_at <= before, ~is_shown)
        .order_by(FileRow.ended_at)
        .limit(_BATCH)
    )
    return [(row.owner_id, row.id) for row in await tx.all(statement)]


async def _delete_files(
    tx: Tx, keyring: Keyring, owner_id: UserId, file_ids: Sequence[FileId]
) -> None:
    """Under the lock of their owner's scope, under which an equal upload would take up their bytes."""
    await lock_scopes(tx, [user_scope(owner_id)])
    mine = FileRow.id.in_(file_ids)
    blob_ids = set(await tx.scalars(select(FileRow.blob_id).where(mine)))
    await tx.execute(delete(FileWorkRow).where(FileWorkRow.file_id.in_(file_ids)))
    await tx.execute(update(UploadRow).where(UploadRow.file_id.in_(file_ids)).values(file_id=None))
    await tx.execute(delete(FileRow).where(mine))
    await _delete_blobs(tx, keyring, blob_ids)


async def _delete_blobs(tx: Tx, keyring: Keyring, blob_ids: Collection[BlobId]) -> None:
    """Those that no file refers to, with their keys: from the commit on what lies in the storage is noise."""
    is_used = exists().where(FileRow.blob_id == BlobRow.id)
    statement = select(BlobRow.id, BlobRow.object_name).where(BlobRow.id.in_(blob_ids), ~is_used)
    blobs = await tx.all(statement)
    ids = [blob.id for blob in blobs]
    of_blobs = RenditionRow.blob_id.in_(ids)
    made = await tx.scalars(select(RenditionRow.object_name).where(of_blobs))
    await doom_objects(tx, [*(blob.object_name for blob in blobs), *made])
    await tx.execute(delete(RenditionRow).where(of_blobs))
    await tx.execute(delete(BlobRow).where(BlobRow.id.in_(ids)))
    await keyring.destroy(tx, [blob_key(blob_id) for blob_id in ids])
