"""Taking in a file, by whichever door it comes: streamed into the storage, looked at, and made somebody's.

Whatever is killed, cut off or refused leaves nothing: each object is noted as doomed before it is written,
and struck out in the one transaction that makes the file. What an upload may take is reserved on its note, and
counted again in that transaction, under the lock of the person's scope, unless it was promised before.
"""

import secrets
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import insert

from app.features.files.doomed import doom_objects, give_up, strike_out
from app.features.files.errors import FileEmpty, UploadRefused
from app.features.files.making import Made, Maker, Received
from app.features.files.models import BlobRow, FileRow, FileWorkRow
from app.features.files.names import clean_original_name
from app.features.files.policy import FileType, Purpose, State, choose_type, is_looked_into
from app.features.files.queries import find_blob, find_sibling
from app.features.files.renditions import add_renditions
from app.features.files.reservation import Reservation
from app.features.files.scan import require_scanner
from app.features.files.turns import GROUP, run_in_turn
from app.features.files.uses import load_files
from app.features.files.views import Details, FileView, find_details, seal_details
from app.features.updates.log import lock_scopes
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import KeyUnreadable, blob_key, user_key
from app.infra.database.committer import Busy
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import BlobId, FileId, UserId
from app.kernel.problems import FieldError, Problem
from app.kernel.scopes import user_scope

Binder = Callable[[Tx, FileId], Awaitable[None]]

_FILE_NAME_BYTES = 24


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


class NewFile:
    """A file that is being taken in."""

    def __init__(self, services: Services, owner_id: UserId, bind: Binder | None) -> None:
        self.owner_id = owner_id
        self._services = services
        self._bind = bind
        self._reservation = Reservation(services, owner_id, is_promised=bind is not None)
        self._chunk_size = self._reservation.chunk_size
        self._maker = Maker(services, self._reservation)

    async def begin(self, declared_size: int | None, *, overhead: int = 0) -> None:
        """Raises:
        FileTooLarge, QuotaExceeded, TooManyUploads
        StorageFull, StorageUnavailable, ScannerUnavailable
        """
        await self._reservation.require_bounds(declared_size, overhead=overhead)
        await require_scanner(self._services)
        await self._reservation.begin()

    async def receive(self, chunks: AsyncIterable[bytes]) -> Received:
        return await self._maker.receive(chunks)

    async def abandon(self) -> None:
        await self._reservation.abandon()

    async def keep(self, received: Received, purpose: Purpose, *, original_name: str) -> FileView:
        """Make the file, of what is there already if the person has sent the same before."""
        if received.size == 0:
            raise FileEmpty(errors=[FieldError("file", "must have at least one byte")])
        # Also where an equal one is here: it may be known as harmful only since.
        await self._maker.search(received)
        detected = await self._maker.settle(received)
        file_type = choose_type(detected, purpose)
        tags, is_known = await self._services.db.read(
            lambda tx: self._look_up(tx, received, file_type)
        )
        made = None if is_known else await self._maker.make(received, detected, file_type)
        while True:
            keeping = Keeping(self, tags, made, original_name)
            file = await self._write(keeping)
            if file is not None:
                return file
            # It went between the two looks.
            made = await self._maker.make(received, detected, file_type)

    async def _write(self, keeping: "Keeping") -> FileView | None:
        if self._bind is None:
            return await self._services.db.write_grouped(_keep_group, keeping, at_most=GROUP)

        async def work(tx: Tx) -> FileView | None:
            """By itself: whoever refuses to be bound takes all of it back."""
            await lock_scopes(tx, [user_scope(self.owner_id)])
            return await self.add(tx, keeping)

        return await self._services.db.write(work)

    async def _look_up(
        self, tx: Tx, received: Received, file_type: FileType
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
            await give_up(tx, self._reservation.names)
        elif made is None:
            return None
        else:
            file_id = await self._add_first(tx, keeping.tags[0], made, original_name)
        if self._bind is not None:
            await self._bind(tx, file_id)
        return (await load_files(tx, keyring, [file_id]))[file_id]

    async def _add_first(self, tx: Tx, tag: bytes, made: Made, original_name: str) -> FileId:
        await self._reservation.require_room(tx, made.stored_size)
        # Before anything that a refusal must not leave behind: it may be committed with others.
        blob_id = BlobId((await tx.reserve_ids(BlobRow, 1))[0])
        keys = await self._services.keyring.adopt(tx, {blob_key(blob_id): made.secret})
        if not await strike_out(tx, made.object_names):
            await self._services.keyring.destroy(tx, [blob_key(blob_id)])
            await doom_objects(tx, made.object_names)
            raise UploadRefused
        await give_up(tx, self._reservation.names)
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


@dataclass(frozen=True, slots=True)
class Keeping:
    """A file whose bytes are all there. `tags`: those of its content, the newest first. `made` is None where an
    equal one is thought to be there.
    """

    new_file: NewFile
    tags: Sequence[bytes]
    made: Made | None
    original_name: str


async def _keep_group(
    tx: Tx, items: Sequence[Keeping], *, may_wait: bool
) -> Sequence[FileView | Problem | Busy | None]:
    """Uploads that end at the same moment."""
    owners = [item.new_file.owner_id for item in items]
    works = [partial(item.new_file.add, tx, item) for item in items]
    return await run_in_turn(tx, owners, works, may_wait=may_wait)
