"""Whose storage this is: an object in it names the installation, and so does the database.

Without it a server that was started with the storage of another one would take all that lies there for left over.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog
from sqlalchemy import select, union_all
from sqlalchemy.exc import DBAPIError

from app.features.files.models import BlobRow, DoomedObjectRow, RenditionRow, UploadPartRow
from app.features.files.objects import one_piece
from app.infra.database.database import Database, open_database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.infra.storage.choose import choose_storage
from app.infra.storage.names import CHECK_PREFIX, MARKER
from app.infra.storage.port import ObjectMissing, Storage, StorageFull
from app.kernel.clock import SystemClock
from app.kernel.problems import Unavailable
from app.settings import FileSettings, Settings, SettingsError

_NAME: Final = "installation"
_ID_BYTES: Final = 18
_MAX_MARKER_BYTES: Final = 256
# Of a storage that is ours so many names, in no order, hold one that we know; there may be some that a kill left.
_SAMPLE: Final = 500
_REFERRING: Final = (BlobRow, RenditionRow, UploadPartRow, DoomedObjectRow)

_FOREIGN: Final = (
    "the file storage holds the files of another database, which this one would take for left over;"
    " name the storage that belongs to this database, or an empty one"
)
_EMPTY: Final = (
    "the file storage is empty, and this database has files; mount or name the storage that holds them,"
    " or give them up with: python -m app.admin storage adopt"
)

log = structlog.stdlib.get_logger("app.files")


async def claim_storage(db: Database, storage: Storage, settings: FileSettings) -> None:
    """Agree with the storage on one installation, at every start. One that this database uses already becomes its own,
    and so does an empty one as long as the database has no files; whichever of the two knows the id tells the other.

    Raises:
        SettingsError: it is another's, or lacks everything.
        StorageUnavailable, StorageFull
    """
    fault = await _find_fault(db, storage)
    if fault is not None:
        raise SettingsError([_describe(settings, fault)])
    await _agree_or_refuse(db, storage, settings)


async def adopt_storage(db: Database, storage: Storage, settings: FileSettings) -> None:
    """Take also an empty one for this database's, on purpose: what the database has of files is lost.

    Raises:
        SettingsError: it is another's.
        StorageUnavailable, StorageFull
    """
    if await _find_fault(db, storage) == _FOREIGN:
        raise SettingsError([_describe(settings, _FOREIGN)])
    await _agree_or_refuse(db, storage, settings)


async def list_installation_faults(settings: Settings) -> list[str]:
    """That the storage is another's, or empty where it should not be, in one sentence, before anything is written. What
    is not there yet or does not answer is told by others, or at the claim.
    """
    if settings.database.type == "sqlite" and not settings.sqlite_path.exists():
        return []
    db, storage = open_database(settings, SystemClock()), choose_storage(settings)
    try:
        fault = await _find_fault(db, storage)
        return [] if fault is None else [_describe(settings.files, fault)]
    except (DBAPIError, Unavailable, StorageFull):
        return []
    finally:
        await storage.close()
        await db.close()


async def list_known(tx: Tx, names: Sequence[str]) -> set[str]:
    """Those of these objects that a row names."""
    parts = [select(row.object_name).where(row.object_name.in_(names)) for row in _REFERRING]
    return set(await tx.scalars(union_all(*parts)))


async def _find_fault(db: Database, storage: Storage) -> str | None:
    """Changes nothing. One that holds no file is whoever's comes: a new database beside the directory of an old one.
    But a database that has files misses them there: a disk that is not mounted, a bucket by a wrong name.
    """
    marked = await _find_marked(storage)
    if marked is not None and marked == await db.read(_find_own):
        return None
    names = [name async for name in _sample(storage)]
    if not names:
        return _EMPTY if await db.read(_has_files) else None
    return None if await db.read(lambda tx: list_known(tx, names)) else _FOREIGN


async def _agree_or_refuse(db: Database, storage: Storage, settings: FileSettings) -> None:
    if not await _agree(db, storage):
        raise SettingsError([_describe(settings, _FOREIGN)])


async def _agree(db: Database, storage: Storage) -> bool:
    """False: the marker of another installation is there."""
    marked = await _find_marked(storage)
    row = {"name": _NAME, "value": marked or secrets.token_urlsafe(_ID_BYTES)}

    async def work(tx: Tx) -> str | None:
        await insert_ignore(tx, ServerStateRow, [row], index=["name"])
        return await _find_own(tx)

    own = await db.write(work)
    if own is not None and marked != own:
        if marked is not None:
            await storage.delete(MARKER)
        await storage.write(MARKER, one_piece(own.encode()))
        log.info("storage_claimed")
    # None: another process of this installation is at it.
    return await _find_marked(storage) in {None, own}


async def _sample(storage: Storage) -> AsyncGenerator[str]:
    left = _SAMPLE
    async for name, _ in storage.list_names():
        # Other workers may be starting.
        if name == MARKER or name.startswith(CHECK_PREFIX):
            continue
        yield name
        left -= 1
        if not left:
            return


def _describe(settings: FileSettings, fault: str) -> str:
    return f"{'STORAGE_URL' if settings.storage_url else 'VAR_DIR'}: {fault}"


async def _has_files(tx: Tx) -> bool:
    return await tx.first(select(BlobRow.id).limit(1)) is not None


async def _find_own(tx: Tx) -> str | None:
    return await tx.scalar(select(ServerStateRow.value).where(ServerStateRow.name == _NAME))


async def _find_marked(storage: Storage) -> str | None:
    try:
        pieces = [piece async for piece in storage.read(MARKER, length=_MAX_MARKER_BYTES)]
    except ObjectMissing:
        return None
    return b"".join(pieces).decode(errors="replace")
