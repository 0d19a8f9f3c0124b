"""What two who make the same file tell, and what nobody waits for any more."""

import asyncio
import gc
import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Response
from sqlalchemy import select

from app.features.files.models import DoomedObjectRow, FileRow, UploadRow
from app.features.files.reclaim import delete_doomed_objects
from app.features.files.resumable import routes as routes_module
from app.features.files.resumable.create import create_upload
from app.features.files.resumable.errors import UploadDamaged
from app.features.files.resumable.finish import finish_upload, finish_uploads
from app.features.files.resumable.incoming import Incoming
from app.features.files.resumable.metadata import parse_metadata
from app.features.files.resumable.queries import find_upload_by_id
from app.features.files.resumable.receive import receive
from app.features.files.resumable.terminate import terminate_upload
from app.features.files.resumable.upload import FAILED, FINISHED, Upload
from app.infra.services import Services
from app.infra.storage.port import Storage, StorageFull
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio

SIZE = 300_000


@dataclass
class Slow:
    """A storage whose first read of what it has waits until it may go on; all else is `inner`'s."""

    inner: Storage
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def read(
        self, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        self.asked.set()
        await self.goes_on.wait()
        async for piece in self.inner.read(name, start=start, length=length):
            yield piece


@dataclass
class Full:
    """A storage that takes nothing more. `tells`: before anything is written, too. All else is `inner`'s."""

    inner: Storage
    tells: bool
    is_full: bool = True
    asked: list[int] = field(default_factory=list)
    written: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def may_fit(self, size: int) -> bool:
        self.asked.append(size)
        return not (self.is_full and self.tells)

    async def write(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        self.written += 1
        if self.is_full:
            async for _ in chunks:
                continue
            raise StorageFull
        return await self.inner.write(name, chunks)


@dataclass
class Race:
    """A complete upload that a slow worker is about to make a file of."""

    depot: Depot
    upload: Upload
    storage: Slow
    slow: "asyncio.Task[None]"

    async def end(self) -> None:
        """Let the slow one find that the parts are gone."""
        await delete_doomed_objects(self.depot.services)
        self.storage.goes_on.set()
        await self.slow

    async def state(self) -> str | None:
        db, upload_id = self.depot.world.db, self.upload.id
        found = await db.read(lambda tx: find_upload_by_id(tx, upload_id))
        return None if found is None else found.state


async def bring(services: Services, depot: Depot) -> Upload:
    anna = await depot.world.new_user()
    metadata = parse_metadata("")
    upload = await create_upload(services, owner_id=anna, length=SIZE, metadata=metadata)

    async def pieces() -> AsyncIterator[bytes]:
        yield os.urandom(SIZE)

    assert await receive(services, upload, Incoming(pieces(), most=SIZE, may_go_on=lambda: True))
    return upload


@pytest.fixture
async def race(depot: Depot) -> Race:
    upload = await bring(depot.services, depot)
    storage = Slow(depot.services.storage)
    slow = asyncio.create_task(finish_upload(replace(depot.services, storage=storage), upload.id))
    await asyncio.wait_for(storage.asked.wait(), 30)
    return Race(depot, upload, storage, slow)


async def test_the_slower_of_two_says_what_the_faster_one_did(race: Race) -> None:
    await finish_upload(race.depot.services, race.upload.id)
    await race.end()
    assert await race.state() == FINISHED
    files = await race.depot.world.db.read(lambda tx: tx.scalars(select(FileRow.id)))
    assert len(files) == 1


async def test_one_that_was_terminated_meanwhile_is_not_called_damaged(race: Race) -> None:
    upload = race.upload
    await terminate_upload(race.depot.services, owner_id=upload.owner_id, token=upload.token)
    await race.end()
    assert await race.state() is None


async def test_one_that_lost_a_part_is_damaged(depot: Depot) -> None:
    upload = await bring(depot.services, depot)
    for name in depot.objects():
        await depot.services.storage.delete(name)
    with pytest.raises(UploadDamaged):
        await finish_upload(depot.services, upload.id)
    found = await depot.world.db.read(lambda tx: find_upload_by_id(tx, upload.id))
    assert found is not None
    assert found.state == FAILED


@pytest.mark.parametrize("tells", [True, False])
async def test_one_that_does_not_fit_is_tried_ever_less_often(depot: Depot, *, tells: bool) -> None:
    """And is not written at all where the storage tells that it has no room: others would meet the full disk."""
    upload = await bring(depot.services, depot)
    storage, db, clock = Full(depot.services.storage, tells), depot.world.db, depot.world.clock
    services = replace(depot.services, storage=storage)
    parts = depot.objects()
    with pytest.raises(StorageFull):
        await finish_upload(services, upload.id)
    pauses: list[timedelta] = []
    for _ in range(10):
        finish_at = await db.read(lambda tx: tx.scalar(select(UploadRow.finish_at)))
        assert finish_at is not None
        pauses.append(finish_at - clock.now())
        await finish_uploads(services)
        assert await db.read(lambda tx: tx.scalar(select(UploadRow.finish_at))) == finish_at
        clock.advance(seconds=pauses[-1].total_seconds())
        await finish_uploads(services)
    assert [it.total_seconds() for it in pauses] == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert storage.written == (0 if tells else 11)
    assert min(storage.asked) >= SIZE
    due = select(DoomedObjectRow.object_name).where(DoomedObjectRow.due_at > clock.now())
    assert await db.read(lambda tx: tx.scalars(due)) == []
    assert depot.objects() == parts
    storage.is_full = False
    clock.advance(minutes=5)
    await finish_uploads(services)
    found = await db.read(lambda tx: find_upload_by_id(tx, upload.id))
    assert found is not None
    assert found.state == FINISHED


async def test_what_fails_behind_the_answer_is_told_in_one_line(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no surprise to the event loop."""
    monkeypatch.setattr(routes_module, "_FINISH_SECONDS", 0)
    upload = await bring(depot.services, depot)
    for name in depot.objects():
        await depot.services.storage.delete(name)
    surprises: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: surprises.append(told))
    answer = Response()
    await routes_module._finish(depot.services, upload, answer)
    assert answer.background is not None
    await answer.background()
    answer.background = None
    gc.collect()
    assert surprises == []
    found = await depot.world.db.read(lambda tx: find_upload_by_id(tx, upload.id))
    assert found is not None
    assert found.state == FAILED
