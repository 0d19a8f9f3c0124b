"""The head of a request has a deadline, and a stop drops no request, over real uvicorn and raw sockets."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app.transport.http.protocol import HttpProtocol, end_unless_asked
from tests.support.certificates import make_certificate
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# More than the system takes off a server's hands.
LARGE = 16_000_000
# Pieces, of 64 KiB.
STREAMED = 200
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SLOW = WHOLE.replace(b"/ ", b"/slow ")


# What is answered, and the seconds between its pieces.
PIECES: dict[str, tuple[list[bytes], float]] = {
    "/large": ([bytes(LARGE)], 0.0),
    "/medium": ([bytes(6_000_000)], 0.0),
    "/small": ([bytes(60_000)], 0.0),
    "/stream": ([bytes(65_536)] * STREAMED, 0.01),
    "/refused": ([b"no"], 0.0),
    "/late": ([b"no"], 0.0),
    # In between all of the body has come, and more.
    "/drawn-out": ([b"no", b"no"], 0.6),
}


class Hasty(HttpProtocol):
    head_seconds = 0.3
    leftover_seconds = 0.5
    lingering_seconds = 2.0
    unread_seconds = 0.5


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """As the path asks for it."""
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/read":
        await asyncio.sleep(0)
        await receive()
    if path == "/late":
        await asyncio.sleep(2 * Hasty.lingering_seconds)
    await asyncio.sleep(path == "/slow" and 0.6)
    pieces, pause = PIECES.get(path, ([b"ok"], 0.0))
    headers = [] if path == "/stream" else [(b"content-length", b"%d" % sum(map(len, pieces)))]
    is_refused = path in {"/refused", "/late", "/drawn-out"}
    headers += [(b"connection", b"close")] * is_refused
    status = 409 if is_refused else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
        await asyncio.sleep(0 if is_last else pause)


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
    async with serving() as server:
        yield server


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[uvicorn.Server]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        answer, http=Hasty, lifespan="off", log_config=None, access_log=False, **options
    )
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


def begin(writer: asyncio.StreamWriter, path: str, length: int, *more: str) -> None:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {length}", *more, "", ""]
    writer.write("\r\n".join(lines).encode())


@pytest.mark.parametrize("path", ["/", "/refused", "/late"])
async def test_whoever_sends_a_body_that_nobody_wants_reads_the_answer(
    address: tuple[str, int], path: str
) -> None:
    """Also who reads only when all is sent, as many clients do, and whose refusal comes late."""
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, path, LARGE)
    for _ in range(16):
        writer.write(bytes(LARGE // 16))
        await writer.drain()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200" if path == "/" else b"HTTP/1.1 409")
        assert await reader.readexactly(2) in {b"no", b"ok"}
        if path != "/":
            assert await reader.read() == b""
    writer.close()


async def test_who_is_refused_is_told_at_once_that_it_is_the_end(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    dripping = asyncio.create_task(keep_sending(writer, bytes(50_000)))
    begin(writer, "/refused", LARGE)
    began = time.monotonic()
    async with asyncio.timeout(30):
        assert (await reader.read()).endswith(b"no")
    assert time.monotonic() - began < Hasty.lingering_seconds
    dripping.cancel()
    writer.close()


async def test_an_answer_is_read_by_who_went_on_long_after_the_head(
    address: tuple[str, int],
) -> None:
    """The patience begins with the answer: an upload may be refused after an hour."""
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/late", 10 * LARGE)
    sending = asyncio.create_task(keep_sending(writer, bytes(20_000)))
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\nno")
        began = time.monotonic()
        await sending
    assert time.monotonic() - began >= Hasty.lingering_seconds - Hasty.leftover_seconds
    writer.close()


async def test_under_tls_the_line_ends_as_soon_as_all_of_the_body_has_come(
    anyio_backend: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no half of it that could be closed."""
    del anyio_backend
    monkeypatch.setattr(Hasty, "leftover_seconds", 20.0)
    made = directory / "certificate"
    make_certificate(made)
    files = {"ssl_certfile": made / "fullchain.pem", "ssl_keyfile": made / "privkey.pem"}
    context = ssl.create_default_context(cafile=made / "fullchain.pem")
    async with serving(**files) as server:
        _, port = server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        begin(writer, "/refused", LARGE)
        began = time.monotonic()
        async with asyncio.timeout(30):
            for _ in range(16):
                writer.write(bytes(LARGE // 16))
                await writer.drain()
            assert (await reader.read()).endswith(b"\r\n\r\nno")
        assert time.monotonic() - began < Hasty.leftover_seconds
        writer.close()


async def keep_sending(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.05) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause)


@pytest.mark.parametrize("path", ["/", "/refused"])
@pytest.mark.parametrize(("size", "pause"), [(5_000, 0.1), (1, 0.1), (1, 30.0)])
async def test_a_body_that_nobody_wants_ends_in_time(
    server: uvicorn.Server, address: tuple[str, int], path: str, size: int, pause: float
) -> None:
    _, writer = await asyncio.open_connection(*address)
    begin(writer, path, LARGE)
    began = time.monotonic()
    sending = asyncio.create_task(keep_sending(writer, bytes(size), pause))
    await eventually(lambda: holds(bool(server.server_state.connections)))
    await eventually(lambda: holds(not server.server_state.connections))
    lasted = time.monotonic() - began
    sending.cancel()
    writer.close()
    if size > 1:
        assert lasted >= Hasty.lingering_seconds - 0.1
    else:
        assert Hasty.leftover_seconds - 0.1 <= lasted < Hasty.lingering_seconds - 0.1


async def holds(value: bool) -> bool:
    return value


async def test_who_sends_the_body_after_the_answer_is_idle_then(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    """Its bytes have ended the patience with idle connections."""
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/", 1)
    await reader.readuntil(b"\r\n\r\nok")
    writer.write(b"x" + WHOLE)
    await reader.readuntil(b"\r\n\r\nok")
    begin(writer, "/", 1)
    await reader.readuntil(b"\r\n\r\nok")
    writer.write(b"x")
    [connection] = server.server_state.connections
    assert isinstance(connection, HttpProtocol)
    await eventually(lambda: holds(connection.timeout_keep_alive_task is not None))
    connection.timeout_keep_alive = 0.1  # type: ignore[assignment]
    begin(writer, "/", 1)
    await reader.readuntil(b"\r\n\r\nok")
    writer.write(b"x")
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_what_comes_with_the_end_of_a_late_body_has_its_time(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/", 1)
    await reader.readuntil(b"\r\n\r\nok")
    [connection] = server.server_state.connections
    assert isinstance(connection, HttpProtocol)
    connection.timeout_keep_alive = 0.1  # type: ignore[assignment]
    writer.write(b"x" + SLOW)
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\nok")
    writer.close()


async def test_who_reads_all_the_while_is_not_cut_off(address: tuple[str, int]) -> None:
    """As fast as it comes, so that what waits stays as much as it was."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE.replace(b"/ ", b"/stream ").replace(b"Host", b"Connection: close\r\nHost"))
    taken = 0
    async with asyncio.timeout(60):
        while piece := await reader.read(60_000):
            taken += len(piece)
            await asyncio.sleep(0.012)
    assert taken > STREAMED * 65_536
    writer.close()


async def test_who_has_read_an_answer_has_time_for_the_next(address: tuple[str, int]) -> None:
    """Of which more waits than of the first."""
    reader, writer = await asyncio.open_connection(*address)
    taken = 0
    async with asyncio.timeout(60):
        writer.write(WHOLE.replace(b"/ ", b"/medium "))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(6_000_000)
        writer.write(WHOLE.replace(b"/ ", b"/large "))
        await reader.readuntil(b"\r\n\r\n")
        while taken < LARGE and (piece := await reader.read(262_144)):
            taken += len(piece)
            await asyncio.sleep(0.02)
    assert taken == LARGE
    writer.close()


async def test_little_that_nobody_takes_of_a_last_answer_ends_the_line_too(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    """Too little for the writing to be paused."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(address)
    await eventually(lambda: holds(bool(server.server_state.connections)))
    [connection] = server.server_state.connections
    assert isinstance(connection, HttpProtocol)
    connection.transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
    )
    line.sendall(WHOLE.replace(b"/ ", b"/small ").replace(b"Host", b"Connection: close\r\nHost"))
    await eventually(lambda: holds(connection.transport.get_write_buffer_size() > 0))
    assert not connection.flow.write_paused
    await eventually(lambda: holds(not server.server_state.connections))
    line.close()


async def test_another_protocol_does_not_take_the_line_from_answers_that_are_due(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(SLOW + UPGRADE)
    async with asyncio.timeout(30):
        assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b""
    await eventually(lambda: holds(not server.server_state.tasks))
    writer.close()


@pytest.mark.parametrize("before", [b"", WHOLE, SLOW])
async def test_a_target_that_is_none_is_refused_in_its_turn(
    address: tuple[str, int], before: bytes
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(before)
    async with asyncio.timeout(30):
        if before == WHOLE:
            await reader.readuntil(b"\r\n\r\nok")
        writer.write(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n")
        answers = await reader.read()
    # What was asked before is answered, and then it is the end.
    assert answers.startswith(b"HTTP/1.1 200" if before == SLOW else b"HTTP/1.1 400")
    writer.close()


async def test_few_requests_wait_for_earlier_ones(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(SLOW + WHOLE * 500)
    async with asyncio.timeout(30):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200") == server.server_state.total_requests
    assert 2 <= server.server_state.total_requests < 20
    writer.close()


async def test_nothing_is_asked_of_whom_a_refusal_ends(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    head = "POST /read HTTP/1.1", "Host: a", "Expect: 100-continue", "Transfer-Encoding: chunked"
    writer.write("\r\n".join([*head, "", "none", ""]).encode())
    async with asyncio.timeout(30):
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
    writer.close()


async def test_a_head_that_we_do_not_look_at_is_in_time(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(SLOW + SLOW + WHOLE[:-4])
    await asyncio.sleep(0.1)
    writer.write(WHOLE[-4:])
    async with asyncio.timeout(30):
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\nok")
    writer.close()


async def test_a_stop_lets_an_answer_be_read_to_its_end(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE.replace(b"/ ", b"/large "))
    taken = len(await reader.read(1000))
    server.should_exit = True
    async with asyncio.timeout(60):
        while piece := await reader.read(262_144):
            taken += len(piece)
            await asyncio.sleep(0.02)
    assert taken > LARGE
    writer.close()


async def test_what_follows_an_answer_that_ends_the_line_is_not_begun(
    server: uvicorn.Server, address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/drawn-out", 2)
    await reader.readuntil(b"\r\n\r\nno")
    writer.write(b"xx" + WHOLE)
    async with asyncio.timeout(30):
        assert await reader.read() == b"no"
    assert server.server_state.total_requests == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
    writer.close()


async def test_what_was_sent_before_the_end_of_the_line_is_not_kept(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/drawn-out", LARGE)
    writer.write(bytes(100_000))
    await reader.readuntil(b"\r\n\r\nnono")
    [connection] = server.server_state.connections
    assert isinstance(connection, HttpProtocol)
    assert not connection.cycle.body
    writer.close()


async def test_bad_bytes_behind_much_of_a_body_are_refused_in_words(
    address: tuple[str, int],
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"186a0\r\n" + bytes(100_000) + b"\r\nnone\r\n")
    async with asyncio.timeout(30):
        for _ in range(40):
            writer.write(bytes(500_000))
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_an_answer_that_is_being_read_is_not_cut_off_for_its_body(
    address: tuple[str, int],
) -> None:
    """Slower than the looks at what still comes."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    line.connect(address)
    line.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(
        line,
        b"POST /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
    )
    taken = 0
    async with asyncio.timeout(60):
        while piece := await loop.sock_recv(line, 262_144):
            taken += len(piece)
            await asyncio.sleep(0.02)
    assert taken > LARGE
    line.close()


async def test_a_stop_does_not_wait_for_a_body_that_nobody_wants(
    server: uvicorn.Server, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    begin(writer, "/slow", LARGE)
    server.should_exit = True
    async with asyncio.timeout(30):
        while server.servers[0].is_serving():  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
        sending = asyncio.create_task(keep_sending(writer, bytes(50_000)))
        assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        while server.server_state.connections:  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < Hasty.lingering_seconds - 0.4
    sending.cancel()
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
