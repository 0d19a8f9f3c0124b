"""A directory whose disk is full, closed to us, away or hanging; what reaches the disk, and when."""

import asyncio
import os
import resource
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from app.infra.storage.local import LocalStorage
from app.infra.storage.names import MARKER
from app.infra.storage.port import ObjectMissing, StorageFull, StorageUnavailable
from app.settings import SettingsError
from tests.support.small_disk import small_disk
from tests.support.waiting import eventually
from tests.unit.infra.storage.stores import get, names, new_name, put, stream

MIB = 1_048_576
NOBODY = 65_534


@pytest.fixture
async def storage(directory: Path, anyio_backend: str) -> AsyncIterator[LocalStorage]:
    del anyio_backend
    made = LocalStorage(directory / "files")
    await made.check()
    yield made
    await made.close()


def files_under(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


async def test_a_full_disk_is_told_keeps_nothing_and_goes_on_reading(directory: Path) -> None:
    root = directory / "disk"
    with small_disk(root, size=8 * MIB) as disk:
        storage = LocalStorage(root / "files")
        await storage.check()
        kept = await put(storage, b"kept" * 1000)
        disk.fill([os.getpid()], leave=2 * MIB)
        for size in (3 * MIB, 20 * MIB):
            with pytest.raises(StorageFull):
                await storage.write(new_name(), stream([b"x" * 65_536] * (size // 65_536)))
            assert await names(storage) == {kept}
        assert files_under(root) - {"ballast"} == {kept}
        assert await get(storage, kept) == b"kept" * 1000
        # What was taken back is free again.
        await storage.delete(await put(storage, b"x" * MIB))
        disk.fill([os.getpid()])
        with pytest.raises(StorageFull):
            await storage.write(new_name(), stream([b"x" * 70_000]))
        await storage.delete(kept)
        assert await names(storage) == set()
        disk.free()
        assert await get(storage, await put(storage, b"x" * 3 * MIB)) == b"x" * 3 * MIB
        await storage.close()


async def test_what_surely_does_not_fit_is_told_before(directory: Path) -> None:
    with small_disk(directory / "disk", size=8 * MIB) as disk:
        storage = LocalStorage(disk.path)
        assert await storage.may_fit(MIB)
        assert not await storage.may_fit(1 << 60)
        if disk.is_mounted:
            assert not await storage.may_fit(9 * MIB)
            disk.fill([os.getpid()], leave=2 * MIB)
            assert [await storage.may_fit(size * MIB) for size in (1, 3)] == [True, False]
        await storage.close()


async def test_a_limit_on_the_size_of_files_is_a_full_disk(storage: LocalStorage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StorageFull):
            await storage.write(new_name(), stream([b"x" * 65_536] * 40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await names(storage) == set()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do anything, so for a while be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_directory_that_is_closed_to_us_is_named_and_unavailable(
    storage: LocalStorage, directory: Path
) -> None:
    name = await put(storage, b"x")
    (directory / "files").chmod(0o000)
    try:
        with as_nobody():
            with pytest.raises(SettingsError, match=r"VAR_DIR: .*Permission denied"):
                await storage.check()
            with pytest.raises(StorageUnavailable):
                await storage.write(new_name(), stream([b"x"]))
            with pytest.raises(StorageUnavailable):
                await get(storage, name)
    finally:
        (directory / "files").chmod(0o700)
    assert await get(storage, name) == b"x"


async def test_without_its_directory_nothing_is_known_of_any_object(
    storage: LocalStorage, directory: Path
) -> None:
    name = await put(storage, b"x")
    (directory / "files").rename(directory / "away")
    for call in (get(storage, name), storage.delete(name), names(storage)):
        with pytest.raises(StorageUnavailable) as caught:
            await call
        assert caught.value.retry_after
    (directory / "away").rename(directory / "files")
    assert await get(storage, name) == b"x"


async def test_without_its_disk_nothing_is_known_and_nothing_is_written(
    storage: LocalStorage, directory: Path
) -> None:
    """The directory is there, as the place where the disk was mounted."""
    await storage.write(MARKER, stream([b"ours"]))
    name = await put(storage, b"x")
    (directory / "files").rename(directory / "away")
    (directory / "files" / name[:2]).mkdir(parents=True)
    for call in (
        get(storage, name),
        get(storage, MARKER),
        storage.open_local(name),
        storage.delete(name),
        names(storage),
        storage.write(new_name(), stream([b"x"])),
    ):
        with pytest.raises(StorageUnavailable):
            await call
    assert files_under(directory / "files") == set()
    (directory / "files" / name[:2]).rmdir()
    (directory / "files").rmdir()
    (directory / "away").rename(directory / "files")
    assert await get(storage, name) == b"x"
    await storage.delete(name)
    await storage.delete(name)
    with pytest.raises(ObjectMissing):
        await get(storage, name)


async def test_a_marker_that_was_taken_away_on_purpose_may_be_put_back(
    storage: LocalStorage,
) -> None:
    for _ in range(2):
        await storage.write(MARKER, stream([b"ours"]))
        name = await put(storage, b"x")
        await storage.delete(MARKER)
        assert await get(storage, name) == b"x"
        await put(storage, b"y")


async def test_a_file_in_the_place_of_the_directory_is_named(directory: Path) -> None:
    (directory / "files").write_bytes(b"")
    storage = LocalStorage(directory / "files")
    with pytest.raises(SettingsError, match="VAR_DIR: "):
        await storage.check()
    await storage.close()


async def test_a_disk_that_hangs_costs_its_caller_a_moment_and_the_loop_nothing(
    storage: LocalStorage, directory: Path
) -> None:
    name = new_name()
    shard = directory / "files" / name[:2]
    shard.mkdir(exist_ok=True)
    # Opening it waits for somebody who writes, for ever, in the kernel.
    os.mkfifo(shard / name)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    beating = asyncio.create_task(beat())
    with patch("app.infra.storage.local.PATIENCE_SECONDS", 0.5):
        begun_at = time.monotonic()
        readings = await asyncio.gather(
            *(get(storage, name) for _ in range(3)), return_exceptions=True
        )
        assert time.monotonic() - begun_at < 20
    assert all(isinstance(reading, StorageUnavailable) for reading in readings)
    assert beats > 10
    # Others have threads of their own.
    assert await get(storage, await put(storage, b"x")) == b"x"
    os.close(os.open(shard / name, os.O_RDWR | os.O_NONBLOCK))
    beating.cancel()


async def test_syncs_of_a_busy_disk_hold_up_no_reader(storage: LocalStorage) -> None:
    name = await put(storage, b"kept" * 1000)
    released, syncing = threading.Event(), threading.Semaphore(0)
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        syncing.release()
        released.wait(60)
        fsync(descriptor)

    with patch("app.infra.storage.local.PATIENCE_SECONDS", 2), patch("os.fsync", slow_fsync):
        writes = [asyncio.create_task(put(storage, b"x" * 1000)) for _ in range(30)]
        try:
            # As many as there are threads for.
            for _ in range(8):
                assert await asyncio.to_thread(syncing.acquire, timeout=30)
            for _ in range(20):
                assert await get(storage, name) == b"kept" * 1000
            assert not any(write.done() for write in writes)
        finally:
            released.set()
        written = await asyncio.gather(*writes)
    assert {*written, name} == await names(storage)


async def test_uploads_that_a_hanging_sync_ended_hold_up_no_reader(storage: LocalStorage) -> None:
    """They are given up while the disk is still at them: so is what takes them back."""
    name = await put(storage, b"kept" * 1000)
    released = threading.Event()
    fsync = os.fsync

    def hanging_fsync(descriptor: int) -> None:
        released.wait(60)
        fsync(descriptor)

    module = "app.infra.storage.local"
    with (
        patch(f"{module}._SYNC_SECONDS", 0.2),
        patch(f"{module}.PATIENCE_SECONDS", 1),
        patch("os.fsync", hanging_fsync),
    ):
        try:
            writes = (storage.write(new_name(), stream([b"x" * 1000])) for _ in range(12))
            ends = await asyncio.gather(*writes, return_exceptions=True)
            assert all(isinstance(end, StorageUnavailable) for end in ends)
            with patch(f"{module}.PATIENCE_SECONDS", 30):
                assert await get(storage, name) == b"kept" * 1000
        finally:
            released.set()

    async def is_clean() -> bool:
        return await names(storage) == {name}

    await eventually(is_clean, timeout_seconds=30, what="nothing of them stays")


async def test_an_object_has_its_name_only_when_all_of_it_is_on_the_disk(
    storage: LocalStorage,
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        kind = "directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file"
        steps.append(f"sync {kind}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    await put(storage, b"so that")
    with patch("os.fsync", note_sync), patch.object(Path, "rename", note_rename):
        name = await put(storage, b"x" * MIB)
        assert steps[-3:] == ["sync file", "rename", "sync directory"]
        steps.clear()
        await storage.delete(name)
        assert steps == ["sync directory"]


async def test_a_file_is_handed_over_to_be_sent_as_it_is(storage: LocalStorage) -> None:
    name = await put(storage, b"as it is")
    descriptor = await storage.open_local(name)
    assert descriptor is not None
    await storage.delete(name)
    # Whoever has begun to send it goes on to its end.
    assert os.pread(descriptor, 100, 3) == b"it is"
    os.close(descriptor)
    with pytest.raises(ObjectMissing):
        await storage.open_local(name)


async def test_nobody_else_on_the_machine_may_read_files(
    storage: LocalStorage, directory: Path
) -> None:
    name = await put(storage, b"x")
    [path] = [it for it in (directory / "files").rglob(name) if it.is_file()]
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.parent.parent.stat().st_mode & 0o077 == 0


async def test_what_lies_under_a_name_is_never_changed(storage: LocalStorage) -> None:
    name = await put(storage, b"first")
    with pytest.raises(StorageUnavailable):
        await storage.write(name, stream([b"second"]))
    assert await get(storage, name) == b"first"


async def test_other_things_in_the_directory_are_no_objects(
    storage: LocalStorage, directory: Path
) -> None:
    name = await put(storage, b"x")
    (directory / "files" / "lost+found").mkdir()
    (directory / "files" / name[:2] / ".DS_Store").write_bytes(b"x")
    (directory / "files" / "README").write_bytes(b"x")
    assert await names(storage) == {name}


async def test_a_directory_has_no_urls(storage: LocalStorage) -> None:
    assert await storage.sign_url(await put(storage, b"x"), seconds=60) is None


async def test_an_object_that_is_deleted_while_it_is_read_is_read_to_its_end(
    storage: LocalStorage,
) -> None:
    name = await put(storage, b"x" * 4 * MIB)
    reading = storage.read(name)
    first = await anext(reading)
    await storage.delete(name)
    rest = b"".join([piece async for piece in reading])
    assert len(first) + len(rest) == 4 * MIB
    with pytest.raises(ObjectMissing):
        await get(storage, name)
