"""Health: live always, ready only when every check passes in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from app.transport.http import health
from app.transport.http.health import health_router
from app.transport.http.problems import install_problem_handlers
from tests.support.waiting import eventually


async def works() -> None:
    pass


async def fails() -> None:
    raise OSError("postgresql://user:password@host")


async def hangs() -> None:
    await asyncio.sleep(3600)


@asynccontextmanager
async def serving(**checks: Callable[[], Awaitable[object]]) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(openapi_url=None)
    app.include_router(health_router(checks))
    install_problem_handlers(app)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server"
    ) as client:
        yield client


async def test_ready_when_all_checks_pass() -> None:
    async with serving(database=works, redis=works) as client:
        answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_not_ready_names_the_failed_check_only() -> None:
    async with serving(database=fails, redis=works) as client:
        answer = await client.get("/health/ready")
        alive = await client.get("/health/live")
    assert (answer.status_code, answer.json()["failed"]) == (503, "database")
    assert "password" not in answer.text
    assert "retry-after" in answer.headers
    assert alive.status_code == 200


async def test_a_hanging_check_counts_as_failed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    async with serving(database=hangs, redis=hangs) as client, asyncio.timeout(20):
        answer = await client.get("/health/ready")
    assert answer.json()["failed"] == "database, redis"


async def test_who_asks_at_the_same_moment_costs_one_look() -> None:
    looks = 0
    may_pass = asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        await may_pass.wait()

    async def is_looking() -> bool:
        return looks == 1

    async with serving(database=look) as client:
        asked = [asyncio.create_task(client.get("/health/ready")) for _ in range(50)]
        await eventually(is_looking)
        # Who gives up does not take the others along.
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        may_pass.set()
        answers = await asyncio.gather(*asked[1:])
        assert {answer.status_code for answer in answers} == {200}
        assert looks == 1
        assert (await client.get("/health/ready")).status_code == 200
        assert looks == 2
