"""Connections over real uvicorn, with our protocol and without it: order, bounds, close codes."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
import websockets

from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import Scope, ScopeKind
from app.transport.http.protocol import HttpProtocol
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.frames import MAX_FRAME_BYTES
from app.transport.websocket.hub import Hub
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import FrameProtocol
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SCOPE = Scope(ScopeKind.CHAT, 1)
LIMIT = 200_000


class Room:
    """An application in which everybody follows one scope."""

    def __init__(self) -> None:
        self.hub = Hub(lambda _scope: None)
        self.connections: list[Connection] = []
        self.server: uvicorn.Server | None = None

    def stop(self) -> None:
        """As SIGTERM does."""
        assert self.server is not None
        self.server.should_exit = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        connection = Connection(
            scope,
            receive,
            send,
            user_id=UserId(1),
            session_id=SessionId(1),
            chat_id=None,
            queue_bytes=LIMIT,
            expires_at=0,
        )
        self.connections.append(connection)
        self.hub.add(connection)
        self.hub.follow(connection, SCOPE, 0)
        while (await connection.receive())["type"] != "websocket.disconnect":
            pass
        connection.mark_lost()
        self.hub.remove(connection)

    def tell(self, seq: int, size: int = 10) -> None:
        self.hub.deliver(SCOPE, seq, OutFrame(b"%d " % seq + b"x" * size))


@asynccontextmanager
async def running(protocol: Any, http: Any = "auto") -> AsyncIterator[tuple[Room, str]]:
    room = Room()
    config = uvicorn.Config(
        room,
        port=0,
        http=http,
        ws=protocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="error",
        timeout_graceful_shutdown=4,
    )
    room.server = server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield room, f"ws://127.0.0.1:{port}/"
    server.should_exit = True
    await task


@pytest.fixture(params=[FrameProtocol, "websockets-sansio"], ids=["ours", "bare"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


async def until(met: Any) -> None:
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110 - a condition of the other end, which no event tells
            await asyncio.sleep(0.01)


async def test_all_sockets_get_the_same_frames_in_order(protocol: Any) -> None:
    async with running(protocol) as (room, address):
        clients = [await websockets.connect(address) for _ in range(5)]
        await until(lambda: len(room.connections) == 5)
        for seq in range(1, 51):
            room.tell(seq)
        for client in clients:
            frames = [await client.recv() for _ in range(50)]
            assert [int(str(frame).split()[0]) for frame in frames] == list(range(1, 51))
            await client.close()


async def test_the_kernel_does_not_keep_for_a_slow_reader_what_the_queue_may_not() -> None:
    async with running(FrameProtocol) as (room, address):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", urlsplit(address).port))
        slow = await websockets.connect(address, sock=line, max_queue=1)
        await until(lambda: len(room.connections) == 1)
        seq = 0
        while room.connections[0].close_code is None:
            seq += 1
            room.tell(seq, 4000)
            await asyncio.sleep(0)
        assert LIMIT < seq * 4000 < LIMIT + 400_000
        _ = [frame async for frame in _until_closed(slow)]
        assert slow.close_code == CloseCode.TOO_SLOW


async def test_a_slow_reader_is_closed_in_bounded_memory_and_gets_what_was_before(
    protocol: Any,
) -> None:
    async with running(protocol) as (room, address):
        slow = await websockets.connect(address, max_queue=1)
        quick = await websockets.connect(address)
        await until(lambda: len(room.connections) == 2)
        got = 0

        async def read_quickly() -> None:
            nonlocal got
            async for _ in quick:
                got += 1

        reading = asyncio.create_task(read_quickly())
        seq = 0
        while room.connections[0].close_code is None:
            seq += 1
            assert seq < 5000
            room.tell(seq, 4000)
            assert room.connections[0].waiting_bytes() <= LIMIT
            await asyncio.sleep(0)
        assert room.connections[0].close_code == CloseCode.TOO_SLOW
        await until(lambda: got == seq)
        seen = [int(str(frame).split()[0]) async for frame in _until_closed(slow)]
        assert slow.close_code == CloseCode.TOO_SLOW
        assert seen == list(range(1, len(seen) + 1))
        await quick.close()
        await reading


async def test_signals_are_dropped_before_updates(protocol: Any) -> None:
    async with running(protocol) as (room, address):
        slow = await websockets.connect(address, max_queue=1)
        await until(lambda: room.connections)
        connection = room.connections[0]
        while connection.waiting_bytes() <= LIMIT // 2:
            connection.send(OutFrame(b"x" * 5000))
            await asyncio.sleep(0)
        before = connection.waiting_bytes()
        connection.send_signal(OutFrame(b"typing"))
        assert connection.waiting_bytes() <= before
        connection.send(OutFrame(b"update"))
        assert connection.waiting_bytes() > before - 5000
        assert connection.close_code is None
        slow.transport.abort()


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 500_000, 5_000_000])
async def test_a_frame_over_the_limit_closes_with_our_code(size: int) -> None:
    async with running(FrameProtocol) as (_, address):
        client = await websockets.connect(address)
        await client.send("x" * size)
        assert [frame async for frame in _until_closed(client)] == []
        assert client.close_code == CloseCode.TOO_LARGE


async def test_a_close_reaches_the_client_and_ends_the_application(protocol: Any) -> None:
    async with running(protocol) as (room, address):
        client = await websockets.connect(address)
        await until(lambda: room.connections)
        room.connections[0].close(CloseCode.NOT_SIGNED_IN)
        room.tell(1)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == CloseCode.NOT_SIGNED_IN
        await until(lambda: not room.hub.connections())


async def test_a_stop_is_told_to_a_client_that_is_sending() -> None:
    async with running(FrameProtocol) as (room, address):
        client = await websockets.connect(address)
        await until(lambda: room.connections)

        async def talk() -> None:
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await client.send("x" * 1000)
                    await asyncio.sleep(0)

        talking = asyncio.create_task(talk())
        room.stop()
        assert [frame async for frame in _until_closed(client)] == []
        assert client.close_code == CloseCode.SERVICE_RESTART
        await talking


async def test_a_slow_reader_holds_no_stop_up() -> None:
    async with running(FrameProtocol) as (room, address):
        slow = await websockets.connect(address, max_queue=1)
        await until(lambda: room.connections)
        seq = 0
        while room.connections[0].waiting_bytes() < LIMIT // 2:
            seq += 1
            room.tell(seq, 4000)
            await asyncio.sleep(0)
        room.stop()
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 3.5
    slow.transport.abort()


@pytest.mark.parametrize(
    "decision", [{"type": "websocket.accept"}, {"type": "websocket.close"}], ids=["yes", "no"]
)
async def test_a_handshake_that_meets_the_stop_is_told_to_come_back(decision: Any) -> None:
    async with running(FrameProtocol) as (room, address):
        entered, refused = asyncio.Event(), asyncio.Event()

        async def decide_too_late(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            entered.set()
            assert (await receive())["type"] == "websocket.disconnect"
            # As to an application whose client has gone: no error of its own.
            with pytest.raises(OSError):  # noqa: PT011 - what ASGI promises, no more
                await send(decision)
            refused.set()

        assert room.server is not None
        room.server.config.loaded_app = decide_too_late
        connecting = asyncio.create_task(anything(websockets.connect(address)))
        await entered.wait()
        room.stop()
        client = await connecting
        assert [frame async for frame in _until_closed(client)] == []
        assert client.close_code == CloseCode.SERVICE_RESTART
    assert refused.is_set()


async def anything(awaitable: Any) -> Any:
    return await awaitable


async def _until_closed(client: Any) -> AsyncIterator[Any]:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            yield await client.recv()


async def test_sockets_that_have_ended_leave_nothing_to_the_garbage_collector() -> None:
    """Thousands end at once, and each look of it at everything stops every thread."""
    async with running(FrameProtocol, HttpProtocol) as (room, address):
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(5):
                async with websockets.connect(address):
                    pass
                (await websockets.connect(address)).transport.abort()

            async def have_all_ended() -> bool:
                return not room.server.server_state.connections

            assert room.server is not None
            await eventually(have_all_ended, what="the end of all connections")
            room.connections.clear()
            gc.collect()
            left = [type(it).__name__ for it in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
    ours = {FrameProtocol.__name__, HttpProtocol.__name__, "_Framing", "Pipe", "HttpRequestParser"}
    assert [name for name in left if name in ours] == []
