"""SIGTERM: requests in flight finish, sockets get 1012, and ten seconds are the end whatever hangs."""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.faults.promises.scale import full_only, scaled
from tests.faults.promises.stalled import StalledReader
from tests.support import missing
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.postgres import PostgresProcess, run_postgres_process
from tests.support.redis_server import RedisProcess, run_redis_process
from tests.support.servers import Server
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

STOP_SECONDS = scaled(quick=25.0, full=10.0)
AT_ONCE_SECONDS = scaled(quick=5.0, full=1.0)
_LONG_TEXT = "\u6f22" * 4000
_TEXTS_A_LOOK = 20

Start = Callable[[Server], Server]
WAYS: dict[str, Start] = {
    "launcher": lambda server: server.start(),
    "uvicorn": lambda server: server.start_uvicorn(),
    "two uvicorn workers": lambda server: server.start_uvicorn("--workers", "2"),
}


@dataclass
class Scene:
    """Anna and Bruno in a chat, a socket that listens and one that also talks without a pause."""

    server: Server
    backend: Backend
    anna: Person
    bruno: Person
    chat: Json
    sockets: list[Socket] = field(default_factory=list[Socket])
    talking: "asyncio.Task[None] | None" = None

    async def send(self, text: str) -> httpx.Response:
        body = {"chat_id": self.chat["id"], "text": text}
        return await self.anna.call("POST", "/messages/", body)

    async def stall(self, readers: int) -> list[StalledReader]:
        """Sockets before which something waits in the server that nobody reads."""
        stalled = [
            await StalledReader.open(f"{self.server.websocket_url}{API}/ws/{ticket}")
            for ticket in [await self.bruno.ticket() for _ in range(readers)]
        ]
        for reader in stalled:
            self.backend.stack.callback(reader.close)
        held = -1
        # Until the kernel takes no more: the last texts wait before it.
        while (now := sum(reader.waiting_bytes() for reader in stalled)) > held:
            held = now
            for _ in range(_TEXTS_A_LOOK):
                await self.anna.say(self.chat, _LONG_TEXT)
        return stalled

    async def expect_restart(self) -> None:
        for socket in self.sockets:
            await socket.expect_close(1012)
        if self.talking is not None:
            await self.talking


@pytest.fixture
async def stack(anyio_backend: str) -> AsyncIterator[AsyncExitStack]:
    del anyio_backend
    async with AsyncExitStack() as opened:
        yield opened


async def set_scene(server: Server, stack: AsyncExitStack) -> Scene:
    backend = Backend(Deployment(server.name, [server]), stack)
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    scene = Scene(server, backend, anna, bruno, chat)
    scene.sockets = [await bruno.connect(), await bruno.connect()]

    async def talk() -> None:
        socket = scene.sockets[1]
        while socket.close_code is None:
            with suppress(ConnectionClosed):
                await socket.send_frame("ping")
            await asyncio.sleep(0.02)

    scene.talking = asyncio.create_task(talk())
    return scene


@dataclass
class Backing:
    """What a server of several workers runs on."""

    postgres: PostgresProcess
    redis: RedisProcess
    settings: dict[str, str]

    def hang(self) -> None:
        """Connections stay open and nothing answers any more."""
        self.postgres.signal(signal.SIGSTOP)
        self.redis.signal(signal.SIGSTOP)


@pytest.fixture
def backing() -> Iterator[Backing]:
    with ExitStack() as processes:
        try:
            postgres = processes.enter_context(run_postgres_process())
            redis = processes.enter_context(run_redis_process())
        except missing.Missing as reason:
            missing.skip("PostgreSQL and Redis as processes", str(reason))
        settings = {
            "DATABASE_TYPE": "postgresql",
            "DATABASE_URL": postgres.url,
            "USE_REDIS": "true",
            "REDIS_URL": redis.url,
        }
        yield Backing(postgres, redis, settings)


async def stop(server: Server, *, within_seconds: float = STOP_SECONDS) -> int:
    """The exit status after a SIGTERM that was just sent."""
    return await asyncio.to_thread(server.wait_for_exit, within_seconds)


@contextmanager
def locked(file: Path) -> Iterator[Callable[[], None]]:
    """Somebody else writes into the database; call the answer to let go."""
    with sqlite3.connect(file, isolation_level=None, check_same_thread=False) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield lambda: connection.execute("ROLLBACK")
    connection.close()


@pytest.mark.parametrize("way", scaled(quick=["launcher"], full=["launcher", "uvicorn"]))
async def test_a_slow_request_finishes_while_sockets_are_told(
    directory: Path, stack: AsyncExitStack, way: str
) -> None:
    server = WAYS[way](Server(directory, name=way, forked=False))
    scene = await set_scene(server, stack)
    with locked(server.var_dir / "messenger.db") as let_go:
        slow = asyncio.create_task(scene.send("slow"))
        await eventually(lambda: is_waiting(slow), what="the request in flight")
        os.kill(server.pid, signal.SIGTERM)
        asyncio.get_running_loop().call_later(scaled(quick=1.0, full=3.0), let_go)
        await scene.expect_restart()
        assert not slow.done()
        await refuses_newcomers(server)
        assert (await slow).status_code == httpx.codes.CREATED
    assert await stop(server) in {0, -signal.SIGTERM}
    assert server.faults() == []


async def is_waiting(task: "asyncio.Task[httpx.Response]") -> bool:
    """Two looks apart, so that it has reached the server."""
    await asyncio.sleep(0.2)
    assert not task.done(), task.result()
    return True


async def refuses_newcomers(server: Server) -> None:
    """Not ready as long as anybody listens, and then nobody does."""

    async def is_closed() -> bool:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
            try:
                answer = await client.get("/health/ready")
            except httpx.TransportError:
                return True
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        return False

    await eventually(is_closed, what="the end of listening")


@full_only
@pytest.mark.parametrize("way", ["launcher", "uvicorn", "two uvicorn workers"])
async def test_ten_seconds_are_the_end_whatever_hangs(
    directory: Path, stack: AsyncExitStack, backing: Backing, way: str
) -> None:
    workers = {"WORKERS": "2"} if way == "launcher" else {}
    server = WAYS[way](Server(directory, backing.settings | workers, name=way, forked=False))
    scene = await set_scene(server, stack)
    await scene.stall(4)
    backing.hang()
    stuck = asyncio.create_task(scene.send("stuck"))
    await eventually(lambda: is_waiting(stuck), what="the request in flight")
    started = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    await scene.expect_restart()
    assert (await stuck).status_code == httpx.codes.SERVICE_UNAVAILABLE
    await stop(server)
    assert time.monotonic() - started <= STOP_SECONDS
    backing.postgres.kill()


@pytest.mark.parametrize("second", scaled(quick=["SIGINT"], full=["SIGTERM", "SIGINT"]))
@pytest.mark.parametrize("workers", scaled(quick=["1"], full=["1", "2"]))
async def test_who_asks_twice_is_not_kept_waiting(
    directory: Path, backing: Backing, workers: str, second: str
) -> None:
    server = Server(directory, backing.settings | {"WORKERS": workers}, forked=False).start()
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    backing.postgres.signal(signal.SIGSTOP)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        stuck = asyncio.create_task(client.get("/health/ready"))
        await eventually(lambda: is_waiting(stuck), what="the request in flight")
        os.kill(server.pid, signal.SIGTERM)
        await eventually(lambda: has_begun_to_stop(server), what="the stop")
        os.kill(server.pid, signal.Signals[second])
        await stop(server, within_seconds=AT_ONCE_SECONDS)
        await eventually(lambda: are_gone(processes), what="the end of all")
        await asyncio.gather(stuck, return_exceptions=True)
    backing.postgres.kill()


async def has_begun_to_stop(server: Server) -> bool:
    return "Shutting down" in server.output()


async def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )
