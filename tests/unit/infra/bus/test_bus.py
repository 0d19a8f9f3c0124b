"""Both buses by the same tests; the Redis one also through faults of a real Redis."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import redis.asyncio

from app.infra.bus.memory import MemoryBus
from app.infra.bus.port import Bus
from app.infra.bus.redis import RedisBus

KEY = os.urandom(32)


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - whatever it watches has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*buses: Bus) -> AsyncIterator[None]:
    for bus in buses:
        await bus.start()
    try:
        yield
    finally:
        for bus in buses:
            await bus.stop()


@pytest.fixture(params=["memory", "redis"])
def bus(request: pytest.FixtureRequest) -> Bus:
    return (
        MemoryBus()
        if request.param == "memory"
        else RedisBus(request.getfixturevalue("redis_url"), KEY)
    )


async def heard_by(bus: Bus, heard: list[bytes]) -> None:
    """Until the subscription stands: pub/sub loses what comes before it."""
    async with asyncio.timeout(30):
        while not heard:
            bus.publish("updates", b"probe")
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    heard.clear()


async def test_payloads_arrive_in_order_at_their_topic(bus: Bus) -> None:
    heard: list[bytes] = []
    other: list[bytes] = []
    bus.subscribe("updates", heard.append)
    bus.subscribe("signals", other.append)
    payloads = [os.urandom(50) for _ in range(1000)]
    async with running(bus):
        await heard_by(bus, heard)
        for payload in payloads:
            bus.publish("updates", payload)
        await until(lambda: len(heard) >= 1000)
    assert heard == payloads
    assert other == []


async def test_a_failing_subscriber_disturbs_nobody(bus: Bus) -> None:
    heard: list[bytes] = []

    def fail(_payload: bytes) -> None:
        raise ValueError("bad payload")

    bus.subscribe("updates", fail)
    bus.subscribe("updates", heard.append)
    async with running(bus):
        await heard_by(bus, heard)
        bus.publish("updates", b"1")
        bus.publish("updates", b"2")
        await until(lambda: len(heard) == 2)


async def test_two_workers_hear_each_other(redis_url: str) -> None:
    one, two = RedisBus(redis_url, KEY), RedisBus(redis_url, KEY)
    heard_one: list[bytes] = []
    heard_two: list[bytes] = []
    one.subscribe("updates", heard_one.append)
    two.subscribe("updates", heard_two.append)
    async with running(one, two):
        await heard_by(one, heard_two)
        await heard_by(two, heard_one)
        heard_two.clear()
        one.publish("updates", b"from one")
        await until(lambda: heard_two == [b"from one"] and heard_one == [b"from one"])


async def test_redis_sees_no_plaintext_and_a_stranger_is_not_believed(redis_url: str) -> None:
    bus, stranger = RedisBus(redis_url, KEY), RedisBus(redis_url, os.urandom(32))
    heard: list[bytes] = []
    bus.subscribe("updates", heard.append)
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    listener = client.pubsub()
    await listener.psubscribe("*")
    await listener.get_message(timeout=1)
    async with running(bus, stranger):
        await heard_by(bus, heard)
        stranger.publish("updates", b"forged")
        bus.publish("updates", b"marker-text")
        await until(lambda: bool(heard))
    seen = [
        message["data"]
        for message in [await listener.get_message(timeout=0.2) for _ in range(50)]
        if message
    ]
    await listener.aclose()
    await client.aclose()
    assert heard == [b"marker-text"]
    assert len(seen) >= 2
    assert not any(b"marker" in payload for payload in seen)


async def test_a_sealed_payload_is_bound_to_its_topic(redis_url: str) -> None:
    bus = RedisBus(redis_url, KEY)
    heard: list[bytes] = []
    bus.subscribe("revocations", heard.append)
    bus.subscribe("updates", lambda _payload: None)
    bus.publish("updates", b"moved")
    _, sealed = bus._queue[0]
    bus._handle({"type": "message", "channel": b"messenger:bus:revocations", "data": sealed})
    bus._handle({"type": "message", "channel": b"messenger:bus:revocations", "data": b"short"})
    assert heard == []


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_cut_connections_come_back_by_themselves(redis_url: str, kind: str) -> None:
    bus = RedisBus(redis_url, KEY)
    heard: list[bytes] = []
    reconnects: list[bool] = []
    bus.subscribe("updates", heard.append)
    bus.on_reconnect(lambda: reconnects.append(True))
    admin: Any = redis.asyncio.Redis.from_url(redis_url)
    async with running(bus):
        await heard_by(bus, heard)
        for round_number in range(3):
            await admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            if kind == "pubsub":
                await until(lambda count=round_number: len(reconnects) > count)
            heard.clear()
            bus.publish("updates", b"after")
            await until(lambda: b"after" in heard)
    async with asyncio.timeout(30):  # until only the test's own connection is left
        while len(await admin.client_list()) > 1:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.05)
    await admin.aclose()


async def test_a_sleeping_redis_never_holds_up_the_caller(redis_url: str) -> None:
    """CLIENT PAUSE: connections stay open, nothing answers."""
    bus = RedisBus(redis_url, KEY)
    heard: list[bytes] = []
    reconnects: list[bool] = []
    bus.subscribe("updates", heard.append)
    bus.on_reconnect(lambda: reconnects.append(True))
    admin: Any = redis.asyncio.Redis.from_url(redis_url)
    async with running(bus):
        await heard_by(bus, heard)
        await admin.execute_command("CLIENT", "PAUSE", "6000")
        started = time.monotonic()
        for _ in range(30_000):
            bus.publish("updates", b"x")
        assert time.monotonic() - started < 5
        await until(lambda: bool(reconnects))
        bus.publish("updates", b"after")
        await until(lambda: b"after" in heard)
    await admin.aclose()


async def test_without_redis_it_starts_takes_everything_and_stops_in_time() -> None:
    bus = RedisBus("redis://127.0.0.1:1/0", KEY)
    bus.subscribe("updates", lambda _payload: None)
    async with asyncio.timeout(30), running(bus):
        for _ in range(25_000):
            bus.publish("updates", b"x")
        await asyncio.sleep(0.3)
        assert len(bus._queue) <= 20_000


async def test_an_idle_line_stays_up(redis_url: str) -> None:
    bus = RedisBus(redis_url, KEY)
    heard: list[bytes] = []
    reconnects: list[bool] = []
    bus.subscribe("updates", heard.append)
    bus.on_reconnect(lambda: reconnects.append(True))
    async with running(bus):
        await heard_by(bus, heard)
        await asyncio.sleep(6)
        bus.publish("updates", b"after")
        await until(lambda: heard == [b"after"])
    assert reconnects == []


async def test_what_came_while_the_worker_stood_still_is_heard(redis_url: str) -> None:
    bus, other = RedisBus(redis_url, KEY), RedisBus(redis_url, KEY)
    heard: list[bytes] = []
    reconnects: list[bool] = []
    bus.subscribe("updates", heard.append)
    bus.on_reconnect(lambda: reconnects.append(True))
    other.publish("updates", b"meanwhile")
    topic, sealed = other._queue[0]
    async with running(bus):
        await heard_by(bus, heard)
        with redis.Redis.from_url(redis_url) as client:
            client.publish(f"messenger:bus:{topic}", sealed)
        time.sleep(6)  # noqa: ASYNC251 - as SIGSTOP does
        await until(lambda: heard == [b"meanwhile"], 3)
    assert reconnects == []
    await other.stop()
