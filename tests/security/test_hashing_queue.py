"""A flood of second passwords: whoever finds the queue full is told so at once, all others go on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.features.auth.passwords import MAX_WAITING
from tests.support.lone_servers import lone_server
from tests.support.people import Backend

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


@pytest.fixture(params=["sqlite"])
async def slow(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Backend]:
    """A server that hashes as slowly as in production."""
    del anyio_backend
    with lone_server(request, directory, {"TWO_STEP_HASH_ROUNDS": "12"}) as deployment:
        async with AsyncExitStack() as stack:
            yield Backend(deployment, stack)


async def test_a_full_queue_answers_503_and_holds_nobody_else_up(slow: Backend) -> None:
    anna, *flooders = await slow.people(MAX_WAITING // 2 + 6)
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    verification_id, code = await slow.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    half = await slow.stranger().post("/auth/verify-code", body, expect=200)
    flood = [
        asyncio.create_task(
            flooder.call("PUT", "/auth/two-step", {"password": f"another fine horse {number}"})
        )
        for flooder in flooders
        for number in range(2)
    ]
    refused = 0
    for task in asyncio.as_completed(flood):
        refused += (await task).status_code == 503
        if refused == 10:
            break
    assert refused == 10
    proof = {"password": PASSWORD}
    started = time.monotonic()
    for person, path, content in (
        (anna, "/auth/confirm", proof),
        (
            slow.stranger(),
            "/auth/verify-password",
            proof | {"password_token": half["password_token"]},
        ),
    ):
        answer = await person.call("POST", path, content)
        assert (answer.status_code, answer.json()["code"]) == (503, "hashing_busy")
        assert int(answer.headers["retry-after"]) > 0
    await anna.get("/users/me", expect=200)
    await slow.sign_up()
    waiting = sum(not task.done() for task in flood)
    assert waiting > MAX_WAITING // 2, f"the queue was empty after {time.monotonic() - started} s"
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_one_person_does_not_fill_the_queue(slow: Backend) -> None:
    anna, flooder = await slow.people(2)
    body = {"password": "another fine horse"}
    flood = [
        asyncio.create_task(flooder.call("PUT", "/auth/two-step", body)) for _ in range(MAX_WAITING)
    ]
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    statuses = [answer.status_code for answer in await asyncio.gather(*flood)]
    assert statuses.count(200) >= 2
    assert statuses.count(503) >= MAX_WAITING - 2 * statuses.count(200)
