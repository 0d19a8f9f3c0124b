"""Taking in a file, by whichever door it comes: streamed into the storage, looked at, and made somebody's.

Whatever is killed, cut off or refused leaves nothing: each object is noted as doomed before it is written,
and struck out in the one transaction that makes the file. What an upload may take is reserved on its note, and
counted again in that transaction, under the lock of the person's scope, unless it was promised before.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import insert

from app.features.files.doomed import (
    LEASE,
    doom_objects,
    give_up,
    note_objects,
    renew_notes,
    reserve,
    strike_out,
)
from app.features.files.errors import (
    FileEmpty,
    FileTooLarge,
    TooManyUploads,
    UploadRefused,
)
from app.features.files.models import BlobRow, FileRow, FileWorkRow
from app.features.files.names import clean_original_name
from app.features.files.objects import (
    StoredObject,
    choose_chunk_size,
    make_object_name,
    one_piece,
    write_object,
)
from app.features.files.policy import (
    FileType,
    Purpose,
    State,
    choose_type,
    extension_of,
    is_looked_into,
    photo_invalid,
    require_fit,
)
from app.features.files.queries import count_uploads, find_blob, find_sibling, sum_taken
from app.features.files.renditions import NewRendition, add_renditions
from app.features.files.scan import require_clean, require_scanner
from app.features.files.uses import load_files
from app.features.files.views import Details, FileView, find_details, seal_details
from app.features.updates.log import lock_scopes, try_lock_scopes
from app.infra.cipher.chunks import ChunkInvalid, sealed_size
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import KeyUnreadable, blob_key, make_secret, user_key
from app.infra.database.committer import BUSY, Busy
from app.infra.database.lease import keep_lease
from app.infra.database.tx import Tx
from app.infra.media.detect import HEAD_BYTES, ISO_FORMAT, Detected, detect, settle_tracks
from app.infra.media.port import MAX_PHOTO_BYTES, MediaError, Photo
from app.infra.media.tracks import find_track_kinds
from app.infra.services import Services
from app.infra.storage.port import RETRY_SECONDS, ObjectMissing, StorageFull, StorageUnavailable
from app.kernel.ids import BlobId, FileId, UserId
from app.kernel.problems import FieldError, Problem, Unavailable
from app.kernel.scopes import user_scope
from app.kernel.together import run_together
from app.settings import FileSettings

Binder = Callable[[Tx, FileId], Awaitable[None]]

T = TypeVar("T")

_FILE_NAME_BYTES = 24
# A group holds the scopes of so many people at most: some 20 ms.
_GROUP = 16
# What an upload of no announced length reserves ahead.
_LEAST_STEP_BYTES = 262_144
_MOST_STEP_BYTES = 67_108_864
_RENEWED_EVERY_SECONDS = 60.0
_RETRIED_EVERY_SECONDS = 5.0
# Without a renewal for so long the note is about to fall due: another minute and its object may be deleted.
_LOST_AFTER_SECONDS = LEASE.total_seconds() - 60.0

log = structlog.stdlib.get_logger("app.files")


async def store_upload(
    services: Services,
    *,
    owner_id: UserId,
    chunks: AsyncIterable[bytes],
    original_name: str,
    purpose: Purpose | Callable[[], Purpose],
    declared_size: int | None,
    overhead: int = 0,
    bind: Binder | None = None,
) -> FileView:
    """Read `chunks` to their end and keep them as a file of `owner_id`. `purpose` is asked for then: a form
    may say it behind the file. `declared_size`: no more bytes than these come, and at most `overhead` fewer; None
    where only the end will tell. `bind` is called in the transaction that makes the file, and may refuse it by
    raising; who has one has a place among the uploads, and its room, which is not judged again.

    Raises:
        FileEmpty, FileTooLarge, QuotaExceeded, TooManyUploads, PhotoInvalid, VoiceInvalid, UploadRefused
        FileInfected
        StorageFull, StorageUnavailable, MediaBusy, ScannerUnavailable
    """
    new_file = NewFile(services, owner_id, bind)
    await new_file.begin(declared_size, overhead=overhead)
    try:
        received = await new_file.receive(chunks)
        chosen = purpose if isinstance(purpose, Purpose) else purpose()
        return await new_file.keep(
            received, chosen, original_name=clean_original_name(original_name)
        )
    except BaseException:
        await new_file.abandon()
        raise


async def require_place(tx: Tx, settings: FileSettings, owner_id: UserId) -> None:
    """The scope of the person is locked, so that no two count the same.

    Raises:
        TooManyUploads: too_many_uploads
    """
    if await count_uploads(tx, owner_id) >= settings.max_uploads:
        raise TooManyUploads(max_uploads=settings.max_uploads)


@dataclass(slots=True)
class _Received:
    """The bytes as they were sent, in the storage. `digest`: their SHA-256; `head`: the first `HEAD_BYTES`."""

    object_name: str
    secret: bytes
    size: int
    stored_size: int
    chunk_size: int
    digest: bytes
    head: bytes


@dataclass(slots=True)
class _Made:
    """What is to be kept: the bytes as they were sent, or the photo that was made of them."""

    object_name: str
    secret: bytes
    size: int
    stored_size: int
    file_type: FileType
    mime_type: str
    extension: str
    facts: Mapping[str, object]
    renditions: Sequence[NewRendition] = field(default_factory=tuple)

    @property
    def object_names(self) -> list[str]:
        return [self.object_name, *(it.object_name for it in self.renditions)]


class NewFile:
    """A file that is being taken in: the objects that it has noted, and the room that it may take."""

    def __init__(self, services: Services, owner_id: UserId, bind: Binder | None) -> None:
        self._services = services
        self.owner_id = owner_id
        self._bind = bind
        self._chunk_size = choose_chunk_size(services.settings.files)
        self._names: list[str] = [make_object_name()]
        # What it is known to have at least, of plain bytes, and what it may take in the storage.
        self._least_size = 0
        self._announced = 0
        self._reserved = 0
        self._renewed_at = time.monotonic()
        self._renewal_due = self._renewed_at + _RENEWED_EVERY_SECONDS

    async def begin(self, declared_size: int | None, *, overhead: int = 0) -> None:
        """Raises:
        FileTooLarge, QuotaExceeded, TooManyUploads
        StorageFull, StorageUnavailable, ScannerUnavailable
        """
        if declared_size:
            self._least_size = max(0, declared_size - overhead)
            self._announced = sealed_size(declared_size, self._chunk_size)
            self._require_size(self._least_size)
            await self._require_free(self._least_size)
        await require_scanner(self._services)
        self._reserved = await self._services.db.write_grouped(begin_group, self, at_most=_GROUP)

    async def _require_free(self, size: int) -> None:
        """What surely does not fit is not begun: it would fill the disk up for everybody else before it is refused."""
        if not await self._services.storage.may_fit(sealed_size(size, self._chunk_size)):
            raise StorageFull

    async def receive(self, chunks: AsyncIterable[bytes]) -> _Received:
        """Into the storage, hashed and counted on the way."""
        [name] = self._names
        secret = make_secret()
        intake = _Intake(chunks, on_piece=self._look_at)
        stored_size = await write_object(
            self._services.storage,
            name,
            intake.pieces(),
            cipher=self._key(secret).object_cipher(name),
            chunk_size=self._chunk_size,
        )
        return _Received(
            object_name=name,
            secret=secret,
            size=intake.size,
            stored_size=stored_size,
            chunk_size=self._chunk_size,
            digest=intake.hash.digest(),
            head=bytes(intake.head),
        )

    async def keep(self, received: _Received, purpose: Purpose, *, original_name: str) -> FileView:
        """Make the file, of what is there already if the person has sent the same before."""
        if received.size == 0:
            raise FileEmpty(errors=[FieldError("file", "must have at least one byte")])
        # Also where an equal one is here: it may be known as harmful only since.
        await self._search(received)
        detected = await self._settle(received)
        file_type = choose_type(detected, purpose)
        tags, is_known = await self._services.db.read(
            lambda tx: self._look_up(tx, received, file_type)
        )
        made = None if is_known else await self._make(received, detected, file_type)
        while True:
            keeping = Keeping(self, tags, made, original_name)
            file = await self._write(keeping)
            if file is not None:
                return file
            # It went between the two looks.
            made = await self._make(received, detected, file_type)

    async def _write(self, keeping: "Keeping") -> FileView | None:
        if self._bind is None:
            return await self._services.db.write_grouped(keep_group, keeping, at_most=_GROUP)

        async def work(tx: Tx) -> FileView | None:
            """By itself: whoever refuses to be bound takes all of it back."""
            await lock_scopes(tx, [user_scope(self.owner_id)])
            return await self.add(tx, keeping)

        return await self._services.db.write(work)

    async def abandon(self) -> None:
        """Nothing of it stays, unless it was kept and only the answer is lost. Should the database be away, the
        notes fall due by themselves.
        """
        with contextlib.suppress(Exception):
            await self._services.db.write(lambda tx: give_up(tx, self._names))

    async def note(self, tx: Tx) -> int:
        """The scope of the person is locked. Gives the bytes that it may take, so that no two take the same room.

        Raises:
            QuotaExceeded, TooManyUploads
        """
        if self._bind is not None:
            await note_objects(tx, self._names)
            return 0
        await require_place(tx, self._services.settings.files, self.owner_id)
        reserved = await self._find_room(tx, self._least_size, wanted=self._announced)
        await note_objects(tx, self._names, owner_id=self.owner_id, reserved=reserved)
        return reserved

    async def _find_room(self, tx: Tx, size: int, *, wanted: int) -> int:
        """For so many plain bytes; gives what it may take in the storage: `wanted`, as far as there is so much.

        Raises:
            QuotaExceeded
        """
        quota, used = self._services.settings.files.quota, await self._sum_taken(tx)
        require_fit(sealed_size(size, self._chunk_size) if size else 0, used=used, quota=quota)
        return min(wanted, quota - used)

    async def _sum_taken(self, tx: Tx) -> int:
        """By all that is the person's but this."""
        return await sum_taken(
            tx, self.owner_id, chunk_size=self._chunk_size, beside_object=self._names[0]
        )

    async def _look_at(self, size: int) -> None:
        self._require_size(size)
        if self._bind is None and sealed_size(size, self._chunk_size) > self._reserved:
            await self._reserve_more(size)
        if time.monotonic() > self._renewal_due:
            await self._renew()

    async def _reserve_more(self, size: int) -> None:
        """Of what announced no length. Beyond what is there, for each step costs a transaction. A database that is
        away for a while ends no upload: what it takes is judged again at the end.

        Raises:
            QuotaExceeded
        """
        needed = sealed_size(size, self._chunk_size)
        step = min(max(needed // 8, _LEAST_STEP_BYTES), _MOST_STEP_BYTES)

        async def work(tx: Tx) -> int:
            await lock_scopes(tx, [user_scope(self.owner_id)])
            reserved = await self._find_room(tx, size, wanted=needed + step)
            await reserve(tx, self._names[0], reserved)
            return reserved

        try:
            self._reserved = await self._services.db.write(work)
        except Unavailable:
            self._reserved = needed + _LEAST_STEP_BYTES

    async def _renew(self) -> None:
        """A database that is away for a while ends no upload: the notes last for minutes, and whether they still stand
        is judged again at the end.
        """
        now = time.monotonic()
        try:
            await self._services.db.write(lambda tx: renew_notes(tx, self._names))
        except Unavailable:
            if now - self._renewed_at > _LOST_AFTER_SECONDS:
                raise
            self._renewal_due = time.monotonic() + _RETRIED_EVERY_SECONDS
        else:
            self._renewed_at, self._renewal_due = now, now + _RENEWED_EVERY_SECONDS

    def _require_size(self, size: int) -> None:
        most = self._services.settings.files.largest_file
        if size > most:
            raise FileTooLarge(max_bytes=most)

    async def _require_room(self, tx: Tx, stored_size: int) -> None:
        """Not of what has a `bind`: its room was promised, and neither what began later nor the poster of
        a film that is looked into meanwhile may take it away.
        """
        if self._bind is None:
            quota = self._services.settings.files.quota
            require_fit(stored_size, used=await self._sum_taken(tx), quota=quota)

    async def _look_up(
        self, tx: Tx, received: _Received, file_type: FileType
    ) -> tuple[Sequence[bytes], bool]:
        """The tags of the content as it lies here, under each version of the person's own key, and whether it is
        there: nobody's upload can be compared with another's. By what becomes of it, for that decides how it lies
        and what is known of it: a film has pictures, and none when it is kept as a document.
        """
        owner = user_key(self.owner_id)
        keys = await self._services.keyring.load(tx, [owner])
        if owner not in keys:
            raise UploadRefused
        content = f"file|{file_type}|{self._chunk_size}|".encode() + received.digest
        tags = keys[owner].list_fingerprints(content)
        return tags, await find_blob(tx, self.owner_id, tags) is not None

    async def _search(self, received: _Received) -> None:
        """While a scanner takes its time the notes go on standing.

        Raises:
            FileInfected, ScannerUnavailable
        """
        if self._services.scanner is None:
            return
        with _blaming_the_storage():
            async with keep_lease(
                self._services.db,
                lambda tx: renew_notes(tx, self._names),
                every_seconds=_RENEWED_EVERY_SECONDS,
            ):
                await require_clean(self._services, self.owner_id, self._source(received))

    async def _make(self, received: _Received, detected: Detected, file_type: FileType) -> _Made:
        if file_type is FileType.PHOTO:
            with _blaming_the_storage():
                photo = await self._process(received)
            return await self._make_photo(photo)
        return _Made(
            object_name=received.object_name,
            secret=received.secret,
            size=received.size,
            stored_size=received.stored_size,
            file_type=file_type,
            mime_type=detected.mime_type,
            extension=extension_of(detected, file_type),
            facts={"sha256": received.digest.hex()},
        )

    async def _settle(self, received: _Received) -> Detected:
        """What it is, also where its first bytes leave that open: whether an MP4 is a film or a sound says the list
        of its tracks, which most recorders write last.
        """
        detected = detect(received.head)
        if detected.format != ISO_FORMAT:
            return detected
        with _blaming_the_storage():
            return settle_tracks(received.head, await find_track_kinds(self._source(received)))

    def _source(self, received: _Received) -> StoredObject:
        return StoredObject(
            storage=self._services.storage,
            name=received.object_name,
            cipher=self._key(received.secret).object_cipher(received.object_name),
            size=received.size,
            chunk_size=received.chunk_size,
        )

    async def _process(self, received: _Received) -> Photo:
        """What cannot be made anew is not kept as it was sent: it may tell where it was taken.

        Raises:
            PhotoInvalid: photo_invalid
            MediaBusy: media_busy
        """
        if received.size > MAX_PHOTO_BYTES:
            raise photo_invalid()
        source, photo_format = self._source(received), detect(received.head).format
        try:
            return await self._services.media.process_photo(
                source, format=photo_format, name=received.digest.hex()
            )
        except MediaError as error:
            log.info("photo_refused", reason=type(error).__name__)
            raise photo_invalid() from None

    async def _make_photo(self, photo: Photo) -> _Made:
        """Under a key of its own: that of the original, with all that it tells, is forgotten."""
        secret = make_secret()
        renditions = [
            NewRendition(kind, make_object_name(), len(it.content), it.width, it.height)
            for kind, it in photo.renditions.items()
        ]
        made = _Made(
            object_name=make_object_name(),
            secret=secret,
            size=len(photo.content),
            stored_size=0,
            file_type=FileType.PHOTO,
            mime_type=photo.mime_type,
            extension=photo.extension,
            facts={
                "sha256": hashlib.sha256(photo.content).hexdigest(),
                "width": photo.width,
                "height": photo.height,
                "placeholder": photo.placeholder,
            },
            renditions=renditions,
        )
        await self._note(made.object_names)
        contents = [photo.content, *(it.content for it in photo.renditions.values())]
        made.stored_size = await self._write_all(secret, made.object_names, contents)
        return made

    async def _note(self, names: Sequence[str]) -> None:
        self._names += names
        await self._services.db.write(lambda tx: note_objects(tx, names))

    async def _write_all(
        self, secret: bytes, names: Sequence[str], contents: Sequence[bytes]
    ) -> int:
        """At once; gives the bytes that they take together."""
        key = self._key(secret)
        sizes = await run_together(
            write_object(
                self._services.storage,
                name,
                one_piece(content),
                cipher=key.object_cipher(name),
                chunk_size=self._chunk_size,
            )
            for name, content in zip(names, contents, strict=True)
        )
        return sum(sizes)

    async def add(self, tx: Tx, keeping: "Keeping") -> FileView | None:
        """The file; None: `made` is needed after all. The scope of the person is locked.

        Raises:
            QuotaExceeded, UploadRefused
        """
        made, original_name = keeping.made, keeping.original_name
        keyring = self._services.keyring
        if user_key(self.owner_id) not in await keyring.load(tx, [user_key(self.owner_id)]):
            raise UploadRefused
        blob_id = await find_blob(tx, self.owner_id, keeping.tags)
        if blob_id is not None:
            file_id = await self._add_sibling(tx, blob_id, original_name)
            await give_up(tx, self._names)
        elif made is None:
            return None
        else:
            file_id = await self._add_first(tx, keeping.tags[0], made, original_name)
        if self._bind is not None:
            await self._bind(tx, file_id)
        return (await load_files(tx, keyring, [file_id]))[file_id]

    async def _add_first(self, tx: Tx, tag: bytes, made: _Made, original_name: str) -> FileId:
        await self._require_room(tx, made.stored_size)
        # Before anything that a refusal must not leave behind: it may be committed with others.
        blob_id = BlobId((await tx.reserve_ids(BlobRow, 1))[0])
        keys = await self._services.keyring.adopt(tx, {blob_key(blob_id): made.secret})
        if not await strike_out(tx, made.object_names):
            await self._services.keyring.destroy(tx, [blob_key(blob_id)])
            await doom_objects(tx, made.object_names)
            raise UploadRefused
        await give_up(tx, self._names)
        await tx.execute(
            insert(BlobRow).values(
                id=blob_id,
                owner_id=self.owner_id,
                object_name=made.object_name,
                size=made.size,
                stored_size=made.stored_size,
                chunk_size=self._chunk_size,
                content_tag=tag,
                created_at=tx.now,
            )
        )
        await add_renditions(tx, blob_id, made.renditions, chunk_size=self._chunk_size)
        is_pending = is_looked_into(made.file_type)
        return await self._add_file(
            tx,
            keys[blob_key(blob_id)],
            blob_id,
            file_type=made.file_type,
            mime_type=made.mime_type,
            name=secrets.token_urlsafe(_FILE_NAME_BYTES) + made.extension,
            details={"original_name": original_name, **made.facts},  # type: ignore[typeddict-item]
            state=State.PROCESSING if is_pending else State.READY,
        )

    async def _add_sibling(self, tx: Tx, blob_id: BlobId, original_name: str) -> FileId:
        """Of the same bytes, with all that is known of them, under a name of its own."""
        sibling = await find_sibling(tx, blob_id)
        key = await self._services.keyring.require(tx, blob_key(blob_id))
        details = sibling and find_details(key, sibling.id, sibling.details)
        if sibling is None or details is None:
            raise KeyUnreadable
        _, dot, extension = sibling.name.partition(".")
        return await self._add_file(
            tx,
            key,
            blob_id,
            file_type=sibling.file_type,
            mime_type=sibling.mime_type,
            name=secrets.token_urlsafe(_FILE_NAME_BYTES) + dot + extension,
            details={**details, "original_name": original_name},
            state=sibling.state,
        )

    async def _add_file(
        self,
        tx: Tx,
        key: DataKey,
        blob_id: BlobId,
        *,
        file_type: str,
        mime_type: str,
        name: str,
        details: Details,
        state: str,
    ) -> FileId:
        file_id = FileId((await tx.reserve_ids(FileRow, 1))[0])
        await tx.execute(
            insert(FileRow).values(
                id=file_id,
                owner_id=self.owner_id,
                blob_id=blob_id,
                name=name,
                file_type=file_type,
                mime_type=mime_type,
                details=seal_details(key, file_id, details),
                state=state,
                created_at=tx.now,
                unused_since=tx.now,
            )
        )
        if state == State.PROCESSING:
            row = {"file_id": file_id, "attempts": 0, "due_at": tx.now}
            await tx.execute(insert(FileWorkRow).values(row))
        return file_id

    def _key(self, secret: bytes) -> DataKey:
        return self._services.keyring.sealing_key("blob:new", secret)


@contextlib.contextmanager
def _blaming_the_storage() -> Generator[None]:
    """What cannot be read was written a moment ago: it is not the file that is at fault."""
    try:
        yield
    except (ObjectMissing, ChunkInvalid) as error:
        raise StorageUnavailable(retry_after=RETRY_SECONDS) from error


@dataclass(frozen=True, slots=True)
class Keeping:
    """A file whose bytes are all there. `tags`: those of its content, the newest first. `made` is None where an
    equal one is thought to be there.
    """

    new_file: NewFile
    tags: Sequence[bytes]
    made: _Made | None
    original_name: str


async def begin_group(
    tx: Tx, items: Sequence[NewFile], *, may_wait: bool
) -> Sequence[int | Problem | Busy]:
    """Uploads that begin at the same moment, in one transaction."""
    owners = [item.owner_id for item in items]
    works = [partial(item.note, tx) for item in items]
    return await _run_in_turn(tx, owners, works, may_wait=may_wait)


async def keep_group(
    tx: Tx, items: Sequence[Keeping], *, may_wait: bool
) -> Sequence[FileView | Problem | Busy | None]:
    """Uploads that end at the same moment."""
    owners = [item.new_file.owner_id for item in items]
    works = [partial(item.new_file.add, tx, item) for item in items]
    return await _run_in_turn(tx, owners, works, may_wait=may_wait)


async def _run_in_turn(
    tx: Tx,
    owners: Sequence[UserId],
    works: Sequence[Callable[[], Awaitable[T]]],
    *,
    may_wait: bool,
) -> "Sequence[T | Problem | Busy]":
    """Each under the lock of its person's scope, so that no two count the same. One that refuses has changed
    nothing but notes of its own.
    """
    lock = lock_scopes if may_wait else try_lock_scopes
    locked = await lock(tx, {user_scope(owner_id) for owner_id in owners})
    outcomes: list[T | Problem | Busy] = []
    for owner_id, work in zip(owners, works, strict=True):
        if not locked.is_locked(user_scope(owner_id)):
            outcomes.append(UploadRefused() if may_wait else BUSY)
            continue
        try:
            outcomes.append(await work())
        except Problem as problem:
            outcomes.append(problem)
    return outcomes


class _Intake:
    """What is learnt of an upload while it goes by."""

    def __init__(
        self, chunks: AsyncIterable[bytes], *, on_piece: Callable[[int], Awaitable[None]]
    ) -> None:
        """`on_piece` hears the size so far, and refuses it by raising."""
        self.size = 0
        self.head = bytearray()
        self.hash = hashlib.sha256()
        self._chunks = chunks
        self._on_piece = on_piece

    async def pieces(self) -> AsyncGenerator[bytes]:
        async for piece in self._chunks:
            self.size += len(piece)
            await self._on_piece(self.size)
            self.hash.update(piece)
            if len(self.head) < HEAD_BYTES:
                self.head += piece[: HEAD_BYTES - len(self.head)]
            yield piece
