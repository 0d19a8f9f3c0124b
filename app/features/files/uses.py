"""Who shows a file. Every function runs in the transaction of the change that shows it, or ceases to.

A file is locked after the scope of what shows it, in the order of ids. Its last use takes it with it: from
that commit on nobody reads it any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    Delete,
    Select,
    Update,
    bindparam,
    delete,
    exists,
    insert,
    select,
    update,
)

from app.features.files.errors import FileNotFound
from app.features.files.models import FileRow, FileUseRow
from app.features.files.policy import FileType
from app.features.files.queries import load_records, load_renditions, lock_files
from app.features.files.views import FileRecord, FileView, render_files
from app.infra.cipher.keyring import Keyring
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import FileId, UserId


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """A file of the caller's that may be shown, locked."""

    id: FileId
    file_type: FileType
    view: FileView


async def claim_files(
    tx: Tx,
    keyring: Keyring,
    *,
    owner_id: UserId,
    file_ids: Sequence[FileId],
    types: Collection[FileType] | None = None,
) -> list[ClaimedFile]:
    """Files that the caller has uploaded, in the order of `file_ids`; `types`: nothing but these.

    Raises:
        FileNotFound: file_not_found, one is of somebody else, ended, unknown, or of another type.
    """
    locked = await lock_files(tx, file_ids)
    records = await load_records(tx, locked)
    views = await _render(tx, keyring, records)
    claimed: list[ClaimedFile] = []
    for file_id in file_ids:
        record = records.get(file_id)
        if record is None or record.owner_id != owner_id or file_id not in views:
            raise FileNotFound
        file_type = FileType(record.file_type)
        if types is not None and file_type not in types:
            raise FileNotFound
        claimed.append(ClaimedFile(file_id, file_type, views[file_id]))
    return claimed


async def add_uses(tx: Tx, kind: str, uses: Mapping[int, Sequence[FileId]]) -> None:
    """Each subject shows these files, in this order. The caller has decided that it may.

    Raises:
        FileNotFound: file_not_found, one ended meanwhile.
    """
    file_ids = {file_id for files in uses.values() for file_id in files}
    if not file_ids:
        return
    if await lock_files(tx, file_ids) != file_ids:
        raise FileNotFound
    rows = [
        {"kind": kind, "subject_id": subject_id, "position": position, "file_id": file_id}
        for subject_id, files in uses.items()
        for position, file_id in enumerate(files)
    ]
    await tx.execute(insert(FileUseRow), rows)
    waiting = (FileRow.id.in_(file_ids), FileRow.unused_since.is_not(None))
    await tx.execute(update(FileRow).where(*waiting).values(unused_since=None))


async def remove_uses(tx: Tx, kind: str, subject_ids: Collection[int]) -> None:
    """These subjects show nothing any more; a file that nothing else shows ends now."""
    if not subject_ids:
        return
    parameters = {"of_kind": kind, **id_parameters(tx.dialect, subject_ids)}
    used = await tx.scalars(_USED[tx.dialect], parameters)
    if not used:
        return
    # Before the uses go: two who take the last two away wait for each other here, and the second sees it.
    locked = await lock_files(tx, set(used))
    await tx.execute(_REMOVE[tx.dialect], parameters)
    await tx.execute(_END[tx.dialect], {"at": tx.now, **id_parameters(tx.dialect, locked)})


async def drop_ended_uses(tx: Tx, kind: str, subject_ids: Collection[int]) -> set[int]:
    """Uses of files that have ended all the same. The caller holds what shows them; whose uses there were."""
    is_ended = exists().where(FileRow.id == FileUseRow.file_id, FileRow.ended_at.is_not(None))
    of_ended = (FileUseRow.kind == kind, FileUseRow.subject_id.in_(subject_ids), is_ended)
    found = await tx.scalars(select(FileUseRow.subject_id).where(*of_ended))
    if found:
        await tx.execute(delete(FileUseRow).where(*of_ended))
    return set(found)


async def load_files(
    tx: Tx, keyring: Keyring, file_ids: Collection[FileId]
) -> Mapping[FileId, FileView]:
    """Those that live, in at most three statements."""
    return await _render(tx, keyring, await load_records(tx, set(file_ids)))


async def load_uses(
    tx: Tx, keyring: Keyring, kind: str, subject_ids: Collection[int]
) -> Mapping[int, list[FileView]]:
    """What each of them shows, in its order, in at most four statements; who shows nothing is absent."""
    if not subject_ids:
        return {}
    parameters = {"of_kind": kind, **id_parameters(tx.dialect, set(subject_ids))}
    rows = await tx.all(_SHOWN[tx.dialect], parameters)
    views = await load_files(tx, keyring, {row.file_id for row in rows})
    shown: dict[int, list[FileView]] = {}
    for row in rows:
        if row.file_id in views:
            shown.setdefault(row.subject_id, []).append(views[row.file_id])
    return shown


async def _render(
    tx: Tx, keyring: Keyring, records: Mapping[FileId, FileRecord]
) -> Mapping[FileId, FileView]:
    renditions = await load_renditions(tx, [record.blob_id for record in records.values()])
    return await render_files(tx, keyring, records.values(), renditions)


def _make_used(dialect: Dialect) -> Select[FileId]:
    is_of = (FileUseRow.kind == bindparam("of_kind"), is_listed(dialect, FileUseRow.subject_id))
    return select(FileUseRow.file_id).where(*is_of)


def _make_remove(dialect: Dialect) -> Delete:
    is_of = (FileUseRow.kind == bindparam("of_kind"), is_listed(dialect, FileUseRow.subject_id))
    return delete(FileUseRow).where(*is_of)


def _make_end(dialect: Dialect) -> Update:
    is_used = exists().where(FileUseRow.file_id == FileRow.id)
    return (
        update(FileRow)
        .where(is_listed(dialect, FileRow.id), ~is_used)
        .values(ended_at=bindparam("at", type_=FileRow.ended_at.type))
    )


def _make_shown(dialect: Dialect) -> Select[int, FileId]:
    is_of = (FileUseRow.kind == bindparam("of_kind"), is_listed(dialect, FileUseRow.subject_id))
    return (
        select(FileUseRow.subject_id, FileUseRow.file_id)
        .where(*is_of)
        .order_by(FileUseRow.subject_id, FileUseRow.position)
    )


# Lists of any length: a whole chat may go at once.
_USED = by_dialect(_make_used)
_REMOVE = by_dialect(_make_remove)
_END = by_dialect(_make_end)
_SHOWN = by_dialect(_make_shown)
