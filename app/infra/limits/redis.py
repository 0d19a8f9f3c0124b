"""Limits over all workers. What is asked for at one moment is one round trip, on one connection."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import NoScriptError

from app.infra.limits.memory import MemoryLimiter
from app.infra.limits.port import Draw, Standing
from app.infra.limits.refusals import Refusals
from app.infra.limits.windows import draw
from app.infra.redis_client import is_redis_outage, make_redis

_PREFIX = "messenger:limits"
# Requests wait for this: a Redis that does not answer must not slow them down for long.
_CALL_SECONDS = 0.5
# After a failure one caller a second tries again; all others go by the counters of this worker.
_REST_SECONDS = 1.0
_MAX_CALLS = 200
# Without common counters each worker grants this share of a strict quota: four workers, the whole.
_STRICT_SHARE = 4

# The library's two scripts, run for each draw in turn: two keys and three arguments each.
_COMBINED = """
local function acquire(KEYS, ARGV)
{acquire}
end
local function look(KEYS, ARGV)
{window}
end
local answers = {{}}
for i = 1, #KEYS / 2 do
  local keys = {{KEYS[2 * i - 1], KEYS[2 * i]}}
  local limit, expiry, amount = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  answers[i] = {{acquire(keys, {{limit, expiry, amount}}), look(keys, {{expiry}})}}
end
return answers
"""

log = structlog.stdlib.get_logger("app.limits")


class RedisLimiter:
    """Falls back on what this worker counts itself while Redis is away."""

    def __init__(self, url: str) -> None:
        self._client: Any = make_redis(url)
        self._line = _Line(self._client)
        storage = _make_storage(self._client, self._line)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._own = MemoryLimiter()
        self._refusals = Refusals()
        self._rest_until = 0.0
        self._is_degraded = False

    async def take(self, draws: Sequence[Draw]) -> list[Standing]:
        refused = self._refusals.find(draws)
        if refused:
            return refused
        standings = await self._ask(draws)
        if standings is None:
            return await self._own.take([_without_common_counters(draw) for draw in draws])
        self._refusals.note(draws, standings)
        return standings

    def find_refusals(self, draws: Sequence[Draw]) -> list[Standing]:
        return self._refusals.find(draws)

    async def close(self) -> None:
        self._line.close()
        await self._client.aclose()

    async def _ask(self, draws: Sequence[Draw]) -> list[Standing] | None:
        """None: Redis is away."""
        now = time.monotonic()
        if self._is_degraded:
            if now < self._rest_until:
                return None
            # This caller tries; the others need not wait for the outcome.
            self._rest_until = now + _REST_SECONDS
        try:
            if len(draws) == 1:
                standings = [await draw(self._limiter, draws[0])]
            else:
                standings = await asyncio.gather(*(draw(self._limiter, it) for it in draws))
        except Exception as error:
            if not is_redis_outage(error):
                raise
            self._rest_until = time.monotonic() + _REST_SECONDS
            if not self._is_degraded:  # one line an outage, not one a try
                log.warning("limits_degraded", reason=type(error).__name__)
            self._is_degraded = True
            return None
        if self._is_degraded:
            self._is_degraded = False
            log.info("limits_restored")
        return list(standings)


def _without_common_counters(draw: Draw) -> Draw:
    if not draw.is_strict:
        return draw
    limit = max(1, draw.quota.limit // _STRICT_SHARE)
    return replace(draw, quota=replace(draw.quota, limit=limit), cost=min(draw.cost, limit))


def _make_storage(client: Any, line: "_Line") -> RedisStorage:
    """The library's, whose scripts we send ourselves: it would make a round trip of each."""
    storage = RedisStorage(
        "redis://",  # where to go the pool knows
        implementation="redispy",
        key_prefix=_PREFIX,
        connection_pool=client.connection_pool,
    )
    bridge = cast("Any", storage.bridge)
    acquire = _Acquire(line)
    line.text = _COMBINED.format(
        acquire=bridge.lua_acquire_sliding_window.script.decode(),
        window=bridge.lua_sliding_window.script.decode(),
    )
    bridge.lua_acquire_sliding_window = acquire
    bridge.lua_sliding_window = acquire.take_window
    return storage


class _Acquire:
    """Called as the library calls its script that draws; what its script that looks would tell comes with it."""

    def __init__(self, line: "_Line") -> None:
        self._line = line
        self._windows: dict[tuple[str, ...], object] = {}

    async def __call__(self, keys: Sequence[str], arguments: Sequence[int]) -> object:
        is_acquired, window = await self._line.send(_Call(tuple(keys), tuple(arguments)))
        # Taken at once, before anybody else gets a turn.
        self._windows[tuple(keys)] = window
        return is_acquired

    async def take_window(self, keys: Sequence[str], _arguments: Sequence[int]) -> object:
        """The window as it was right after the draw."""
        return self._windows.pop(tuple(keys))


@dataclass(frozen=True, slots=True)
class _Call:
    """Two keys; limit, expiry in seconds, and amount."""

    keys: tuple[str, ...]
    arguments: tuple[int, ...]


class _Line:
    """One call of Redis after the other, each for all draws that came meanwhile.

    A caller who goes away leaves its draw alone: nobody ever reads another's answer.
    """

    def __init__(self, client: Any) -> None:
        self.text = ""
        self._sha = ""
        self._client = client
        self._waiting: list[tuple[_Call, asyncio.Future[_Answer]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def send(self, call: _Call) -> "_Answer":
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_waiting(), name="limits-send")
        return await answer

    def close(self) -> None:
        """Whoever still waits is cancelled."""
        if self._sender is not None:
            self._sender.cancel()

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_CALLS], self._waiting[_MAX_CALLS:]
                await self._send_batch(batch)
        finally:
            self._sender = None
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()

    async def _send_batch(self, batch: Sequence[tuple[_Call, "asyncio.Future[_Answer]"]]) -> None:
        failure: Exception = TimeoutError()  # also of a call that was cut short
        answers: Sequence[_Answer] = ()
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answers = await self._execute([call for call, _ in batch])
        except Exception as error:  # noqa: BLE001 - whoever asked hears of it
            failure = error
        finally:
            for place, (_, future) in enumerate(batch):
                if future.done():
                    continue
                if answers:
                    future.set_result(answers[place])
                else:
                    future.set_exception(failure)

    async def _execute(self, calls: Sequence[_Call]) -> Sequence["_Answer"]:
        keys = [key for call in calls for key in call.keys]
        arguments = [argument for call in calls for argument in call.arguments]
        try:
            return await self._client.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            # The first call, or Redis was restarted or emptied: it has run nothing of it.
            self._sha = await self._client.script_load(self.text)
            return await self._client.evalsha(self._sha, len(keys), *keys, *arguments)


_Answer = tuple[object, object]
