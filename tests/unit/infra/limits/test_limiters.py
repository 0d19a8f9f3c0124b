"""Limiters: sliding, exact under crowds, bounded in memory and in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis

from app.infra.limits.memory import CounterStorage, MemoryLimiter
from app.infra.limits.port import Draw, Limiter, Quota, Standing
from app.infra.limits.redis import RedisLimiter
from app.infra.limits.refusals import Refusals
from app.infra.limits.windows import draw
from tests.faults.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

TEN = Quota("ten", 10, 60)
NAMES = ("memory", "redis")


@pytest.fixture(params=NAMES)
async def limiter(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Limiter]:
    del anyio_backend
    if request.param == "memory":
        made: Limiter = MemoryLimiter()
    else:
        made = RedisLimiter(request.getfixturevalue("redis_url"))
    yield made
    await made.close()


async def take(limiter: Limiter, quota: Quota, whose: str = "anna", cost: int = 1) -> Standing:
    [standing] = await limiter.take([Draw(quota, whose, cost)])
    return standing


async def count_allowed(limiter: Limiter, quota: Quota, tries: int, whose: str = "anna") -> int:
    standings = await asyncio.gather(*(take(limiter, quota, whose) for _ in range(tries)))
    return sum(standing.is_allowed for standing in standings)


async def test_a_crowd_gets_what_the_quota_says(limiter: Limiter) -> None:
    assert await count_allowed(limiter, TEN, 300) == 10
    assert await count_allowed(limiter, TEN, 300, whose="bruno") == 10


async def test_a_standing_tells_what_is_left_and_when_more_comes(limiter: Limiter) -> None:
    first = await take(limiter, TEN)
    assert (first.is_allowed, first.remaining) == (True, 9)
    assert 0 < first.reset_seconds <= 120
    assert (await take(limiter, TEN, cost=4)).remaining == 5
    costly = await take(limiter, TEN, cost=7)
    assert (costly.is_allowed, costly.remaining) == (False, 5)
    # What is too dear is refused; what is cheap enough is not, and is not remembered as refused.
    assert limiter.find_refusals([Draw(TEN, "anna")]) == []
    assert (await take(limiter, TEN, cost=5)).is_allowed
    refused = await take(limiter, TEN)
    assert not refused.is_allowed
    assert limiter.find_refusals([Draw(TEN, "anna")])


async def test_several_quotas_are_drawn_on_at_once(limiter: Limiter) -> None:
    two = Quota("two", 2, 60)
    draws = [Draw(TEN, "anna"), Draw(two, "anna-7")]
    for left in (1, 0):
        standings = await limiter.take(draws)
        assert [it.is_allowed for it in standings] == [True, True]
        assert standings[1].remaining == left
    assert not all(standing.is_allowed for standing in await limiter.take(draws))


async def test_the_edge_of_a_window_does_not_double_it(limiter: Limiter) -> None:
    """A burst at the end of one window and another at the beginning of the next."""
    quota = Quota("edge", 10, 2)
    started = time.time()
    await take(limiter, quota)
    # In memory windows begin with the clock's, in Redis with the first draw.
    ends = started + 2 if isinstance(limiter, RedisLimiter) else (started // 2 + 1) * 2
    await until(lambda: time.time() > ends - 0.15)
    allowed = await count_allowed(limiter, quota, 20)
    await until(lambda: time.time() > ends + 0.05)
    deadline = time.time() + 0.5
    while time.time() < deadline:
        allowed += await count_allowed(limiter, quota, 5)
        await asyncio.sleep(0.02)
    # A fixed window lets 19 or 20 through. Here: ten, and what 0.7 of 2 seconds give back.
    assert 9 <= allowed <= 10 + 4


async def test_who_waits_as_told_may_go_on(limiter: Limiter) -> None:
    quota = Quota("short", 3, 1)
    assert 3 <= await count_allowed(limiter, quota, 6) <= 4
    refused = await take(limiter, quota)
    assert not refused.is_allowed
    comes = time.monotonic() + refused.reset_seconds + 0.05
    await until(lambda: time.monotonic() > comes)
    assert (await take(limiter, quota)).is_allowed


async def test_a_crowd_uses_one_connection_and_survives_an_emptied_redis(redis_url: str) -> None:
    limiter = RedisLimiter(redis_url)
    redis = Redis.from_url(redis_url)
    assert await count_allowed(limiter, TEN, 500) == 10
    clients = await redis.client_list()
    assert len(clients) <= 2  # the limiter's and ours
    # Scripts and counters are lost: slow, never wrong for long, and nobody sees an error.
    await redis.script_flush()
    await redis.flushall()
    assert await count_allowed(limiter, Quota("other", 5, 60), 50) == 5
    assert not limiter._is_degraded
    await redis.aclose()
    await limiter.close()


async def test_two_workers_share_their_counters(redis_url: str) -> None:
    workers = [RedisLimiter(redis_url) for _ in range(4)]
    counts = await asyncio.gather(*(count_allowed(worker, TEN, 50) for worker in workers))
    assert sum(counts) == 10
    for worker in workers:
        await worker.close()


@pytest.mark.parametrize("way", ["mute", "refusing", "cut"])
async def test_a_dead_redis_is_bounded_and_strict_quotas_are_cut(redis_url: str, way: str) -> None:
    parts = urlsplit(redis_url)
    async with TcpProxy.to(parts.hostname or "", parts.port or 0) as proxy:
        limiter = RedisLimiter(f"redis://127.0.0.1:{proxy.port}")
        assert await count_allowed(limiter, TEN, 2) == 2
        match way:
            case "mute":
                proxy.is_mute = True
                proxy.silence()
            case "refusing":
                proxy.is_refusing = True
                proxy.cut()
            case _:
                proxy.is_mute = True
                proxy.cut()
        began = time.monotonic()
        # Every worker counts for itself now.
        assert await count_allowed(limiter, TEN, 100, whose="bruno") == 10
        strict = Quota("codes", 8, 60)
        draws = [Draw(strict, "clara", is_strict=True)]
        granted = [(await limiter.take(draws))[0].is_allowed for _ in range(8)]
        assert sum(granted) == 2
        assert time.monotonic() - began < 20
        proxy.heal()

        async def is_whole_again() -> bool:
            await take(limiter, Quota("probe", 10_000, 60))
            return not limiter._is_degraded

        await eventually(is_whole_again, what="Redis counts again")
        await limiter.close()


async def test_a_caller_who_goes_away_leaves_the_answers_of_others_alone(redis_url: str) -> None:
    limiter = RedisLimiter(redis_url)
    for _ in range(20):
        leaving = [asyncio.create_task(take(limiter, TEN, f"gone-{n}")) for n in range(5)]
        staying = [
            asyncio.create_task(take(limiter, Quota("own", n + 1, 60), f"stays-{n}"))
            for n in range(50)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        standings = await asyncio.gather(*staying)
        assert [it.quota.limit for it in standings] == list(range(1, 51))
        assert all(it.remaining < it.quota.limit for it in standings)
    await limiter.close()


async def test_a_clock_that_jumps_opens_no_window_and_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine's clock; counters go by one that only moves on."""
    wall, monotonic = [1_000_000.0], [500.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    storage = CounterStorage(monotonic=lambda: monotonic[0])
    limiter = SlidingWindowCounterRateLimiter(storage)
    allowed = 0
    for jump in (0.0, 300.0, -300.0, 3600.0, -3600.0):
        wall[0] += jump
        for _ in range(4):
            allowed += (await draw(limiter, Draw(TEN, "anna"))).is_allowed
    assert allowed == 10
    monotonic[0] += 120
    assert (await draw(limiter, Draw(TEN, "anna"))).is_allowed


@pytest.mark.parametrize("seconds_up", [0.0, 5.0, 40_000.0, 86_399.0, 100_000.0])
async def test_a_day_is_a_whole_day_on_a_machine_that_is_up_for_less(seconds_up: float) -> None:
    """Of a clock that reads less than a window the library makes one key for the last window and this one."""
    storage = CounterStorage(monotonic=lambda: seconds_up)
    taken = [await storage.acquire_sliding_window_entry("sms", 6, 86_400) for _ in range(8)]
    assert taken == [True] * 6 + [False] * 2


async def test_counters_in_memory_are_bounded_and_forgotten() -> None:
    now = 0.0
    storage = CounterStorage(max_counters=100, monotonic=lambda: now)
    limiter = SlidingWindowCounterRateLimiter(storage)
    for number in range(1000):
        await draw(limiter, Draw(TEN, f"address-{number}"))
    assert len(storage.storage) == len(storage.expirations) == 100
    assert not storage.locks
    now = 1000.0
    await draw(limiter, Draw(TEN, "somebody"))
    assert len(storage.storage) == len(storage.expirations) == 1


def test_refusals_end_when_the_counters_said_and_are_bounded() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    draws = [Draw(TEN, f"address-{number}") for number in range(20_000)]
    refused = [Standing(TEN, is_allowed=False, remaining=0, reset_seconds=5.0)] * len(draws)
    refusals.note(draws, refused)
    assert not refusals.find(draws[:1])
    assert refusals.find(draws[-1:])[0].reset_seconds == 5
    now = 5.0
    assert not refusals.find(draws[-1:])


async def until(holds: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return holds()

    asking: Callable[[], Awaitable[bool]] = ask
    await eventually(asking)
