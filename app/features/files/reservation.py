"""What an upload may take while it is under way: its objects are noted as doomed, and its room is reserved on the
first of these notes.
"""

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from app.features.files.doomed import LEASE, give_up, note_objects, renew_notes, reserve
from app.features.files.errors import FileTooLarge, TooManyUploads
from app.features.files.objects import choose_chunk_size, make_object_name
from app.features.files.policy import require_fit
from app.features.files.queries import count_uploads, sum_taken
from app.features.files.turns import GROUP, run_in_turn
from app.features.updates.log import lock_scopes
from app.infra.cipher.chunks import sealed_size
from app.infra.database.committer import Busy
from app.infra.database.lease import keep_lease
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.infra.storage.port import StorageFull
from app.kernel.ids import UserId
from app.kernel.problems import Problem, Unavailable
from app.kernel.scopes import user_scope
from app.settings import FileSettings

# What an upload of no announced length reserves ahead.
_LEAST_STEP_BYTES = 262_144
_MOST_STEP_BYTES = 67_108_864
_RENEWED_EVERY_SECONDS = 60.0
_RETRIED_EVERY_SECONDS = 5.0
# Without a renewal for so long the note is about to fall due: another minute and its object may be deleted.
_LOST_AFTER_SECONDS = LEASE.total_seconds() - 60.0


async def require_place(tx: Tx, settings: FileSettings, owner_id: UserId) -> None:
    """The scope of the person is locked, so that no two count the same.

    Raises:
        TooManyUploads: too_many_uploads
    """
    if await count_uploads(tx, owner_id) >= settings.max_uploads:
        raise TooManyUploads(max_uploads=settings.max_uploads)


class Reservation:
    """Of one file. `names`: the objects that were noted, that of the bytes as they are sent first.

    `is_promised`: the upload has a place among the others already, and its room, which is not judged again: neither
    what began later nor the poster of a film that is looked into meanwhile may take it away.
    """

    def __init__(self, services: Services, owner_id: UserId, *, is_promised: bool) -> None:
        self.owner_id = owner_id
        self.chunk_size = choose_chunk_size(services.settings.files)
        self.names: list[str] = [make_object_name()]
        self._services = services
        self._is_promised = is_promised
        # What it is known to have at least, of plain bytes, and what it may take in the storage.
        self._least_size = 0
        self._announced = 0
        self._reserved = 0
        self._renewed_at = time.monotonic()
        self._renewal_due = self._renewed_at + _RENEWED_EVERY_SECONDS

    async def require_bounds(self, declared_size: int | None, *, overhead: int) -> None:
        """Before anything is noted.

        Raises:
            FileTooLarge
            StorageFull, StorageUnavailable
        """
        if declared_size:
            self._least_size = max(0, declared_size - overhead)
            self._announced = sealed_size(declared_size, self.chunk_size)
            self._require_size(self._least_size)
            await self._require_free(self._least_size)

    async def begin(self) -> None:
        """Raises:
        QuotaExceeded, TooManyUploads
        """
        self._reserved = await self._services.db.write_grouped(_begin_group, self, at_most=GROUP)

    async def look_at(self, size: int) -> None:
        """So many plain bytes have come.

        Raises:
            FileTooLarge, QuotaExceeded
        """
        self._require_size(size)
        if not self._is_promised and sealed_size(size, self.chunk_size) > self._reserved:
            await self._reserve_more(size)
        if time.monotonic() > self._renewal_due:
            await self._renew()

    async def note_more(self, names: Sequence[str]) -> None:
        self.names += names
        await self._services.db.write(lambda tx: note_objects(tx, names))

    def keep_standing(self) -> AbstractAsyncContextManager[None]:
        """While something takes its time that tells of no bytes."""
        return keep_lease(
            self._services.db,
            lambda tx: renew_notes(tx, self.names),
            every_seconds=_RENEWED_EVERY_SECONDS,
        )

    async def require_room(self, tx: Tx, stored_size: int) -> None:
        """Raises:
        QuotaExceeded
        """
        if not self._is_promised:
            quota = self._services.settings.files.quota
            require_fit(stored_size, used=await self._sum_taken(tx), quota=quota)

    async def abandon(self) -> None:
        """Nothing of it stays, unless it was kept and only the answer is lost. Should the database be away, the
        notes fall due by themselves.
        """
        with contextlib.suppress(Exception):
            await self._services.db.write(lambda tx: give_up(tx, self.names))

    async def note(self, tx: Tx) -> int:
        """The scope of the person is locked. Gives the bytes that it may take, so that no two take the same room.

        Raises:
            QuotaExceeded, TooManyUploads
        """
        if self._is_promised:
            await note_objects(tx, self.names)
            return 0
        await require_place(tx, self._services.settings.files, self.owner_id)
        reserved = await self._find_room(tx, self._least_size, wanted=self._announced)
        await note_objects(tx, self.names, owner_id=self.owner_id, reserved=reserved)
        return reserved

    async def _require_free(self, size: int) -> None:
        """What surely does not fit is not begun: it would fill the disk up for everybody else before it is refused."""
        if not await self._services.storage.may_fit(sealed_size(size, self.chunk_size)):
            raise StorageFull

    async def _find_room(self, tx: Tx, size: int, *, wanted: int) -> int:
        """For so many plain bytes; gives what it may take in the storage: `wanted`, as far as there is so much.

        Raises:
            QuotaExceeded
        """
        quota, used = self._services.settings.files.quota, await self._sum_taken(tx)
        require_fit(sealed_size(size, self.chunk_size) if size else 0, used=used, quota=quota)
        return min(wanted, quota - used)

    async def _sum_taken(self, tx: Tx) -> int:
        """By all that is the person's but this."""
        return await sum_taken(
            tx, self.owner_id, chunk_size=self.chunk_size, beside_object=self.names[0]
        )

    async def _reserve_more(self, size: int) -> None:
        """Of what announced no length. Beyond what is there, for each step costs a transaction. A database that is
        away for a while ends no upload: what it takes is judged again at the end.

        Raises:
            QuotaExceeded
        """
        needed = sealed_size(size, self.chunk_size)
        step = min(max(needed // 8, _LEAST_STEP_BYTES), _MOST_STEP_BYTES)

        async def work(tx: Tx) -> int:
            await lock_scopes(tx, [user_scope(self.owner_id)])
            reserved = await self._find_room(tx, size, wanted=needed + step)
            await reserve(tx, self.names[0], reserved)
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
            await self._services.db.write(lambda tx: renew_notes(tx, self.names))
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


async def _begin_group(
    tx: Tx, items: Sequence[Reservation], *, may_wait: bool
) -> Sequence[int | Problem | Busy]:
    """Uploads that begin at the same moment, in one transaction."""
    owners = [item.owner_id for item in items]
    works = [partial(item.note, tx) for item in items]
    return await run_in_turn(tx, owners, works, may_wait=may_wait)
