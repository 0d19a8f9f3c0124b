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

pytestmark = pytest.mark.anyio
WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Hasty(HttpProtocol):
    head_seconds = 0.3


async def answer(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
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
    async with asyncio.timeout(10):
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
    async with asyncio.timeout(5):
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
    async with asyncio.timeout(5):
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
