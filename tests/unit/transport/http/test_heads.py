"""The head of a request is bounded while it comes, over real uvicorn and raw sockets."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from app.transport.http.middleware import MAX_HEADER_BYTES, MAX_HEADERS
from app.transport.http.protocol import MAX_TARGET_BYTES, HttpProtocol
from app.transport.websocket.protocol import FrameProtocol

pytestmark = pytest.mark.anyio
MEGABYTE = 1_000_000
START = b"GET / HTTP/1.1\r\nHost: a\r\n"
WHOLE = START + b"\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
HANDSHAKE = (
    START + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
Address = tuple[str, int]


class Patient(HttpProtocol):
    """Whatever ends here was not ended by its deadline."""

    head_seconds = 60.0
    leftover_seconds = 60.0


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Says which headers it was given, once it has what there is of the body."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4400})
        return
    while scope["path"] == "/body" and (message := await receive())["type"] != "http.disconnect":
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    names = json.dumps([name.decode() for name, _ in scope["headers"]]).encode()
    headers = [(b"content-length", str(len(names)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": names})


@pytest.fixture(
    scope="module",
    params=["asyncio", ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """On both loops: they differ in how much they read at once."""
    return request.param


@pytest.fixture
async def server(anyio_backend: Any) -> AsyncIterator[uvicorn.Server]:
    del anyio_backend
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        answer,
        http=Patient,
        ws=FrameProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=1,
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
def address(server: uvicorn.Server) -> Address:
    return server.servers[0].sockets[0].getsockname()


async def speak(address: Address, *pieces: bytes) -> bytes:
    """All that is answered to raw bytes, each piece read before the next is sent; until the server ends."""
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
    answered = b""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                answered += piece
    writer.close()
    return answered


def check_refusal(answered: bytes, status: int, code: str) -> None:
    """One whole answer in our words, and nothing behind it."""
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answered
    assert b"connection: close" in head.lower()
    assert b"application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head.lower()
    assert json.loads(body)["code"] == code


def in_pieces(data: bytes, size: int = 8_192) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


ENDLESS = {
    "fields": START + b"a: b\r\n" * (MEGABYTE // 6),
    "a value": START + b"X-Large: " + b"x" * MEGABYTE,
    "a name": START + b"x" * MEGABYTE,
    "blanks before a value": START + b"X-Blank:" + b" " * MEGABYTE,
    "trailers": CHUNKED + b"a: b\r\n" * (MEGABYTE // 6),
    "a trailer": CHUNKED + b"X-Large: " + b"x" * MEGABYTE,
    "the name of a trailer": CHUNKED + b"x" * MEGABYTE,
    "a chunk extension": CHUNKED.removesuffix(b"0\r\n") + b"2;" + b"x" * MEGABYTE,
    "empty lines": b"\r\n" * (MEGABYTE // 2),
    "a handshake": HANDSHAKE + b"a: b\r\n" * (MEGABYTE // 6),
    "a value of a handshake": HANDSHAKE + b"X-Large: " + b"x" * MEGABYTE,
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_a_head_without_an_end_is_refused(address: Address, name: str) -> None:
    check_refusal(await speak(address, ENDLESS[name]), 400, "headers_too_large")


@pytest.mark.parametrize("name", ENDLESS)
async def test_it_is_refused_in_small_pieces_too(address: Address, name: str) -> None:
    pieces = in_pieces(ENDLESS[name][:90_000])
    check_refusal(await speak(address, *pieces), 400, "headers_too_large")


@pytest.mark.parametrize("size", [MAX_TARGET_BYTES + 1, MEGABYTE])
@pytest.mark.parametrize("rest", [b"", b" HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_request_line_too_long_is_refused(address: Address, size: int, rest: bytes) -> None:
    request = b"GET /" + b"x" * (size - 1) + rest
    check_refusal(await speak(address, request), 414, "uri_too_long")
    check_refusal(await speak(address, *in_pieces(request)[:3]), 414, "uri_too_long")


@pytest.mark.parametrize("head", [START, HANDSHAKE], ids=["request", "handshake"])
async def test_one_field_too_many_is_refused(address: Address, head: bytes) -> None:
    more = b"a: b\r\n" * (MAX_HEADERS + 1 - head.count(b"\r\n") + 1)
    check_refusal(await speak(address, head + more + b"\r\n"), 400, "headers_too_large")


def largest(first: bytes = b"GET / HTTP/1.1") -> bytes:
    """A head right at both limits of its fields."""
    names = [b"x-%02d" % number for number in range(MAX_HEADERS - 3)]
    left = MAX_HEADER_BYTES - sum(map(len, names)) - len(b"hostax-last") - len(b"connectionclose")
    fields = [b"Host: a", b"Connection: close", *(name + b": " for name in names)]
    return b"\r\n".join([first, *fields, b"x-last: " + b"x" * left, b"", b""])


@pytest.mark.parametrize("size", [1_000_000, 8_192, 4_000])
async def test_a_head_right_at_the_limits_passes(address: Address, size: int) -> None:
    longest = b"GET /" + b"x" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1"
    answered = await speak(address, *in_pieces(largest(longest), size))
    assert answered.startswith(b"HTTP/1.1 200"), answered
    assert len(json.loads(answered.partition(b"\r\n\r\n")[2])) == MAX_HEADERS


async def test_bodies_and_what_follows_them_count_for_nothing(address: Address) -> None:
    """Three requests of a large body on one connection, and the next head in the same bytes as the end of one."""
    body = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    chunks = b"10\r\n0123456789abcdef\r\n" * 10_000 + b"0\r\nX-Sum: 1\r\n\r\n"
    chunked = CHUNKED.removesuffix(b"2\r\nab\r\n0\r\n") + chunks
    last = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answered = await speak(address, body + chunked + body + WHOLE + last)
    assert answered.count(b"HTTP/1.1 200") == 5


async def test_many_requests_on_one_connection_are_many_heads(address: Address) -> None:
    field = b"X-Large: " + b"x" * 20_000 + b"\r\n"
    heads = [START + field + b"\r\n"] * 9 + [START + field + b"Connection: close\r\n\r\n"]
    assert (await speak(address, *heads)).count(b"HTTP/1.1 200") == 10


async def test_trailers_are_no_headers(address: Address) -> None:
    trailers = b"X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer x\r\n\r\n"
    request = CHUNKED.replace(b"Host: a", b"Host: a\r\nConnection: close") + trailers
    answered = await speak(address, request)
    names = json.loads(answered.partition(b"\r\n\r\n")[2])
    assert names == ["host", "connection", "transfer-encoding"]


async def test_what_was_asked_before_is_answered_first(address: Address) -> None:
    endless = START + b"a: b\r\n" * 20_000
    answered = await speak(address, WHOLE.replace(b"/ ", b"/slow ") + endless)
    assert answered.startswith(b"HTTP/1.1 200")
    assert answered.endswith(b'["host"]')
    assert b"400" not in answered


async def test_a_handshake_that_its_own_parser_refuses_is_answered(address: Address) -> None:
    """The second parser takes lines of 8 KiB; it would wait for ever after a longer one."""
    request = HANDSHAKE + b"X-Large: " + b"x" * 9_000 + b"\r\n\r\n"
    check_refusal(await speak(address, request), 400, "headers_too_large")
    odd = HANDSHAKE.replace(b"Host: a", b"Host: a\r\nX-\xc3: 1\r\nX: \x7f") + b"\r\n"
    check_refusal(await speak(address, odd), 400, "bad_request")


async def test_a_handshake_right_at_the_limits_passes(address: Address) -> None:
    first, rest = HANDSHAKE.split(b" HTTP/1.1", 1)
    path = first + b"x" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1"
    answered = await speak(address, path + rest + b"X-Large: " + b"x" * 8_000 + b"\r\n\r\n")
    assert b"handshake" not in answered
    assert answered.startswith(b"HTTP/1.1 403"), answered


async def test_empty_lines_keep_no_connection(address: Address) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    await reader.readuntil(b'["host"]')
    writer.write(b"\r\n")
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_a_refusal_leaves_no_error(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("fields", "trailers"):
        await speak(address, ENDLESS[name])
    assert [it for it in caplog.records if it.levelno >= logging.ERROR] == []
