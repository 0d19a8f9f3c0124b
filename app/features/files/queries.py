"""SQL of files."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Executable, Select, and_, func, select

from app.features.files.models import (
    BlobRow,
    DoomedObjectRow,
    FileRow,
    FileUseRow,
    RenditionRow,
    UploadRow,
)
from app.features.files.resumable.upload import FINISHING, RECEIVING
from app.features.files.views import FileRecord, RenditionRecord
from app.infra.cipher.chunks import TAG_BYTES
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import BlobId, FileId, UploadId, UserId

_RECORD = (
    FileRow.id,
    FileRow.owner_id,
    FileRow.blob_id,
    FileRow.name,
    FileRow.file_type,
    FileRow.mime_type,
    FileRow.details,
    FileRow.state,
    FileRow.created_at,
    BlobRow.size,
)
_LIVE = FileRow.ended_at.is_(None)


class StoredFile(NamedTuple):
    """A file, and the object that one of its doors opens: its own, or that of a thumbnail."""

    id: FileId
    owner_id: UserId
    blob_id: BlobId
    file_type: str
    mime_type: str
    details: bytes
    object_name: str
    size: int
    chunk_size: int


def _make_load(dialect: Dialect) -> Executable:
    return (
        select(*_RECORD)
        .join(BlobRow, BlobRow.id == FileRow.blob_id)
        .where(is_listed(dialect, FileRow.id), _LIVE)
    )


def _make_lock(dialect: Dialect) -> Select[FileId]:
    statement = select(FileRow.id).where(is_listed(dialect, FileRow.id), _LIVE)
    # In the order of ids, so that nobody deadlocks.
    statement = statement.order_by(FileRow.id)
    return statement if dialect == "sqlite" else statement.with_for_update(key_share=True)


def _make_renditions(dialect: Dialect) -> Executable:
    columns = (RenditionRow.blob_id, RenditionRow.kind, RenditionRow.width, RenditionRow.height)
    return select(*columns).where(is_listed(dialect, RenditionRow.blob_id))


_LOAD = by_dialect(_make_load)
_LOCK = by_dialect(_make_lock)
_RENDITIONS = by_dialect(_make_renditions)


async def load_records(tx: Tx, file_ids: Collection[FileId]) -> dict[FileId, FileRecord]:
    """Those that live."""
    if not file_ids:
        return {}
    rows = await tx.all(_LOAD[tx.dialect], id_parameters(tx.dialect, file_ids))
    return {row.id: FileRecord(*row) for row in rows}


async def lock_files(tx: Tx, file_ids: Collection[FileId]) -> set[FileId]:
    """Lock those that live to the end of the transaction."""
    if not file_ids:
        return set()
    return set(await tx.scalars(_LOCK[tx.dialect], id_parameters(tx.dialect, file_ids)))


async def load_renditions(tx: Tx, blob_ids: Collection[BlobId]) -> list[RenditionRecord]:
    if not blob_ids:
        return []
    rows = await tx.all(_RENDITIONS[tx.dialect], id_parameters(tx.dialect, set(blob_ids)))
    return [RenditionRecord(*row) for row in rows]


async def find_stored(tx: Tx, name: str, *, thumbnail: str | None) -> StoredFile | None:
    """A file that lives, by its name in the URL."""
    file = (FileRow.id, FileRow.owner_id, FileRow.blob_id, FileRow.file_type)
    if thumbnail is None:
        statement = select(
            *file,
            FileRow.mime_type,
            FileRow.details,
            BlobRow.object_name,
            BlobRow.size,
            BlobRow.chunk_size,
        ).join(BlobRow, BlobRow.id == FileRow.blob_id)
    else:
        is_wanted = and_(RenditionRow.blob_id == FileRow.blob_id, RenditionRow.kind == thumbnail)
        statement = select(
            *file,
            FileRow.mime_type,
            FileRow.details,
            RenditionRow.object_name,
            RenditionRow.size,
            RenditionRow.chunk_size,
        ).join(RenditionRow, is_wanted)
    row = await tx.first(statement.where(FileRow.name == name, _LIVE))
    return None if row is None else StoredFile(*row)


async def list_subjects_of(tx: Tx, file_id: FileId, kind: str, *, limit: int) -> Sequence[int]:
    """What shows the file, in no order."""
    is_of = (FileUseRow.file_id == file_id, FileUseRow.kind == kind)
    return await tx.scalars(select(FileUseRow.subject_id).where(*is_of).limit(limit))


async def sum_taken(
    tx: Tx,
    owner_id: UserId,
    *,
    chunk_size: int,
    beside: UploadId | None = None,
    beside_object: str = "",
) -> int:
    """Bytes that a person's files take, with all that was made of them, those that uploads under way have reserved,
    and those that resumable ones will take as files of this `chunk_size`, from their beginning until they are
    files. `beside`, and the upload of `beside_object`, are left out.
    """
    files = select(func.sum(BlobRow.stored_size)).where(BlobRow.owner_id == owner_id)
    running = select(func.sum(DoomedObjectRow.reserved)).where(
        DoomedObjectRow.owner_id == owner_id,
        DoomedObjectRow.due_at > tx.now,
        DoomedObjectRow.object_name != beside_object,
    )
    size: ColumnElement[int] = func.coalesce(UploadRow.length, UploadRow.received)
    if chunk_size:
        # As `sealed_size`, but that nothing takes nothing.
        size += (size + chunk_size - 1) // chunk_size * TAG_BYTES
    uploads = select(func.sum(size)).where(
        UploadRow.owner_id == owner_id,
        UploadRow.state.in_((RECEIVING, FINISHING)),
        UploadRow.expires_at > tx.now,
        UploadRow.id != (beside or 0),
    )
    row = await tx.first(
        select(
            files.scalar_subquery().label("files"),
            running.scalar_subquery().label("running"),
            uploads.scalar_subquery().label("uploads"),
        )
    )
    # PostgreSQL gives sums as decimals.
    return 0 if row is None else sum(int(part or 0) for part in row)


async def count_uploads(tx: Tx, owner_id: UserId) -> int:
    """Those under way, and resumable ones that wait."""
    running = select(func.count()).where(
        DoomedObjectRow.owner_id == owner_id, DoomedObjectRow.due_at > tx.now
    )
    waiting = select(func.count()).where(
        UploadRow.owner_id == owner_id,
        UploadRow.state.in_((RECEIVING, FINISHING)),
        UploadRow.expires_at > tx.now,
    )
    return int(await tx.scalar(running) or 0) + int(await tx.scalar(waiting) or 0)


async def find_blob(tx: Tx, owner_id: UserId, content_tags: Sequence[bytes]) -> BlobId | None:
    """Of an equal upload of the same person, which has one of these tags."""
    is_equal = (BlobRow.owner_id == owner_id, BlobRow.content_tag.in_(content_tags))
    return await tx.scalar(select(BlobRow.id).where(*is_equal).order_by(BlobRow.id).limit(1))


async def find_sibling(tx: Tx, blob_id: BlobId) -> FileRecord | None:
    """Any file of these bytes, the newest: what is known of them stands there."""
    row = await tx.first(
        select(*_RECORD)
        .join(BlobRow, BlobRow.id == FileRow.blob_id)
        .where(FileRow.blob_id == blob_id)
        .order_by(FileRow.id.desc())
        .limit(1)
    )
    return None if row is None else FileRecord(*row)


async def list_ended_uses(
    tx: Tx, kind: str, *, owner_id: UserId, after: int, limit: int
) -> Sequence[int]:
    """What still shows a file of this person's that has ended, by id, from behind `after` on."""
    statement = (
        select(FileUseRow.subject_id)
        .join(FileRow, FileRow.id == FileUseRow.file_id)
        .where(
            FileRow.owner_id == owner_id,
            FileRow.ended_at.is_not(None),
            FileUseRow.kind == kind,
            FileUseRow.subject_id > after,
        )
        .distinct()
        .order_by(FileUseRow.subject_id)
        .limit(limit)
    )
    return await tx.scalars(statement)


async def list_subjects(tx: Tx, file_ids: Collection[FileId]) -> Mapping[str, Sequence[int]]:
    """kind -> what shows any of these files."""
    rows = await tx.all(
        select(FileUseRow.kind, FileUseRow.subject_id)
        .where(FileUseRow.file_id.in_(file_ids))
        .distinct()
    )
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(row.subject_id)
    return found
