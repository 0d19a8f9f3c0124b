"""Receiving the bytes of an upload: part by part, each an object and a row, so that whatever is killed loses at
most the part that was on its way, and any worker goes on behind it.

No lock is held while bytes come. A part is committed only where the upload still stands at the part's beginning,
so of two who send at once one goes on and the other is refused at its next part: their bytes never mix. With a
checksum nothing is committed before the end: so only one such body at a time is let near the storage.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from app.features.files.doomed import give_up, note_objects, renew_notes, strike_out
from app.features.files.objects import make_object_name, write_object
from app.features.files.resumable.errors import (
    OffsetMismatch,
    TooManyParts,
    UploadBusy,
    UploadChecksumMismatch,
)
from app.features.files.resumable.incoming import Incoming
from app.features.files.resumable.lease import end_lease, renew_lease, take_lease
from app.features.files.resumable.protocol import Checksum
from app.features.files.resumable.queries import (
    add_parts,
    change_upload,
    find_upload_by_id,
    lock_upload,
)
from app.features.files.resumable.room import require_room
from app.features.files.resumable.upload import (
    FINISH_LEASE,
    FINISHING,
    RECEIVING,
    Part,
    Upload,
    lifetime,
    upload_key,
)
from app.features.updates.log import lock_scopes
from app.infra.cipher.chunks import CHUNK_BYTES
from app.infra.cipher.envelope import DataKey
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.problems import NotFound, Problem, Unavailable
from app.kernel.scopes import user_scope
from app.transport.http.routing import CLOSE

PART_BYTES: Final = 4_194_304
# So that the largest uploads stay well below the most parts that one may have.
_USUAL_PARTS: Final = 4_000
MAX_PARTS: Final = 10_000
# What a body with a checksum may bring to an upload whose length, and so its room, is not known.
MAX_CHECKED_BYTES: Final = 67_108_864
_RETRY_SECONDS: Final = 5
_LEASE_RENEWED_SECONDS: Final = 5.0
_NOTES_RENEWED_ROUNDS: Final = 12


async def receive(
    services: Services,
    upload: Upload,
    body: Incoming,
    *,
    checksum: Checksum | None = None,
) -> bool:
    """Keep what comes, from where the upload stands on; gives whether that made it complete. The caller then
    has it to himself for a while, to make a file of it.

    Raises:
        ClientDisconnect, UploadStalled, TokenRefused: what had come is kept, unless there is a checksum
        UploadChecksumMismatch: 460, nothing is kept
        OffsetMismatch: offset_mismatch, somebody else was faster
        UploadBusy: upload_busy, of two bodies with a checksum the first goes on
        UploadOverrun: upload_overrun
        TooManyParts: too_many_parts
        NotFound: it was terminated meanwhile
    """
    receiver = _Receiver(services, upload, body)
    try:
        if checksum is None:
            return await receiver.keep_each()
        async with _alone(services, receiver):
            return await receiver.keep_all(checksum)
    except BaseException:
        await receiver.give_up()
        raise


def part_bytes(upload: Upload) -> int:
    """How many bytes its parts have on a fast line."""
    return max(PART_BYTES, (upload.length or 0) // _USUAL_PARTS)


class _Receiver:
    def __init__(self, services: Services, upload: Upload, body: Incoming) -> None:
        self._services = services
        self.upload = upload
        # Objects that no commit has taken up.
        self._waiting: list[str] = []
        self._body = body
        self._part_bytes = part_bytes(upload)
        self._chunk_size = CHUNK_BYTES if services.settings.files.encrypt else 0

    async def keep_each(self) -> bool:
        """Commit each part as soon as it is stored."""
        offset = self.upload.received
        is_complete = False
        while await self._body.has_more():
            part = await self._store(await self._note_name(offset), offset)
            is_complete = await self._commit([part])
            offset += part.size
        # Of the end of a complete one nothing was missed.
        if self._body.broken is not None and not is_complete:
            raise self._body.broken
        return is_complete

    async def keep_all(self, checksum: Checksum) -> bool:
        """Commit all parts together once they are known to be what was announced."""
        beginning = offset = self.upload.received
        parts: list[Part] = []
        while await self._body.has_more():
            part = await self._store(await self._note_name(beginning), offset, checksum)
            parts.append(part)
            offset += part.size
        if self._body.broken is not None:
            raise self._body.broken
        if self._body.is_cut:
            raise Unavailable(retry_after=1, headers=CLOSE)
        if not checksum.is_met():
            raise UploadChecksumMismatch
        return await self._commit(parts) if parts else False

    async def renew(self) -> None:
        """What waits for its commit goes on waiting."""
        await self._services.db.write(lambda tx: renew_notes(tx, self._waiting))

    async def give_up(self) -> None:
        """What no commit has taken up goes at once. Should the database be away, the notes fall due by themselves."""
        if self._waiting:
            with contextlib.suppress(Exception):
                await self._services.db.write(lambda tx: give_up(tx, self._waiting))

    async def _store(self, name: str, position: int, checksum: Checksum | None = None) -> Part:
        key = await self._services.db.read(self._load_key)
        size = 0

        async def count() -> AsyncGenerator[bytes]:
            nonlocal size
            async for piece in self._body.part(self._part_bytes):
                size += len(piece)
                if checksum is not None:
                    checksum.update(piece)
                yield piece

        await write_object(
            self._services.storage,
            name,
            count(),
            cipher=key.object_cipher(name),
            chunk_size=self._chunk_size,
        )
        return Part(position, size, name, self._chunk_size)

    async def _load_key(self, tx: Tx) -> DataKey:
        owner = upload_key(self.upload.id)
        keys = await self._services.keyring.load(tx, [owner])
        if owner not in keys:
            raise NotFound(headers=CLOSE)
        return keys[owner]

    async def _note_name(self, beginning: int) -> str:
        """A name whose object is deleted unless a commit takes it up. `beginning`: where the first part starts
        that waits for one; whoever cannot be taken up any more is told before another part is stored.
        """
        name = make_object_name()
        self._waiting.append(name)

        async def work(tx: Tx) -> None:
            upload = await find_upload_by_id(tx, self.upload.id)
            require_next(tx, upload, beginning, len(self._waiting))
            await note_objects(tx, [name])

        await self._services.db.write(work)
        return name

    async def _commit(self, parts: Sequence[Part]) -> bool:
        """Make these parts the next ones of the upload; gives whether it is complete with them."""

        async def work(tx: Tx) -> bool:
            upload = await self._lock(tx, parts)
            names = [part.object_name for part in parts]
            if not await strike_out(tx, names):
                raise Unavailable(retry_after=1, headers=CLOSE)
            await add_parts(tx, upload.id, parts)
            received = parts[-1].position + parts[-1].size
            values: dict[str, object] = {
                "received": received,
                "parts_count": upload.parts_count + len(parts),
                "expires_at": tx.now + lifetime(self._services),
            }
            if received == upload.length:
                values |= {"state": FINISHING, "finish_at": tx.now + FINISH_LEASE}
            await change_upload(tx, upload.id, **values)
            return received == upload.length

        is_complete = await self._services.db.write(work)
        self._waiting.clear()
        return is_complete

    async def _lock(self, tx: Tx, parts: Sequence[Part]) -> Upload:
        """The upload, if these are its next parts and it may have them."""
        if self.upload.length is None:
            # Its bytes were not judged when it began.
            await lock_scopes(tx, [user_scope(self.upload.owner_id)])
        found = await lock_upload(tx, self.upload.id)
        upload = require_next(tx, found, parts[0].position, len(parts))
        if upload.length is None:
            size = parts[-1].position + parts[-1].size
            await require_room(tx, self._services, upload.owner_id, size=size, beside=upload.id)
        return upload


def require_next(tx: Tx, upload: Upload | None, position: int, count: int) -> Upload:
    """The upload, if so many parts from this position on are its next ones and it may have them.

    Raises:
        NotFound, OffsetMismatch, TooManyParts
    """
    if upload is None or upload.expires_at <= tx.now:
        raise NotFound(headers=CLOSE)
    if upload.state != RECEIVING or upload.received != position:
        raise OffsetMismatch(headers=CLOSE)
    if upload.parts_count + count > MAX_PARTS:
        raise TooManyParts(headers=CLOSE)
    return upload


@contextlib.asynccontextmanager
async def _alone(services: Services, receiver: _Receiver) -> AsyncGenerator[None]:
    """While nobody else sends a body with a checksum to this upload.

    Raises:
        UploadBusy: upload_busy
    """
    upload = receiver.upload

    async def take(tx: Tx) -> None:
        found = await lock_upload(tx, upload.id)
        require_next(tx, found, upload.received, 0)
        if not await take_lease(tx, upload):
            raise UploadBusy(retry_after=_RETRY_SECONDS, headers=CLOSE)

    await services.db.write(take)
    task = asyncio.create_task(_keep(services, receiver), name="keep-body-lease")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Should the database be away, it runs out by itself.
        with contextlib.suppress(Exception):
            await services.db.write(lambda tx: end_lease(tx, upload))


async def _keep(services: Services, receiver: _Receiver) -> None:
    """Its notes seldom: they last for minutes, and there may be thousands."""
    rounds = 0
    while True:
        await asyncio.sleep(_LEASE_RENEWED_SECONDS)
        rounds += 1
        with contextlib.suppress(Problem):
            await services.db.write(lambda tx: renew_lease(tx, receiver.upload))
            if rounds % _NOTES_RENEWED_ROUNDS == 0:
                await receiver.renew()
