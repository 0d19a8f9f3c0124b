"""Clients that take their time, and too many of them: each ends, and nobody else notices."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

API = "/api/v1"
HEAD = b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Slow: "
LEFTOVER = b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
BODY = (
    f"POST {API}/auth/verify-code HTTP/1.1\r\nHost: a\r\n"
    "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
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
        async with asyncio.timeout(60):
            while not attacks.done():
                began = time.monotonic()
                answer = await client.get("/health/live")
                assert answer.status_code == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.1)
        await attacks
    assert slowest < 2
    # Deadlines of 10, 30 and 5 seconds; the rest is for a loaded machine.
    assert max(it.lasted for it in heads) < 16
    assert max(it.lasted for it in leftovers) < 12
    assert max(it.lasted for it in bodies) < 38
    assert all(b" 400 " in it.answer and b"body_too_slow" in it.answer for it in bodies)
    assert all(it.answer.startswith(b"HTTP/1.1 200") for it in leftovers)


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
