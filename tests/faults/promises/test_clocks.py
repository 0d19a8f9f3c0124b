"""Clocks may lie (row 14): one worker's machine is an hour ahead or behind, or set every few seconds.

What one worker gives out another one takes, for as long as it should live and no longer: all judge by
the database's clock. Everything that holds of updates holds all the same.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from app.kernel.clock import parse_time
from tests.faults.cluster import Cluster, run_cluster
from tests.faults.promises.scale import scaled
from tests.faults.schedules import Schedules
from tests.support import missing
from tests.support.other_clock import launcher
from tests.support.people import API, Backend, Deployment, Person
from tests.support.rows import change_rows
from tests.support.servers import Server
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio

HOUR = 3600.0
SET_EVERY_SECONDS = scaled(quick=2.0, full=10.0)
SET_BY = (300.0, -300.0)
SCHEDULE_SECONDS = scaled(quick=8.0, full=60.0)
SEEDS = scaled(quick=(14,), full=tuple(range(1400, 1410)))
CROWD = 40
ROUNDS = scaled(quick=2, full=20)


@pytest.fixture
def lie(directory: Path) -> Path:
    """Holds the seconds by which the first worker's clock is wrong."""
    file = directory / "lie.txt"
    file.write_text(str(HOUR))
    return file


@asynccontextmanager
async def liars(lie: Path, **environment: str) -> AsyncIterator[Cluster]:
    """Two honest workers beside the first."""
    try:
        async with run_cluster(
            lie.parent / "cluster", environment=environment, commands=[launcher(lie)]
        ) as cluster:
            yield cluster
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


@pytest.mark.slow
async def test_updates_are_whole_while_a_clock_is_set_to_and_fro(
    directory: Path, lie: Path
) -> None:
    async with (
        liars(lie) as cluster,
        Schedules.open(cluster, directory, crowd=CROWD) as schedules,
    ):
        setting = asyncio.create_task(set_to_and_fro(lie))
        for seed in SEEDS:
            result = await schedules.run(seed, seconds=SCHEDULE_SECONDS, rate=25)
            found = [str(anomaly) for anomaly in result.anomalies]
            assert not found, f"seed {seed}, {dict(result.faults)}: {found[:10]}"
        setting.cancel()
        assert await schedules.judge_everything() == []


async def set_to_and_fro(lie: Path) -> None:
    for seconds in itertools.cycle((*SET_BY, HOUR, -HOUR)):
        await asyncio.to_thread(lie.write_text, str(seconds))
        await asyncio.sleep(SET_EVERY_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_what_one_worker_gives_out_the_others_take(lie: Path, seconds: float) -> None:
    await asyncio.to_thread(lie.write_text, str(seconds))
    limits = {"RATE_LIMIT_REQUESTS": "1000000", "SMS_LIMIT_PER_PHONE": "2"}
    async with liars(lie, **limits) as cluster, AsyncExitStack() as stack:
        servers = [worker.server for worker in cluster.workers]
        backend = Backend(Deployment("postgresql", servers, details_of(cluster)), stack)
        for giver, taker in itertools.permutations(servers[:2]):
            for _ in range(ROUNDS):
                await give_and_take(backend, giver, taker)
            await expect_expiry(backend, giver, taker)
            await expect_limit(backend, giver, taker)
        assert cluster.take_logged_errors() == []


def details_of(cluster: Cluster) -> dict[str, str]:
    return {"database_url": cluster.postgres_url}


def at(person: Person, server: Server) -> Person:
    """The same device, talking to this worker."""
    moved = Person(person.backend, person.tokens, phone=person.phone)
    moved.client.base_url = server.base_url
    moved.node = server
    return moved


async def give_and_take(backend: Backend, giver: Server, taker: Server) -> None:
    """A code, a pair of tokens, its successor, a ticket and a message, each from one to the other."""
    phone = backend.deployment.next_phone()
    verification_id, code = await ask_code(backend, giver, phone)
    body = {"verification_id": verification_id, "code": code, "first_name": "Anna"}
    answer = await at(backend.stranger(), taker).post("/auth/verify-code", body, expect=200)
    anna = Person(backend, answer, phone=phone)
    await at(anna, giver).get("/users/me", expect=200)
    old = {"refresh_token": anna.tokens["refresh_token"]}
    pair = await at(backend.stranger(), giver).post("/auth/refresh-token", old, expect=200)
    # A lost answer is asked for again of another worker within the half minute.
    again = await at(backend.stranger(), taker).post("/auth/refresh-token", old, expect=200)
    assert again["refresh_token"] == pair["refresh_token"]
    anna.tokens = pair | {"user": anna.user}
    for server in (giver, taker):
        assert (await at(anna, server).get("/users/me"))["id"] == anna.id
    ticket = await at(anna, giver).ticket()
    socket = await Socket.open(f"{taker.websocket_url}{API}/ws/{ticket}")
    backend.stack.push_async_callback(socket.close)
    # Fresh enough for what wants a fresh sign-in, at both.
    sessions = (await at(anna, taker).get("/auth/sessions"))["items"]
    assert [item["is_current"] for item in sessions] == [True]
    chat = await at(anna, giver).private_chat(anna)
    first = await at(anna, giver).say(chat, "from one")
    second = await at(anna, taker).say(chat, "from the other")
    assert first["id"] < second["id"]
    between = parse_time(second["created_at"]) - parse_time(first["created_at"])
    assert abs(between) < timedelta(minutes=1)
    await socket.expect_message(second["id"])
    for server in (giver, taker):
        texts = [item["text"] for item in await at(anna, server).history(chat)]
        assert texts == ["from the other", "from one"]
    await at(anna, giver).delete("/auth/sessions", expect=204)


async def ask_code(backend: Backend, server: Server, phone: str) -> tuple[str, str]:
    stranger = at(backend.stranger(), server)
    sent = await stranger.post("/auth/send-verification", {"phone": phone}, expect=200)
    return sent["verification_id"], backend.deployment.codes(phone)[-1]


async def expect_expiry(backend: Backend, giver: Server, taker: Server) -> None:
    """A code is over after five minutes of the database's time, whoever is asked, and not before."""
    for minutes, status in ((4.5, 200), (5.1, 400)):
        phone = backend.deployment.next_phone()
        verification_id, code = await ask_code(backend, giver, phone)
        past = int(minutes * 60_000)
        await change_rows(
            backend.deployment,
            f"UPDATE phone_verifications SET created_at = created_at - {past},"
            f" expires_at = expires_at - {past} WHERE public_id = '{verification_id}'",
        )
        body = {"verification_id": verification_id, "code": code}
        await at(backend.stranger(), taker).post("/auth/verify-code", body, expect=status)


async def expect_limit(backend: Backend, giver: Server, taker: Server) -> None:
    """Both count in one window, which ends when it should."""
    phone = backend.deployment.next_phone()
    for server in (giver, taker):
        await ask_code(backend, server, phone)
    for server in (giver, taker):
        stranger = at(backend.stranger(), server)
        refused = await stranger.call("POST", "/auth/send-verification", {"phone": phone})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 600
