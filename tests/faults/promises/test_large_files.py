"""A large file goes in and out in memory that does not grow with it, however slowly somebody reads beside it."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest

from tests.conftest import BACKENDS
from tests.faults.promises.scale import scaled
from tests.support.lone_servers import lone_server
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.tus import BODY_TYPE, TUS, begin
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MIB = 1_048_576
# As they usually lie a whole gigabyte, for that is the promise; elsewhere what tells whether they take memory.
SIZES = {"sqlite": 1024 * MIB}
SIZE = scaled(quick=200, full=1024) * MIB
ALLOWED_GROWTH_BYTES = 64 * MIB
SLOW_READERS = 2
# What the kernel of a reader takes before it is full.
_READ_BYTES = 65_536
_STEP_SECONDS = 0.02
_PATIENCE_SECONDS = 600.0


Upload = Callable[[Person, "Content"], Awaitable[Json]]


class Growth:
    """The most that a server with its workers holds while this is open, beyond what it held before; in bytes."""

    def __init__(self, deployment: Deployment) -> None:
        self._pid = deployment.nodes[0].pid
        self._before = 0
        self._most = 0
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._before = self._most = self._held()
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        self._most = max(self._most, self._held())

    @property
    def bytes(self) -> int:
        return self._most - self._before

    async def _look(self) -> None:
        while True:
            self._most = max(self._most, self._held())
            await asyncio.sleep(_STEP_SECONDS)

    def _held(self) -> int:
        held = 0
        server = psutil.Process(self._pid)
        for process in (server, *server.children(recursive=True)):
            # A decoder may end while we look.
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held


class Content:
    """So many bytes, never all of them at hand, no MiB like another; `sha256` of what was taken last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sha256 = ""
        self._block = os.urandom(MIB)

    async def pieces(self) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        for number in range(self.size // MIB):
            piece = number.to_bytes(8, "big") + self._block[8:]
            digest.update(piece)
            yield piece
        self.sha256 = digest.hexdigest()


class StalledDownload:
    """Asks for a file, reads some of it, and then nothing while this is open."""

    def __init__(self, person: Person, file: Json) -> None:
        self._head = (
            f"GET {file['url']} HTTP/1.1\r\nHost: a\r\n"
            f"Authorization: Bearer {person.access_token}\r\n\r\n"
        )
        self._port = person.node.port
        self._socket = socket.socket()

    async def __aenter__(self) -> Self:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_BYTES)
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        await loop.sock_sendall(self._socket, self._head.encode())
        assert (await loop.sock_recv(self._socket, _READ_BYTES)).startswith(b"HTTP/1.1 200 ")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()


@pytest.fixture(params=[*BACKENDS, "plain files"])
def lone(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    settings = {"ENCRYPT_FILES": "false"} if request.param == "plain files" else {}
    with lone_server(request, directory, settings) as deployment:
        yield deployment


@pytest.fixture
async def anna(lone: Deployment, anyio_backend: str) -> AsyncIterator[Person]:
    """Somebody who has sent and read a file before, so that what is loaded once is."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        person = await Backend(lone, stack).sign_up()
        person.client.timeout = httpx.Timeout(_PATIENCE_SECONDS)
        for upload in (upload_form, upload_resumable):
            content = Content(16 * MIB)
            assert await download(person, await upload(person, content)) == content.sha256
        yield person


async def upload_form(person: Person, content: Content) -> Json:
    async def body() -> AsyncIterator[bytes]:
        yield FILE_HEAD
        async for piece in content.pieces():
            yield piece
        yield FORM_END

    answer = await person.client.post(
        f"{API}/files/upload",
        content=body(),
        headers={
            "Authorization": f"Bearer {person.access_token}",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(len(FILE_HEAD) + content.size + len(FORM_END)),
        },
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def upload_resumable(person: Person, content: Content) -> Json:
    upload = await begin(person, content.size)
    answer = await person.client.patch(
        API + upload.path,
        content=content.pieces(),
        headers=TUS
        | {
            "Authorization": f"Bearer {person.access_token}",
            "Content-Type": BODY_TYPE,
            "Upload-Offset": "0",
        },
    )
    assert answer.status_code == 204, answer.text
    standing = await upload.standing()

    async def is_finished() -> bool:
        standing.update(await upload.standing())
        return standing["state"] == "finished"

    await eventually(is_finished, timeout_seconds=_PATIENCE_SECONDS, what="the file")
    return standing["file"]


async def download(person: Person, file: Json) -> str:
    """The hash of what came."""
    digest = hashlib.sha256()
    headers = {"Authorization": f"Bearer {person.access_token}"}
    async with person.client.stream("GET", file["url"], headers=headers) as answer:
        assert answer.status_code == 200
        async for piece in answer.aiter_raw():
            digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("upload", [upload_form, upload_resumable], ids=["form", "tus"])
async def test_a_large_file_takes_no_memory(lone: Deployment, anna: Person, upload: Upload) -> None:
    size = SIZES.get(lone.name, SIZE)
    content = Content(size)
    async with Growth(lone) as sending:
        file = await upload(anna, content)
    assert (file["size"], file["sha256"]) == (size, content.sha256)
    async with Growth(lone) as reading:
        assert await download(anna, file) == content.sha256
    async with Growth(lone) as stalling, AsyncExitStack() as stack:
        for _ in range(SLOW_READERS):
            await stack.enter_async_context(StalledDownload(anna, file))
        assert await download(anna, file) == content.sha256
    print(
        f"{size // MIB} MiB on {lone.name}: {sending.bytes >> 20} MiB more sending,"
        f" {reading.bytes >> 20} reading, {stalling.bytes >> 20} beside {SLOW_READERS} who stall"
    )
    assert max(sending.bytes, reading.bytes, stalling.bytes) < ALLOWED_GROWTH_BYTES
