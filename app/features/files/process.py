"""Looking into films and sounds after they were uploaded: how long they are, how large, and what they look like.

The work is a row that goes only when everybody was told: a worker that is killed is followed by another. One that
was only hindered, by what is away or because it had to stop, puts the work back as it was.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import delete, select, update

from app.features.files.distrust_bytes import distrust_bytes
from app.features.files.doomed import give_up, note_objects, strike_out
from app.features.files.models import BlobRow, FileRow, FileWorkRow
from app.features.files.objects import (
    StoredObject,
    choose_chunk_size,
    make_object_name,
    one_piece,
    write_object,
)
from app.features.files.pauses import pause_after
from app.features.files.policy import FileType, State
from app.features.files.queries import list_subjects, load_renditions, lock_files
from app.features.files.renditions import NewRendition, add_renditions
from app.features.files.rules import FileAudience
from app.features.files.views import find_details, seal_details
from app.infra.cipher.chunks import ChunkInvalid
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import blob_key
from app.infra.database.lease import keep_lease
from app.infra.database.tx import Tx
from app.infra.media.detect import HEAD_BYTES, detect
from app.infra.media.port import Clip, MediaError, Rendition
from app.infra.services import Services
from app.infra.storage.port import ObjectMissing, StorageFull
from app.kernel.ids import BlobId, FileId
from app.kernel.problems import Problem, Unavailable, is_passing
from app.kernel.together import run_apart

# Whoever took it up and was not heard of for so long was killed, perhaps by the file.
_LEASE: Final = timedelta(minutes=1)
_RENEWED_EVERY_SECONDS: Final = 10.0
_MAX_ATTEMPTS: Final = 3
_PUT_BACK_FOR: Final = timedelta(seconds=5)
# What the two pictures of a film take at most, as a rule: without that much room it need not be decoded.
_PICTURE_BYTES: Final = 1_048_576
_PUT_BACK_AGAIN_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger("app.files")


@dataclass(frozen=True, slots=True)
class _Task:
    """A file that is to be looked into. `is_known`: that was done, and it remains to tell. `is_given_up`: who
    tried before was killed each time. `is_film`: pictures will be made of it. `setbacks`: how often
    something was full or away.
    """

    file_id: FileId
    blob_id: BlobId
    source: StoredObject
    key: DataKey
    is_known: bool
    is_given_up: bool
    is_film: bool
    setbacks: int


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Those of a clip, in the storage, where they take `stored_size` bytes together."""

    renditions: Sequence[NewRendition]
    stored_size: int
    chunk_size: int


async def process_files(services: Services) -> None:
    """Work on what is due until nothing is, on as many at once as there are decoders."""
    count = services.settings.files.media_processes
    await run_apart(_process_due(services) for _ in range(count))


async def _process_due(services: Services) -> None:
    while await services.db.read(_is_due):
        file_id = await services.db.write(_take)
        if file_id is None:
            return
        task = await services.db.read(lambda tx, file_id=file_id: _load(tx, services, file_id))
        if task is None:
            await services.db.write(lambda tx, file_id=file_id: _finish(tx, [file_id]))
            continue
        if not await _try_to_process(services, task):
            return


async def _try_to_process(services: Services, task: _Task) -> bool:
    """False: it was hindered, and so would be the next one."""

    async def renew(tx: Tx) -> None:
        await _renew(tx, task.file_id)

    try:
        async with keep_lease(services.db, renew, every_seconds=_RENEWED_EVERY_SECONDS):
            await _process(services, task)
    except Problem as problem:
        if not is_passing(problem):
            raise
        log.info("clip_put_back", file_id=task.file_id, code=problem.code)
        await _put_back_surely(services, task)
        return False
    except asyncio.CancelledError:
        with contextlib.suppress(Problem):
            await services.db.write(lambda tx: _put_back(tx, task, pause=_PUT_BACK_FOR))
        raise
    return True


async def _put_back_surely(services: Services, task: _Task) -> None:
    """For the longer the more often that was. Also when it is the database that was away: until it is back there is
    nothing else to do.
    """
    pause = pause_after(task.setbacks)
    while True:
        try:
            await services.db.write(
                lambda tx: _put_back(tx, task, pause=pause, setbacks=task.setbacks + 1)
            )
        except Unavailable:
            await asyncio.sleep(_PUT_BACK_AGAIN_SECONDS)
        else:
            return


async def _is_due(tx: Tx) -> bool:
    statement = select(FileWorkRow.file_id).where(FileWorkRow.due_at <= tx.now).limit(1)
    return await tx.first(statement) is not None


async def _take(tx: Tx) -> FileId | None:
    statement = (
        select(FileWorkRow.file_id)
        .where(FileWorkRow.due_at <= tx.now)
        .order_by(FileWorkRow.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    file_id = await tx.scalar(statement)
    if file_id is not None:
        await tx.execute(
            update(FileWorkRow)
            .where(FileWorkRow.file_id == file_id)
            .values(attempts=FileWorkRow.attempts + 1, due_at=tx.now + _LEASE)
        )
    return file_id


async def _renew(tx: Tx, file_id: FileId) -> None:
    mine = FileWorkRow.file_id == file_id
    await tx.execute(update(FileWorkRow).where(mine).values(due_at=tx.now + _LEASE))


async def _put_back(tx: Tx, task: _Task, *, pause: timedelta, setbacks: int | None = None) -> None:
    """It was not its own fault."""
    mine = FileWorkRow.file_id == task.file_id
    values = {
        "attempts": FileWorkRow.attempts - 1,
        "due_at": tx.now + pause,
        "setbacks": task.setbacks if setbacks is None else setbacks,
    }
    await tx.execute(update(FileWorkRow).where(mine).values(values))


async def _load(tx: Tx, services: Services, file_id: FileId) -> _Task | None:
    """None: it has ended meanwhile."""
    row = await tx.first(
        select(
            FileRow.blob_id,
            FileRow.state,
            FileRow.file_type,
            FileWorkRow.attempts,
            FileWorkRow.setbacks,
            BlobRow.object_name,
            BlobRow.size,
            BlobRow.chunk_size,
        )
        .join(BlobRow, BlobRow.id == FileRow.blob_id)
        .join(FileWorkRow, FileWorkRow.file_id == FileRow.id)
        .where(FileRow.id == file_id, FileRow.ended_at.is_(None))
    )
    owner = None if row is None else blob_key(row.blob_id)
    keys = {} if owner is None else await services.keyring.load(tx, [owner])
    if row is None or owner not in keys:
        return None
    return _Task(
        file_id=file_id,
        blob_id=row.blob_id,
        source=StoredObject(
            storage=services.storage,
            name=row.object_name,
            cipher=keys[owner].object_cipher(row.object_name),
            size=row.size,
            chunk_size=row.chunk_size,
        ),
        key=keys[owner],
        is_known=row.state == State.READY,
        is_given_up=row.attempts > _MAX_ATTEMPTS,
        is_film=row.file_type == FileType.VIDEO,
        setbacks=row.setbacks,
    )


async def _process(services: Services, task: _Task) -> None:
    file_ids = [task.file_id]
    if not task.is_known:
        clip = await _look_into(services, task)
        # With it also where another was faster: it may have been killed before it told.
        file_ids += await _keep_all(services, task, clip)
    await _tell(services, file_ids)
    await services.db.write(lambda tx: _finish(tx, file_ids))


async def _look_into(services: Services, task: _Task) -> Clip | None:
    """None: nothing is to be found out about it."""
    if task.is_given_up:
        log.warning("clip_given_up", file_id=task.file_id)
        return None
    if task.is_film and not await services.storage.may_fit(_PICTURE_BYTES):
        raise StorageFull
    try:
        head = await task.source.read(0, HEAD_BYTES)
        return await services.media.probe_clip(
            task.source, format=detect(head).format, name=task.source.name
        )
    except (MediaError, ChunkInvalid, ObjectMissing) as error:
        log.info("clip_not_understood", file_id=task.file_id, reason=type(error).__name__)
        if not isinstance(error, MediaError):
            await distrust_bytes(services.db, task.blob_id)
        return None


async def _keep_all(services: Services, task: _Task, clip: Clip | None) -> list[FileId]:
    """The files that it is new for. What is not kept in the end goes at once, or it would lie there once more for each
    attempt; should the database be away, the notes fall due by themselves.
    """
    made: Mapping[str, Rendition] = (clip.renditions if clip is not None else None) or {}
    renditions = [
        NewRendition(kind, make_object_name(), len(it.content), it.width, it.height)
        for kind, it in made.items()
    ]
    names = [it.object_name for it in renditions]
    if names:
        await services.db.write(lambda tx: note_objects(tx, names))
    try:
        contents = [it.content for it in made.values()]
        pictures = await _write_pictures(services, task, renditions, contents)
        return await services.db.write(lambda tx: _keep(tx, task, clip, pictures))
    except BaseException:
        if names:
            with contextlib.suppress(Exception):
                await services.db.write(lambda tx: give_up(tx, names))
        raise


async def _write_pictures(
    services: Services,
    task: _Task,
    renditions: Sequence[NewRendition],
    contents: Sequence[bytes],
) -> _Pictures:
    chunk_size = choose_chunk_size(services.settings.files)
    stored_size = 0
    for rendition, content in zip(renditions, contents, strict=True):
        stored_size += await write_object(
            services.storage,
            rendition.object_name,
            one_piece(content),
            cipher=task.key.object_cipher(rendition.object_name),
            chunk_size=chunk_size,
        )
    return _Pictures(renditions, stored_size, chunk_size)


async def _keep(tx: Tx, task: _Task, clip: Clip | None, pictures: _Pictures) -> list[FileId]:
    """What was found out holds for every file of these bytes. Those that it is new for."""
    facts = {} if clip is None else _facts_of(clip)
    waiting = select(FileRow.id).where(
        FileRow.blob_id == task.blob_id, FileRow.state == State.PROCESSING
    )
    locked = await lock_files(tx, await tx.scalars(waiting))
    names = [it.object_name for it in pictures.renditions]
    is_first = locked and not await load_renditions(tx, [task.blob_id])
    if is_first and names and await strike_out(tx, names):
        await _add_pictures(tx, task.blob_id, pictures)
    else:
        await give_up(tx, names)
    rows = await tx.all(
        select(FileRow.id, FileRow.mime_type, FileRow.details).where(
            FileRow.id.in_(locked), FileRow.state == State.PROCESSING
        )
    )
    for row in rows:
        details = find_details(task.key, row.id, row.details)
        if details is None:
            continue
        details.update(facts)  # type: ignore[typeddict-item]
        values = {
            "details": seal_details(task.key, row.id, details),
            "mime_type": row.mime_type if clip is None else clip.mime_type or row.mime_type,
            "state": State.READY,
        }
        await tx.execute(update(FileRow).where(FileRow.id == row.id).values(values))
    return [row.id for row in rows]


async def _add_pictures(tx: Tx, blob_id: BlobId, pictures: _Pictures) -> None:
    await add_renditions(tx, blob_id, pictures.renditions, chunk_size=pictures.chunk_size)
    grown = BlobRow.stored_size + pictures.stored_size
    await tx.execute(update(BlobRow).where(BlobRow.id == blob_id).values(stored_size=grown))


async def _tell(services: Services, file_ids: Sequence[FileId]) -> None:
    """Whoever shows one of them shows more now. Told again, should we be killed before it is written down."""
    if not file_ids:
        return
    shown = await services.db.read(lambda tx: list_subjects(tx, file_ids))
    for rule in services.rules.all(FileAudience):
        if rule.kind in shown:
            await rule.tell_processed(services, shown[rule.kind])


async def _finish(tx: Tx, file_ids: Sequence[FileId]) -> None:
    await tx.execute(delete(FileWorkRow).where(FileWorkRow.file_id.in_(file_ids)))


def _facts_of(clip: Clip) -> dict[str, object]:
    facts = {
        "duration_ms": clip.duration_ms,
        "width": clip.width,
        "height": clip.height,
        "placeholder": clip.placeholder,
        "waveform": None if clip.waveform is None else list(clip.waveform),
    }
    return {name: value for name, value in facts.items() if value is not None}
