"""The head of a request has a deadline, and a stop drops no request, over real uvicorn and raw sockets."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from app.transport.http.protocol import HttpProtocol, end_unless_asked
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# More than the system takes off a server's hands.
LARGE = 16_000_000


class Hasty(HttpProtocol):
    head_seconds = 0.3
    leftover_seconds = 0.5
    unwanted_seconds = 4.0
    unread_seconds = 0.5


async def answer(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/large":
        headers = [(b"content-length", b"%d" % LARGE)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(LARGE)})
        return
    if scope["path"] == "/refused":
        headers = [(b"content-length", b"2"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 409, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})
        return
    await asyncio.sleep(scope["path"] == "/slow" and 0.6)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(
    scope="module",
    params=["asyncio", ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """On both loops: they differ in when they read and close."""
    return request.param


@pytest.fixture
async def server(anyio_backend: Any) -> AsyncIterator[uvicorn.Server]:
    del anyio_backend
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(answer, http=Hasty, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await running


@pytest.fixture
def address(server: uvicorn.Server) -> tuple[str, int]:
    return server.servers[0].sockets[0].getsockname()


@pytest.mark.parametrize("head", [b"", b"GET / HT", WHOLE[:-2]])
async def test_half_a_head_is_cut_off(address: tuple[str, int], head: bytes) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(head)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_a_dripping_head_is_cut_off(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in WHOLE * 10:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    dripping.cancel()
    writer.close()


async def test_a_whole_head_has_all_the_time_of_its_request(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for request in (WHOLE.replace(b"/ ", b"/slow "), WHOLE):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(2) == b"ok"
    writer.close()


@pytest.mark.parametrize("path", ["/", "/refused"])
async def test_whoever_sends_a_body_that_nobody_wants_reads_the_answer(
    address: tuple[str, int], path: str
) -> None:
    """Also who reads only when all is sent, as many clients do."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n".encode())
    for _ in range(16):
        writer.write(bytes(LARGE // 16))
        await writer.drain()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 409" if path == "/refused" else b"HTTP/1.1 200")
        assert await reader.readexactly(2) in {b"no", b"ok"}
        if path == "/refused":
            assert await reader.read() == b""
    writer.close()


async def keep_dripping(writer: asyncio.StreamWriter, pause: float = 0.1) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(pause)


@pytest.mark.parametrize("pause", [0.1, 5.0])
@pytest.mark.parametrize("path", ["/", "/refused"])
async def test_a_body_that_nobody_wants_ends_in_time(
    server: uvicorn.Server, address: tuple[str, int], path: str, pause: float
) -> None:
    _, writer = await asyncio.open_connection(*address)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n".encode())
    began = time.monotonic()

    async def is_connected() -> bool:
        return bool(server.server_state.connections)

    async def is_cut_off() -> bool:
        return not server.server_state.connections

    dripping = asyncio.create_task(keep_dripping(writer, pause))
    await eventually(is_connected)
    await eventually(is_cut_off)
    lasted = time.monotonic() - began
    dripping.cancel()
    assert lasted >= (Hasty.unwanted_seconds if pause < 1 else Hasty.leftover_seconds) - 0.1
    writer.close()


async def test_a_stop_does_not_wait_for_a_body_that_nobody_wants(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\nx")
    server.should_exit = True
    async with asyncio.timeout(30):
        while server.servers[0].is_serving():  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(keep_dripping(writer))
        assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        while server.server_state.connections:  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 2.5
    stopping.cancel()
    writer.close()


async def test_a_stop_answers_what_arrives_on_an_idle_connection(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    """As from a proxy that has not heard yet."""
    reader, writer = await asyncio.open_connection(*address)
    fresh = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    await reader.readuntil(b"\r\n\r\nok")
    server.should_exit = True
    while server.servers[0].is_serving():  # noqa: ASYNC110 - a condition of uvicorn's
        await asyncio.sleep(0.01)
    for each_reader, each_writer in ((reader, writer), fresh):
        each_writer.write(WHOLE)
        head = await each_reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head.lower()
        assert await each_reader.read() == b"ok"
        each_writer.close()


async def test_a_stop_closes_idle_connections_soon(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    await reader.readuntil(b"\r\n\r\nok")
    server.should_exit = True
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    writer.close()


async def test_a_stop_answers_what_arrives_at_the_last_moment(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    await reader.readuntil(b"\r\n\r\nok")
    server.should_exit = True
    while server.servers[0].is_serving():  # noqa: ASYNC110 - a condition of uvicorn's
        await asyncio.sleep(0.01)

    def ask_late() -> None:
        """The loop has looked for news, and then is busy until it means to close."""
        loop.remove_reader(news)
        time.sleep(Hasty.drain_seconds + 0.1)
        os.write(writer.get_extra_info("socket").fileno(), WHOLE)

    loop = asyncio.get_running_loop()
    news, sender = socket.socketpair()
    with news, sender:
        loop.add_reader(news, ask_late)
        sender.send(b"x")
        head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert await reader.read() == b"ok"
    writer.close()


def test_the_end_is_told_at_once_unless_something_is_unread() -> None:
    own, peer = socket.socketpair()
    with own, peer:
        peer.send(b"G")
        assert not end_unless_asked(own.fileno())
        with pytest.raises(BlockingIOError):
            peer.recv(1, socket.MSG_DONTWAIT)
        own.recv(1)
        assert end_unless_asked(own.fileno())
        assert peer.recv(1, socket.MSG_DONTWAIT) == b""


def ask_for_much(address: tuple[str, int]) -> socket.socket:
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    line.connect(address)
    line.sendall(WHOLE.replace(b"/ ", b"/large "))
    return line


async def test_who_takes_nothing_of_an_answer_is_cut_off(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    line = ask_for_much(address)

    async def is_cut_off() -> bool:
        return not server.server_state.connections

    async def is_connected() -> bool:
        return bool(server.server_state.connections)

    await eventually(is_connected)
    await eventually(is_cut_off, timeout_seconds=20, what="the end of the connection")
    line.close()


async def test_who_takes_a_little_now_and_then_gets_all_of_it(address: tuple[str, int]) -> None:
    line = ask_for_much(address)

    def read() -> int:
        line.settimeout(20)
        taken = 0
        # Slowly at first, for much longer than the patience with those who take nothing.
        for _ in range(15):
            time.sleep(0.1)
            taken += len(line.recv(65_536))
        while piece := line.recv(1_000_000):
            taken += len(piece)
            if taken >= LARGE:
                break
        return taken

    assert await asyncio.to_thread(read) > LARGE
    line.close()
