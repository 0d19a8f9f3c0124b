"""The room of resumable uploads: judged as what it takes in the storage, and theirs until they are files."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.features.files.errors import QuotaExceeded
from app.features.files.policy import Purpose
from app.features.files.resumable.create import create_upload
from app.features.files.resumable.finish import finish_upload
from app.features.files.resumable.incoming import Incoming
from app.features.files.resumable.metadata import parse_metadata
from app.features.files.resumable.queries import find_upload_by_id
from app.features.files.resumable.receive import receive
from app.features.files.resumable.tell_length import tell_length
from app.features.files.resumable.upload import FINISHED, Upload
from app.features.files.store import store_upload
from app.features.files.views import FileView
from app.infra.cipher.chunks import CHUNK_BYTES, TAG_BYTES
from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.problems import Unavailable
from app.settings import FileSettings
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio

# Two chunks, and their tags.
LENGTH = CHUNK_BYTES + 1
TAKEN = LENGTH + 2 * TAG_BYTES


def with_quota(depot: Depot, quota: int) -> Services:
    files = FileSettings(_env_file=None, FILES_QUOTA=quota, ENCRYPT_FILES=True)
    return replace(depot.services, settings=replace(depot.services.settings, files=files))


async def begin(services: Services, owner_id: UserId, length: int | None) -> Upload:
    metadata = parse_metadata("")
    return await create_upload(services, owner_id=owner_id, length=length, metadata=metadata)


async def send(services: Services, upload: Upload, size: int) -> bool:
    async def pieces() -> AsyncIterator[bytes]:
        yield os.urandom(size)

    body = Incoming(pieces(), most=size, may_go_on=lambda: True)
    return await receive(services, upload, body)


@pytest.mark.parametrize("is_told_late", [False, True])
async def test_what_just_fits_when_it_is_told_becomes_a_file(
    depot: Depot, *, is_told_late: bool
) -> None:
    anna = await depot.world.new_user()
    tight, exact = with_quota(depot, TAKEN - 1), with_quota(depot, TAKEN)
    if is_told_late:
        upload = await begin(exact, anna, None)
        with pytest.raises(QuotaExceeded):
            await tell_length(tight, upload, LENGTH)
        upload = await tell_length(exact, upload, LENGTH)
    else:
        with pytest.raises(QuotaExceeded):
            await begin(tight, anna, LENGTH)
        upload = await begin(exact, anna, LENGTH)
    assert await send(exact, upload, LENGTH)
    await finish_upload(exact, upload.id)
    found = await depot.world.db.read(lambda tx: find_upload_by_id(tx, upload.id))
    assert found is not None
    assert found.state == FINISHED


async def test_one_that_is_complete_counts_until_it_is_a_file(depot: Depot) -> None:
    anna = await depot.world.new_user()
    services = with_quota(depot, 2 * TAKEN)
    first, second = await begin(services, anna, LENGTH), await begin(services, anna, LENGTH)
    assert await send(services, first, LENGTH)
    with pytest.raises(QuotaExceeded):
        await begin(services, anna, 1)
    assert await send(services, second, LENGTH)
    for upload in (second, first):
        await finish_upload(services, upload.id)
    with pytest.raises(QuotaExceeded):
        await begin(services, anna, 1)


class Running:
    """An upload by a form that stands still behind its first `size` bytes."""

    def __init__(
        self, services: Services, owner_id: UserId, size: int, declared: int | None
    ) -> None:
        self._size = size
        self._goes_on, self.stands = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(
            store_upload(
                services,
                owner_id=owner_id,
                chunks=self._chunks(),
                original_name="a.bin",
                purpose=Purpose.ATTACHMENT,
                declared_size=declared,
                overhead=1000,
            )
        )

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield os.urandom(self._size)
        self.stands.set()
        await self._goes_on.wait()

    async def end(self) -> FileView:
        self._goes_on.set()
        return await self.task


@pytest.mark.parametrize("is_announced", [True, False])
async def test_forms_under_way_take_room(depot: Depot, *, is_announced: bool) -> None:
    """By what they announce, else by what has come: together never more than there is, also while they run."""
    anna, bruno = await depot.world.new_user(), await depot.world.new_user("+447400123457")
    services = with_quota(depot, 2 * TAKEN)
    declared = LENGTH if is_announced else None
    first = Running(services, anna, LENGTH, declared)
    await asyncio.wait_for(first.stands.wait(), 30)
    if is_announced:
        second = Running(services, anna, LENGTH, declared)
        await asyncio.wait_for(second.stands.wait(), 30)
        await second.end()
    size = LENGTH if is_announced else 2 * LENGTH
    third = Running(services, anna, size, declared)
    with pytest.raises(QuotaExceeded):
        await asyncio.wait_for(third.task, 30)
    with pytest.raises(QuotaExceeded):
        await begin(services, anna, size)
    # Nobody else's, and its own room it has.
    other = Running(services, bruno, LENGTH, declared)
    await asyncio.wait_for(other.stands.wait(), 30)
    assert (await first.end())["size"] == (await other.end())["size"] == LENGTH


async def test_what_a_form_has_reserved_is_free_when_it_breaks(depot: Depot) -> None:
    anna = await depot.world.new_user()
    services = with_quota(depot, TAKEN)
    for declared in (LENGTH, None, LENGTH):
        broken = Running(services, anna, 1000, declared)
        await asyncio.wait_for(broken.stands.wait(), 30)
        broken.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await broken.task
    whole = Running(services, anna, LENGTH, LENGTH + 900)
    assert (await whole.end())["size"] == LENGTH, "what is not of the file takes no room"
    with pytest.raises(QuotaExceeded):
        await Running(services, anna, 1, None).task


async def test_what_is_announced_and_does_not_fit_is_refused_at_once(depot: Depot) -> None:
    anna = await depot.world.new_user()
    late = Running(with_quota(depot, TAKEN), anna, 1, LENGTH + 1001)
    with pytest.raises(QuotaExceeded):
        await late.task
    assert not late.stands.is_set()


async def test_an_upload_of_no_length_outlives_a_database_that_is_away(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes is judged at the end."""

    async def fail(*_: object) -> None:
        raise Unavailable

    anna = await depot.world.new_user()
    monkeypatch.setattr("app.features.files.reservation.reserve", fail)
    whole = Running(with_quota(depot, TAKEN), anna, LENGTH, None)
    assert (await whole.end())["size"] == LENGTH
    with pytest.raises(QuotaExceeded):
        await Running(with_quota(depot, TAKEN + 10), anna, 300, None).end()


async def test_bytes_of_no_told_length_are_judged_as_they_come(depot: Depot) -> None:
    anna = await depot.world.new_user()
    services = with_quota(depot, TAKEN)
    upload = await begin(services, anna, None)
    with pytest.raises(QuotaExceeded):
        await send(services, upload, LENGTH + 1)
    assert not await send(services, upload, LENGTH)
