"""What every storage promises: whole objects or none, ranges, deletion for good, in constant memory."""

import asyncio
import secrets
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.infra.storage.address import read_bucket
from app.infra.storage.local import LocalStorage
from app.infra.storage.port import ObjectMissing, Storage
from app.infra.storage.s3 import S3Storage
from tests.support.s3_server import S3Server
from tests.support.servers import ROOT
from tests.unit.infra.storage.stores import get, names, new_bucket, new_name, put, stream

MIB = 1_048_576


@pytest.fixture(params=["local", "s3", "s3 with a prefix"])
async def storage(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Storage]:
    del anyio_backend
    if request.param == "local":
        made: Storage = LocalStorage(directory / "files")
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        prefix = "" if request.param == "s3" else "some/where"
        made = S3Storage(read_bucket(new_bucket(server, prefix)))
    await made.check()
    yield made
    await made.close()


@pytest.mark.parametrize("size", [0, 1, 262_144, MIB, 5 * MIB, 12 * MIB + 7])
async def test_what_was_written_is_read(storage: Storage, size: int) -> None:
    content = secrets.token_bytes(size)
    name = new_name()
    pieces = [content[start : start + 65_000] for start in range(0, size, 65_000)]
    assert await storage.write(name, stream(pieces)) == size
    assert await get(storage, name) == content


async def test_pieces_of_any_size_are_taken_and_none_larger_than_a_mebibyte_is_given(
    storage: Storage,
) -> None:
    pieces = [b"", b"a", secrets.token_bytes(7 * MIB), b"", secrets.token_bytes(3), b""]
    name = await put(storage, *pieces)
    given = [piece async for piece in storage.read(name)]
    assert b"".join(given) == b"".join(pieces)
    assert 0 < min(map(len, given)) <= max(map(len, given)) <= MIB


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, 0), (5, 10), (MIB - 1, 2), (0, None), (3 * MIB, None), (3 * MIB + 9, 1)],
)
async def test_a_range_is_read(storage: Storage, start: int, length: int | None) -> None:
    content = secrets.token_bytes(3 * MIB + 10)
    name = await put(storage, content)
    end = None if length is None else start + length
    assert await get(storage, name, start=start, length=length) == content[start:end]


async def test_a_range_past_the_end_gives_what_there_is(storage: Storage) -> None:
    name = await put(storage, b"0123456789")
    assert await get(storage, name, start=7, length=100) == b"789"
    assert await get(storage, name, start=10) == b""
    assert await get(storage, name, start=11, length=5) == b""
    empty = await put(storage)
    assert await get(storage, empty) == b""
    assert await get(storage, empty, start=0, length=5) == b""


async def test_a_reader_may_stop_anywhere(storage: Storage) -> None:
    name = await put(storage, secrets.token_bytes(4 * MIB))
    for _ in range(30):
        reading = storage.read(name)
        async for _ in reading:
            break
        await reading.aclose()  # type: ignore[attr-defined] - a generator
    assert len(await get(storage, name)) == 4 * MIB


async def test_what_does_not_exist_is_missing_and_deleted_already(storage: Storage) -> None:
    name = new_name()
    with pytest.raises(ObjectMissing):
        await get(storage, name)
    with pytest.raises(ObjectMissing):
        await get(storage, name, start=3, length=4)
    await storage.delete(name)


async def test_what_is_deleted_is_gone(storage: Storage) -> None:
    name, other = await put(storage, b"first"), await put(storage, b"second")
    await storage.delete(name)
    await storage.delete(name)
    with pytest.raises(ObjectMissing):
        await get(storage, name)
    assert await names(storage) == {other}
    assert await get(storage, other) == b"second"


async def test_every_object_is_listed_with_its_time(storage: Storage) -> None:
    assert await names(storage) == set()
    made = {await put(storage, b"x") for _ in range(60)}
    found = [entry async for entry in storage.list_names()]
    assert sorted(name for name, _ in found) == sorted(made)
    for _, written_at in found:
        assert abs(datetime.now(UTC) - written_at) < timedelta(minutes=1)


@pytest.mark.parametrize("before", [0, 100, 6 * MIB, 11 * MIB])
async def test_chunks_that_fail_leave_nothing(storage: Storage, before: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(0, before, 100_000):
            yield secrets.token_bytes(100_000)
        raise ConnectionResetError

    name = new_name()
    with pytest.raises(ConnectionResetError):
        await storage.write(name, broken())
    with pytest.raises(ObjectMissing):
        await get(storage, name)
    assert await names(storage) == set()


@pytest.mark.parametrize("before", [0, 100, 6 * MIB])
async def test_a_cancelled_write_leaves_nothing(storage: Storage, before: int) -> None:
    is_waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(0, before, 100_000):
            yield secrets.token_bytes(100_000)
        is_waiting.set()
        await asyncio.Event().wait()

    name = new_name()
    writing = asyncio.create_task(storage.write(name, endless()))
    await is_waiting.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await names(storage) == set()


async def test_a_write_cancelled_at_any_moment_is_whole_or_absent(storage: Storage) -> None:
    content = secrets.token_bytes(2 * MIB)
    for step in range(40):
        name = new_name()
        pieces = [content[start : start + 65_536] for start in range(0, len(content), 65_536)]
        writing = asyncio.create_task(storage.write(name, stream(pieces)))
        for _ in range(step * 2):
            await asyncio.sleep(0)
        writing.cancel()
        try:
            await writing
        except asyncio.CancelledError:
            assert name not in await names(storage)
        else:
            assert await get(storage, name) == content


_ENDLESS = """
import asyncio, os, sys
from app.infra.storage.choose import choose_storage
from app.settings import load_settings

async def endless():
    for number in range(10_000):
        if number == 30:
            print("under way", flush=True)
        yield os.urandom(500_000)

async def main():
    await choose_storage(load_settings(None)).write(sys.argv[1], endless())

asyncio.run(main())
"""


async def test_a_writer_that_is_killed_leaves_no_object(
    storage: Storage, directory: Path, request: pytest.FixtureRequest
) -> None:
    name = new_name()
    environment = {"VAR_DIR": str(directory)}
    if isinstance(storage, S3Storage):
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = storage._bucket
        environment |= server.environment(bucket.name, bucket.prefix)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ENDLESS, name, env=environment, cwd=ROOT, stdout=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"under way\n"
    process.kill()
    await process.wait()
    with pytest.raises(ObjectMissing):
        await get(storage, name)
    # Its name was noted before it was written; what is left under it goes with it.
    await storage.delete(name)
    assert await names(storage) == set()
    assert not any(path.is_file() for path in (directory / "files").rglob("*"))


async def test_many_write_and_read_at_once(storage: Storage) -> None:
    async def one(number: int) -> None:
        content = bytes([number]) * (200_000 + number)
        name = await put(storage, content[:1000], content[1000:])
        assert await get(storage, name, start=number, length=1000) == content[number:][:1000]
        if number % 2:
            await storage.delete(name)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(one(number))
    assert len(await names(storage)) == 25


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "x" * 15,
        "x" * 129,
        "a\0" * 20,
        "é" * 20,
        "a.part" * 4,
    ],
)
async def test_a_name_that_the_server_never_makes_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="names of objects"):
        await storage.write(name, stream([b"x"]))
    with pytest.raises(ValueError, match="names of objects"):
        await get(storage, name)
    with pytest.raises(ValueError, match="names of objects"):
        await storage.delete(name)


async def test_a_check_leaves_nothing(storage: Storage) -> None:
    await storage.check()
    assert await names(storage) == set()
