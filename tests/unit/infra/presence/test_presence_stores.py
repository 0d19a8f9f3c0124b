"""Both presence stores by the same tests; the Redis one also with Redis away."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from app.infra.presence.memory import MemoryPresence
from app.infra.presence.port import PresenceStore
from app.infra.presence.redis import RedisPresence
from app.kernel.ids import UserId

ANNA, BORIS = UserId(1), UserId(2)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PresenceStore]:
    made = (
        MemoryPresence()
        if request.param == "memory"
        else RedisPresence(request.getfixturevalue("redis_url"))
    )
    yield made
    await made.close()


async def test_each_connection_counts(store: PresenceStore) -> None:
    assert await store.add(ANNA, "a", 10) == 1
    assert await store.add(ANNA, "b", 10) == 2
    assert await store.add(ANNA, "b", 10) == 2
    assert await store.online([ANNA, BORIS]) == {ANNA}
    assert await store.remove(ANNA, "a") == 1
    assert await store.remove(ANNA, "b") == 0
    assert await store.remove(ANNA, "b") == 0
    assert await store.online([ANNA]) == set()


async def test_nobody_asked_about_is_nobody_online(store: PresenceStore) -> None:
    assert await store.online([]) == set()


async def test_an_expired_connection_is_told_once(store: PresenceStore) -> None:
    await store.add(ANNA, "a", 0.2)
    await store.add(BORIS, "b", 10)
    assert await store.take_expired() == []
    await asyncio.sleep(0.4)
    assert await store.online([ANNA, BORIS]) == {BORIS}
    assert await store.take_expired() == [ANNA]
    assert await store.take_expired() == []


async def test_a_removed_connection_is_not_told_as_expired(store: PresenceStore) -> None:
    await store.add(ANNA, "a", 0.2)
    await store.remove(ANNA, "a")
    await asyncio.sleep(0.4)
    assert await store.take_expired() == []


async def test_refreshed_connections_live_on_and_forgotten_ones_come_back(
    store: PresenceStore,
) -> None:
    await store.add(ANNA, "a", 0.3)
    await store.refresh([(ANNA, "a"), (BORIS, "b")], 10)
    await asyncio.sleep(0.5)
    assert await store.online([ANNA, BORIS]) == {ANNA, BORIS}


async def test_a_shortened_connection_leaves_the_others_alone(store: PresenceStore) -> None:
    await store.add(ANNA, "a", 10)
    await store.add(ANNA, "b", 10)
    await store.refresh([(ANNA, "a")], 0.1)
    await asyncio.sleep(0.3)
    assert await store.take_expired() == []
    assert await store.add(ANNA, "b", 10) == 1


async def test_many_people_at_once(store: PresenceStore) -> None:
    people = [UserId(number) for number in range(1, 1202)]
    await store.refresh([(person, f"c{person}") for person in people], 20)
    assert await store.online(people) == set(people)


async def test_two_workers_share_and_one_of_them_tells(redis_url: str) -> None:
    one, two = RedisPresence(redis_url), RedisPresence(redis_url)
    assert await one.add(ANNA, "a", 0.3) == 1
    assert await two.add(ANNA, "b", 0.3) == 2
    assert await two.online([ANNA]) == {ANNA}
    await asyncio.sleep(0.5)
    taken = await asyncio.gather(one.take_expired(), two.take_expired(), one.take_expired())
    assert [person for people in taken for person in people] == [ANNA]
    for store in (one, two):
        await store.close()


async def test_a_key_outlives_a_killed_server_only_for_a_while(redis_url: str) -> None:
    store = RedisPresence(redis_url)
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    await store.add(ANNA, "a", 10)
    await store.refresh([(ANNA, "b")], 1)
    assert 10_000 <= await client.pttl("messenger:presence:1") <= 120_000
    await client.aclose()
    await store.close()


async def test_a_flushed_redis_is_filled_again(redis_url: str) -> None:
    one, two = RedisPresence(redis_url), RedisPresence(redis_url)
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    await one.add(ANNA, "a", 10)
    await client.flushdb()
    await one.refresh([(ANNA, "a")], 10)
    assert await two.online([ANNA]) == {ANNA}
    await client.aclose()
    for store in (one, two):
        await store.close()


async def test_without_redis_the_own_connections_are_known(directory: object) -> None:
    store = RedisPresence("redis://127.0.0.1:1/0")
    assert await store.add(ANNA, "a", 0.3) == 1
    assert await store.online([ANNA, BORIS]) == {ANNA}
    await asyncio.sleep(0.5)
    assert await store.take_expired() == [ANNA]
    await store.close()


async def test_a_sleeping_redis_costs_a_second_not_more(redis_url: str) -> None:
    store = RedisPresence(redis_url)
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    await store.add(ANNA, "a", 30)
    await client.execute_command("CLIENT", "PAUSE", "5000")
    started = time.monotonic()
    assert await store.online([ANNA]) == {ANNA}
    assert time.monotonic() - started < 2.5
    started = time.monotonic()
    for _ in range(100):
        await store.online([ANNA, BORIS])
    assert time.monotonic() - started < 2.5
    await client.aclose()
    await store.close()
