"""A line that went silent without a word is noticed: its sockets, their memory and their presence go."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from tests.faults.promises.scale import FORKED, SCALE, scaled
from tests.faults.tcp_proxy import TcpProxy
from tests.support.people import API, Backend, Deployment, Person
from tests.support.servers import Server
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PEOPLE = scaled(quick=2, full=20)
SOCKETS_EACH = 3
# A heartbeat of a second makes a silent line dead within six.
SETTINGS = scaled(quick={"WS_HEARTBEAT_SECONDS": "1"}, full={})
# Two heartbeats of the contract.
GONE_SECONDS = 60.0
# Other files that a server may have opened meanwhile.
_OTHER_FILES = 10


def count_lines(server: Server) -> int:
    """Connections of clients."""
    found = psutil.Process(server.pid).net_connections("tcp")
    return sum(
        it.laddr.port == server.port and it.status == psutil.CONN_ESTABLISHED for it in found
    )


async def open_through(proxy: TcpProxy, person: Person) -> Socket:
    url = f"ws://127.0.0.1:{proxy.port}{API}/ws/{await person.ticket()}"
    return await Socket.open(url)


@pytest.mark.parametrize("way", scaled(quick=["launcher"], full=["launcher", "uvicorn"]))
async def test_half_open_sockets_are_gone_within_two_heartbeats(directory: Path, way: str) -> None:
    server = Server(directory, SETTINGS, name=way, forked=FORKED)
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        if way == "launcher":
            server.start()
        else:
            server.start_uvicorn()
        backend = Backend(Deployment("sqlite", [server]), stack)
        await silence(server, backend)
        await asyncio.to_thread(server.stop)
    assert server.faults() == []


async def silence(server: Server, backend: Backend) -> None:
    people = await backend.people(PEOPLE)
    bruno = await backend.sign_up()
    for person in people:
        await bruno.private_chat(person)
        # From here on its client keeps its connection.
        await person.get("/users/me")
    watcher = await bruno.connect()
    process = psutil.Process(server.pid)
    lines, files = count_lines(server), process.num_fds()
    async with TcpProxy.to("127.0.0.1", server.port) as proxy:
        sockets = [
            await open_through(proxy, person) for person in people for _ in range(SOCKETS_EACH)
        ]
        for person in people:
            await watcher.expect("user_online", {"user_id": person.id})
        assert count_lines(server) >= lines + len(sockets)
        started = time.monotonic()
        assert proxy.silence() == len(sockets)

        async def are_gone() -> bool:
            return count_lines(server) <= lines

        await eventually(are_gone, timeout_seconds=GONE_SECONDS, what="the end of silent lines")
        assert process.num_fds() <= files + _OTHER_FILES
        if SCALE == "full":
            for person in people:
                left = started + GONE_SECONDS - time.monotonic()
                await watcher.expect("user_offline", {"user_id": person.id}, timeout_seconds=left)
            print(f"half-open: all offline after {time.monotonic() - started:.1f} s")
        for socket in sockets:
            socket.abort()
        await asyncio.gather(*(socket.close() for socket in sockets))
