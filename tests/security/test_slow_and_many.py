"""Clients that take their time, and too many of them: each ends, and nobody else notices."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.people import Backend, Deployment
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

API = "/api/v1"
HEAD = b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Slow: "
LEFTOVER = b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
BODY = (
    f"POST {API}/auth/verify-code HTTP/1.1\r\nHost: a\r\n"
    "Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
).encode()


class Dripper:
    """One connection that sends a beginning and then a byte a second."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning
        self.answer = b""
        self.lasted = 0.0

    async def attack(self, port: int) -> None:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(self.beginning)
        dripping = asyncio.create_task(self._drip(writer))
        with contextlib.suppress(ConnectionError):
            # Piece by piece: a reset, which a dripper provokes, takes what was not read yet.
            while piece := await reader.read(65_536):
                self.answer += piece
        self.lasted = time.monotonic() - began
        dripping.cancel()
        writer.close()

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)


@pytest.fixture(params=["launcher", "bare"])
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[Server]:
    made = Server(directory, {"MAX_CONNECTIONS": "1000"})
    if request.param == "bare":
        made.start_uvicorn("--workers", "1")
    else:
        made.start()
    yield made
    made.stop()


@pytest.mark.slow
async def test_five_hundred_who_drip_are_cut_off_and_nobody_waits(server: Server) -> None:
    heads = [Dripper(HEAD) for _ in range(300)]
    bodies = [Dripper(BODY) for _ in range(100)]
    leftovers = [Dripper(LEFTOVER) for _ in range(100)]
    attacks = asyncio.gather(*(it.attack(server.port) for it in (*heads, *bodies, *leftovers)))
    slowest = 0.0
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        async with asyncio.timeout(120):
            while not attacks.done():
                began = time.monotonic()
                answer = await client.get("/health/live")
                assert answer.status_code == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.1)
        await attacks
    assert slowest < 2
    # Deadlines of 10, 5 and 30 seconds, and 5 to read why; the rest is for a loaded machine.
    assert max(it.lasted for it in heads) < 25
    assert max(it.lasted for it in leftovers) < 25
    assert max(it.lasted for it in bodies) < 60
    assert all(b" 400 " in it.answer and b"body_too_slow" in it.answer for it in bodies)
    assert all(it.answer.startswith(b"HTTP/1.1 200") for it in leftovers)


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/messages/", 1_000_000, 401),
        ("/chats/", 1_000_000, 401),
        ("/auth/ws-ticket", 4_000, 401),
        ("/auth/send-verification", 20_000, 413),
        ("/auth/verify-code", 20_000, 413),
        ("/auth/refresh-token", 20_000, 413),
    ],
)
async def test_strangers_are_answered_before_they_send_a_large_body(
    server: Server, path: str, size: int, status: int
) -> None:
    """Else each connection of theirs would hold a megabyte for half a minute."""
    head = f"POST {API}{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode())
    async with asyncio.timeout(20):
        assert (await reader.readline()).split()[1] == str(status).encode()
    writer.close()


async def test_tickets_are_given_while_a_hundred_drip(server: Server) -> None:
    head = f"POST {API}/auth/ws-ticket HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server]), stack)
        anna = await backend.sign_up()
        signed = head.replace("\r\n\r\n", f"\r\nAuthorization: Bearer {anna.access_token}\r\n\r\n")
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(signed.encode())
            await writer.drain()
            writers.append(writer)
        async with asyncio.timeout(20):
            for _ in range(10):
                await anna.post("/auth/ws-ticket", {}, expect=201)
                # What is answered at once does not keep the door shut either.
                assert (await anna.call("GET", "/auth/ws-ticket")).status_code == 405
        for writer in writers:
            writer.close()


ENDLESS = {
    "fields": HEAD + b"a\r\n" + b"a: b\r\n" * 170_000,
    "value": HEAD + b"x" * 1_000_000,
    "line": b"GET /" + b"x" * 1_000_000,
    "trailers": (
        b"POST /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"a: b\r\n" * 170_000
    ),
    "handshake": (
        b"GET /api/v1/ws/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        + b"a: b\r\n" * 170_000
    ),
}


async def test_heads_without_an_end_are_refused_in_no_memory(server: Server) -> None:
    """A megabyte each, a hundred at once: none is kept to be refused when it is whole."""

    async def attack(name: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        answer = b""
        with contextlib.suppress(ConnectionError):
            writer.write(ENDLESS[name])
            while piece := await reader.read(65_536):
                answer += piece
        writer.close()
        return answer

    async def attack_together() -> None:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(attack(name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            code = b"uri_too_long" if name == "line" else b"headers_too_large"
            # The route of the trailers may have answered before they came.
            assert code in answer or (name == "trailers" and b" 405 " in answer), (name, answer)

    names = [name for name in ENDLESS for _ in range(20)]
    await attack_together()
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    await attack_together()
    assert process.memory_info().rss - before < 16_000_000
    assert server.faults() == []


async def test_one_connection_too_many_is_told_to_come_back(directory: Path) -> None:
    with Server(directory, {"MAX_CONNECTIONS": "10"}) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(10)]

        async def is_full() -> bool:
            async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
                answer = await client.get(f"{API}/users/me")
            if answer.status_code != 503:
                return False
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Request-ID"]
            assert json.loads(answer.content)["code"] == "unavailable"
            return True

        await eventually(is_full, what="the server is full")
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"{server.websocket_url}{API}/ws/token", proxy=None)
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.headers["Retry-After"]
        for _, writer in idle:
            writer.close()

        async def serves() -> bool:
            async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
                return (await client.get("/health/live")).status_code == 200

        await eventually(serves, what="the server serves again")
