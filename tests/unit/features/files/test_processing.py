"""Looking into films: whose fault it is when it does not work out, and whose it is meanwhile."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
from sqlalchemy import select, update

from app.features.files import process as process_module
from app.features.files.models import DoomedObjectRow, FileRow, FileWorkRow
from app.features.files.process import process_files
from app.features.files.reclaim import delete_doomed_objects
from app.features.files.uses import load_files
from app.features.files.views import FileView
from app.infra.media.processor import MediaProcessor
from app.infra.services import Services
from app.infra.storage.port import Storage, StorageFull, StorageUnavailable
from app.kernel.ids import UserId
from app.settings import FileSettings
from tests.support.media import video
from tests.support.waiting import eventually
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio


@dataclass
class Moody:
    """A storage that may be away, full, hang, or fail in a way that nobody thought of; all else is `inner`'s.
    `room`: so many objects more.
    """

    inner: Storage
    is_away: bool = False
    is_full: bool = False
    room: int = 100
    broken: set[str] = field(default_factory=set)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def may_fit(self, size: int) -> bool:
        return not self.is_full

    async def write(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        if self.room == 0:
            raise StorageFull
        self.room -= 1
        return await self.inner.write(name, chunks)

    async def read(
        self, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        self.asked.set()
        if name in self.broken:
            raise RuntimeError
        if self.goes_on is not None:
            await self.goes_on.wait()
        if self.is_away:
            raise StorageUnavailable
        async for piece in self.inner.read(name, start=start, length=length):
            yield piece


@dataclass
class Studio:
    """A depot with decoders, and a film that waits to be looked into."""

    depot: Depot
    services: Services
    storage: Moody
    owner_id: UserId

    async def film(self, *, seconds: int = 2) -> FileView:
        depot = replace(self.depot, services=self.services)
        film = await depot.upload(self.owner_id, video(seconds=seconds))
        # Its tracks were looked for.
        self.storage.asked.clear()
        return film

    async def work(self) -> list[tuple[int, datetime]]:
        rows = await self.depot.world.db.read(
            lambda tx: tx.all(select(FileWorkRow.attempts, FileWorkRow.due_at))
        )
        return [(row.attempts, row.due_at) for row in rows]

    async def look(self, film: FileView) -> FileView:
        world = self.depot.world
        found = await world.db.read(lambda tx: load_files(tx, world.keyring, [film["id"]]))
        return found[film["id"]]

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        async def check() -> bool:
            return holds()

        await eventually(check, timeout_seconds=30, what=what)


@pytest.fixture
async def studio(depot: Depot) -> AsyncIterator[Studio]:
    storage, media = Moody(depot.services.storage), MediaProcessor(processes=2)
    files = FileSettings(_env_file=None, MEDIA_PROCESSES=2)
    services = replace(
        depot.services,
        storage=storage,
        media=media,
        settings=replace(depot.services.settings, files=files),
    )
    yield Studio(depot, services, storage, await depot.world.new_user())
    await media.close()


async def test_a_storage_that_is_away_for_long_costs_a_film_nothing(studio: Studio) -> None:
    film = await studio.film()
    await studio.depot.show(5, film["id"])
    studio.storage.is_away = True
    for _ in range(6):
        await process_files(studio.services)
        [(attempts, _)] = await studio.work()
        assert attempts == 0
        studio.depot.world.clock.advance(minutes=3)
    studio.storage.is_away = False
    await process_files(studio.services)
    assert await studio.work() == []
    assert (await studio.look(film))["duration"] == pytest.approx(2, abs=0.1)
    assert studio.depot.shelf.told == [5]


async def test_pictures_that_do_not_fit_leave_nothing_and_are_tried_ever_less_often(
    studio: Studio,
) -> None:
    film = await studio.film()
    db, clock, before = studio.depot.world.db, studio.depot.world.clock, studio.depot.objects()
    pauses: list[float] = []
    for _ in range(3):
        # The first of two is written.
        studio.storage.room = 1
        await process_files(studio.services)
        [(attempts, due_at)] = await studio.work()
        assert attempts == 0
        pauses.append((due_at - clock.now()).total_seconds())
        notes = await db.read(lambda tx: tx.scalars(select(DoomedObjectRow.due_at)))
        assert len(notes) == 2
        assert all(it <= clock.now() for it in notes), "nobody waits for them"
        await delete_doomed_objects(studio.services)
        assert studio.depot.objects() == before
        clock.advance(seconds=pauses[-1])
    assert pauses == [5, 10, 20]
    studio.storage.room = 2
    await process_files(studio.services)
    assert "thumbnails" in await studio.look(film)


async def test_a_film_is_not_decoded_where_its_pictures_cannot_be_kept(studio: Studio) -> None:
    film = await studio.film()
    studio.storage.is_full = True
    for _ in range(3):
        await process_files(studio.services)
        studio.depot.world.clock.advance(minutes=5)
    assert not studio.storage.asked.is_set()
    studio.storage.is_full = False
    await process_files(studio.services)
    assert "duration" in await studio.look(film)


async def test_a_worker_that_stops_puts_its_film_back(studio: Studio) -> None:
    await studio.film()
    studio.storage.goes_on = asyncio.Event()
    working = asyncio.create_task(process_files(studio.services))
    await asyncio.wait_for(studio.storage.asked.wait(), 30)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    [(attempts, due_at)] = await studio.work()
    assert attempts == 0
    assert due_at < studio.depot.world.clock.now() + process_module._LEASE


async def test_a_film_that_takes_long_stays_its_workers(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_RENEWED_EVERY_SECONDS", 0.5)
    film = await studio.film()
    files = FileSettings(_env_file=None, MEDIA_PROCESSES=1)
    settings = replace(studio.services.settings, files=files)
    services = replace(studio.services, settings=settings)
    studio.storage.goes_on = asyncio.Event()
    working = asyncio.create_task(process_files(services))
    await asyncio.wait_for(studio.storage.asked.wait(), 30)
    clock = studio.depot.world.clock
    for _ in range(3):
        clock.advance(minutes=2)

        async def is_renewed() -> bool:
            [(_, due_at)] = await studio.work()
            return due_at > clock.now()

        await eventually(is_renewed, timeout_seconds=30, what="the renewal")
    await process_files(services)
    [(attempts, _)] = await studio.work()
    assert attempts == 1, "nobody else took it"
    studio.storage.goes_on.set()
    await working
    assert "duration" in await studio.look(film)


async def test_the_failure_of_one_film_leaves_the_others_alone(studio: Studio) -> None:
    """Two are worked on at once; what nobody thought of happens to one of them."""
    first, second = await studio.film(), await studio.film(seconds=3)
    db = studio.depot.world.db
    studio.storage.broken |= set(studio.depot.objects()[:1])
    with pytest.raises(RuntimeError):
        await process_files(studio.services)
    states = await db.read(lambda tx: tx.scalars(select(FileRow.state)))
    assert sorted(states) == ["processing", "ready"]
    [(attempts, _)] = await studio.work()
    assert attempts == 1
    looks = [await studio.look(it) for it in (first, second)]
    assert sorted("duration" in it for it in looks) == [False, True]


async def test_a_film_that_took_its_server_along_each_time_is_left_alone(studio: Studio) -> None:
    film = await studio.film()
    killed = update(FileWorkRow).values(attempts=process_module._MAX_ATTEMPTS)
    await studio.depot.world.db.write(lambda tx: tx.execute(killed))
    await process_files(studio.services)
    assert not studio.storage.asked.is_set()
    assert await studio.work() == []
    found = await studio.look(film)
    assert "is_processing" not in found
    assert "duration" not in found


async def test_one_that_was_known_first_by_another_is_told_again(studio: Studio) -> None:
    """The other may have been killed before it told."""
    film = await studio.film()
    await studio.depot.show(5, film["id"])
    studio.storage.goes_on = asyncio.Event()
    working = asyncio.create_task(process_files(studio.services))
    await asyncio.wait_for(studio.storage.asked.wait(), 30)
    known = update(FileRow).values(state="ready")
    await studio.depot.world.db.write(lambda tx: tx.execute(known))
    studio.storage.goes_on.set()
    await working
    assert studio.depot.shelf.told == [5]
