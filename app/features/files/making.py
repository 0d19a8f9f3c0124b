"""From the bytes of an upload to what is kept of them: taken in, searched, looked at, and of a photo made anew."""

import contextlib
import hashlib
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

import structlog

from app.features.files.objects import StoredObject, make_object_name, one_piece, write_object
from app.features.files.policy import FileType, extension_of, photo_invalid
from app.features.files.renditions import NewRendition
from app.features.files.reservation import Reservation
from app.features.files.scan import require_clean
from app.infra.cipher.chunks import ChunkInvalid
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import make_secret
from app.infra.media.detect import HEAD_BYTES, ISO_FORMAT, Detected, detect, settle_tracks
from app.infra.media.port import MAX_PHOTO_BYTES, MediaError, Photo
from app.infra.media.tracks import find_track_kinds
from app.infra.services import Services
from app.infra.storage.port import RETRY_SECONDS, ObjectMissing, StorageUnavailable
from app.kernel.together import run_together

log = structlog.stdlib.get_logger("app.files")


@dataclass(slots=True)
class Received:
    """The bytes as they were sent, in the storage. `digest`: their SHA-256; `head`: the first `HEAD_BYTES`."""

    object_name: str
    secret: bytes
    size: int
    stored_size: int
    chunk_size: int
    digest: bytes
    head: bytes


@dataclass(slots=True)
class Made:
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


class Maker:
    """Of one file. Every object is noted by its reservation before it is written."""

    def __init__(self, services: Services, reservation: Reservation) -> None:
        self._services = services
        self._reservation = reservation

    async def receive(self, chunks: AsyncIterable[bytes]) -> Received:
        """Into the storage, hashed and counted on the way."""
        [name] = self._reservation.names
        secret = make_secret()
        intake = _Intake(chunks, on_piece=self._reservation.look_at)
        stored_size = await write_object(
            self._services.storage,
            name,
            intake.pieces(),
            cipher=self._key(secret).object_cipher(name),
            chunk_size=self._reservation.chunk_size,
        )
        return Received(
            object_name=name,
            secret=secret,
            size=intake.size,
            stored_size=stored_size,
            chunk_size=self._reservation.chunk_size,
            digest=intake.hash.digest(),
            head=bytes(intake.head),
        )

    async def search(self, received: Received) -> None:
        """While a scanner takes its time the notes go on standing.

        Raises:
            FileInfected, ScannerUnavailable
        """
        if self._services.scanner is None:
            return
        with _blaming_the_storage():
            async with self._reservation.keep_standing():
                await require_clean(
                    self._services, self._reservation.owner_id, self._source(received)
                )

    async def settle(self, received: Received) -> Detected:
        """What it is, also where its first bytes leave that open: whether an MP4 is a film or a sound says the list
        of its tracks, which most recorders write last.
        """
        detected = detect(received.head)
        if detected.format != ISO_FORMAT:
            return detected
        with _blaming_the_storage():
            return settle_tracks(received.head, await find_track_kinds(self._source(received)))

    async def make(self, received: Received, detected: Detected, file_type: FileType) -> Made:
        if file_type is FileType.PHOTO:
            with _blaming_the_storage():
                photo = await self._process(received)
            return await self._make_photo(photo)
        return Made(
            object_name=received.object_name,
            secret=received.secret,
            size=received.size,
            stored_size=received.stored_size,
            file_type=file_type,
            mime_type=detected.mime_type,
            extension=extension_of(detected, file_type),
            facts={"sha256": received.digest.hex()},
        )

    def _source(self, received: Received) -> StoredObject:
        return StoredObject(
            storage=self._services.storage,
            name=received.object_name,
            cipher=self._key(received.secret).object_cipher(received.object_name),
            size=received.size,
            chunk_size=received.chunk_size,
        )

    async def _process(self, received: Received) -> Photo:
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

    async def _make_photo(self, photo: Photo) -> Made:
        """Under a key of its own: that of the original, with all that it tells, is forgotten."""
        secret = make_secret()
        renditions = [
            NewRendition(kind, make_object_name(), len(it.content), it.width, it.height)
            for kind, it in photo.renditions.items()
        ]
        made = Made(
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
        await self._reservation.note_more(made.object_names)
        contents = [photo.content, *(it.content for it in photo.renditions.values())]
        made.stored_size = await self._write_all(secret, made.object_names, contents)
        return made

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
                chunk_size=self._reservation.chunk_size,
            )
            for name, content in zip(names, contents, strict=True)
        )
        return sum(sizes)

    def _key(self, secret: bytes) -> DataKey:
        return self._services.keyring.sealing_key("blob:new", secret)


@contextlib.contextmanager
def _blaming_the_storage() -> Generator[None]:
    """What cannot be read was written a moment ago: it is not the file that is at fault."""
    try:
        yield
    except (ObjectMissing, ChunkInvalid) as error:
        raise StorageUnavailable(retry_after=RETRY_SECONDS) from error


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
