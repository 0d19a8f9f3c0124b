"""Presence shared by all workers: a sorted set of connections a person, scored by when each expires."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import structlog

from app.infra.presence.memory import MemoryPresence
from app.infra.presence.port import (
    GAP_SECONDS,
    GONE_SECONDS,
    HOLD_SECONDS,
    LEASE_SECONDS,
    Opened,
)
from app.infra.redis_client import is_redis_outage, make_redis
from app.kernel.ids import UserId

T = TypeVar("T")
_PREFIX = "messenger:presence:"
# For each person, when the last connection expires: who is due is taken from it.
_ENDS = "messenger:presence-ends"
# People who were taken as expired, and when; whoever connects again leaves it.
_GONE = "messenger:presence-gone"
# When any worker last took the expired, and until when that is on hold.
_SWEEP = "messenger:presence-sweep"
# After a failure Redis is left alone this long, so that not every caller waits for its timeout.
_REST_SECONDS = 1.0
# The bus of every worker has come back within this time after Redis, and carries what is told.
_BUS_SECONDS = 2.0
# A script holds up everyone else: so many people at once and no more.
_MAX_CALL = 500
# What `_NOTE` tells of each connection.
_WAS_OFFLINE = 1
_WAS_GONE = 2

# All judge by Redis's own clock, in milliseconds.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000);"
_LIVES = """
local function last_of(key)
  return tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or 0)
end
"""
# KEYS: a person's each, ends, gone. ARGV: milliseconds to live, whether closed, a connection each.
_NOTE = (
    _NOW
    + _LIVES
    + """
local ends, gone = KEYS[#KEYS - 1], KEYS[#KEYS]
local states = {}
for i = 1, #KEYS - 2 do
  local key, person = KEYS[i], string.match(KEYS[i], '%d+$')
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local is_offline = redis.call('ZCARD', key) == 0
  local is_gone = redis.call('ZSCORE', gone, person)
  if not is_gone or ARGV[2] == '0' then
    redis.call('ZADD', key, now + ARGV[1], ARGV[i + 2])
    local last = last_of(key)
    redis.call('PEXPIRE', key, (last - now) * 2)
    redis.call('ZADD', ends, last, person)
    redis.call('ZREM', gone, person)
  end
  states[i] = (is_offline and 1 or 0) + (is_gone and 2 or 0)
end
return states
"""
)
# KEYS: ends, gone, sweep. ARGV: prefix, gap, hold, lease, age of the gone, people to look at.
_TAKE_EXPIRED = (
    _NOW
    + _LIVES
    + """
local ends, gone, sweep = KEYS[1], KEYS[2], KEYS[3]
local taken_at = tonumber(redis.call('HGET', sweep, 'taken_at') or 0)
local held_until = tonumber(redis.call('HGET', sweep, 'held_until') or 0)
if now - taken_at > tonumber(ARGV[2]) then held_until = now + ARGV[3] end
redis.call('HSET', sweep, 'taken_at', now, 'held_until', held_until)
for i = 6, #ARGV do redis.call('ZADD', ends, 'NX', now, ARGV[i]) end
if now < held_until then return {1} end
local taken = {0}
for _, person in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 1000)) do
  local last = last_of(ARGV[1] .. person)
  if last > now then
    redis.call('ZADD', ends, last, person)
  else
    redis.call('ZADD', ends, now + ARGV[4], person)
    redis.call('ZADD', gone, now, person)
    taken[#taken + 1] = person
  end
end
redis.call('ZREMRANGEBYSCORE', gone, '-inf', now - ARGV[5])
return taken
"""
)
_FORGET = (
    _NOW
    + _LIVES
    + """
for i = 1, #KEYS - 1 do
  if last_of(KEYS[i]) <= now then redis.call('ZREM', KEYS[#KEYS], string.match(KEYS[i], '%d+$')) end
end
"""
)
_ONLINE = (
    _NOW
    + """
local counts = {}
for i, key in ipairs(KEYS) do counts[i] = redis.call('ZCOUNT', key, now, '+inf') end
return counts
"""
)

log = structlog.stdlib.get_logger("app.presence")


class RedisPresence:
    """Falls back on what this worker knows itself while Redis is away.

    Then it takes nobody as expired: who has left this worker may be connected to another. When
    Redis is back, those are looked at, and who came meanwhile is told as soon as everybody can hear it.
    """

    def __init__(
        self,
        url: str,
        *,
        gap_seconds: float = GAP_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
        bus_seconds: float = _BUS_SECONDS,
    ) -> None:
        self._client: Any = make_redis(url)
        self._own = MemoryPresence()
        self._sweep_limits = [
            _milliseconds(seconds)
            for seconds in (gap_seconds, hold_seconds, LEASE_SECONDS, GONE_SECONDS)
        ]
        self._bus_seconds = bus_seconds
        self._rest_until = 0.0
        self._restored_at = 0.0
        self._is_degraded = False
        self._is_held = False
        self._doubts: list[Callable[[], None]] = []
        # What happened while Redis was away, for when it is back.
        self._came: set[UserId] = set()
        self._left: set[UserId] = set()
        self._has_missed_sweeps = False

    async def add(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        new_here = set(await self._own.add(connections, ttl_seconds))
        came: dict[UserId, None] = {}
        for part in _parts(connections):
            states = await self._note(part, ttl_seconds)
            if states is None:
                own = [user_id for user_id, _ in part if user_id in new_here]
                self._came.update(own)
                came.update(dict.fromkeys(own))
                continue
            for (user_id, _), state in zip(part, states, strict=True):
                # Redis may have lost the other connections of whoever is connected here already.
                if state & _WAS_GONE or (state & _WAS_OFFLINE and user_id in new_here):
                    came[user_id] = None
        return list(came)

    async def refresh(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        await self._own.refresh(connections, ttl_seconds)
        back: dict[UserId, None] = {}
        has_bus = self._has_bus()
        for part in _parts(connections):
            states = await self._note(part, ttl_seconds)
            if states is None:
                return list(back)
            for (user_id, _), state in zip(part, states, strict=True):
                if state & _WAS_GONE or (has_bus and user_id in self._came):
                    back[user_id] = None
                    self._came.discard(user_id)
        return list(back)

    async def linger(self, connections: Opened, seconds: float) -> None:
        for part in _parts(connections):
            states = await self._note(part, seconds, is_closed=True)
            states = [0] * len(part) if states is None else states
            # Whom another worker has told of, or this one before its own clock had come so far, stays away.
            for (user_id, connection_id), state in zip(part, states, strict=True):
                left = 0 if state & _WAS_GONE else seconds
                await self._own.linger([(user_id, connection_id)], left)

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        found = await self._own.online(user_ids)
        for part in _parts(user_ids):
            keys = [_key(user_id) for user_id in part]
            counts = await self._try(self._client.eval(_ONLINE, len(keys), *keys), [0] * len(keys))
            pairs = zip(part, cast("list[int]", counts), strict=True)
            found |= {user_id for user_id, count in pairs if count}
        return found

    async def take_expired(self) -> list[UserId]:
        own = await self._own.take_expired()
        await self._own.forget(own)
        if self._has_missed_sweeps:
            self._left.update(own)
        self._left -= await self._own.online(list(self._left))
        self._came &= await self._own.online(list(self._came))
        left = list(self._left)[:_MAX_CALL]
        arguments = [_PREFIX, *self._sweep_limits, *(str(user_id) for user_id in left)]
        call = self._client.eval(_TAKE_EXPIRED, 3, _ENDS, _GONE, _SWEEP, *arguments)
        answer = cast("list[Any] | None", await self._try(call, None))
        if answer is None:
            self._left.update(own)
            return []
        self._left.difference_update(left)
        self._has_missed_sweeps = False
        if self._came and self._has_bus():
            self._doubt()
        self._set_held(is_held=bool(answer[0]))
        return [UserId(int(person)) for person in answer[1:]]

    async def forget(self, user_ids: Sequence[UserId]) -> None:
        for part in _parts(user_ids):
            keys = [*(_key(user_id) for user_id in part), _ENDS]
            await self._try(self._client.eval(_FORGET, len(keys), *keys), None)

    def on_doubt(self, handler: Callable[[], None]) -> None:
        self._doubts.append(handler)

    async def close(self) -> None:
        await self._client.aclose()

    async def _note(
        self, connections: Opened, ttl_seconds: float, *, is_closed: bool = False
    ) -> list[int] | None:
        """For each connection what its person was before, `_WAS_...`; None: Redis is away."""
        keys = [*(_key(user_id) for user_id, _ in connections), _ENDS, _GONE]
        ids = [connection_id for _, connection_id in connections]
        arguments = [_milliseconds(ttl_seconds), str(int(is_closed)), *ids]
        return await self._try(self._client.eval(_NOTE, len(keys), *keys, *arguments), None)

    def _has_bus(self) -> bool:
        return time.monotonic() - self._restored_at >= self._bus_seconds

    def _set_held(self, *, is_held: bool) -> None:
        """A hold begins when Redis was emptied, or when it or all workers stood still."""
        if is_held and not self._is_held:
            self._doubt()
        self._is_held = is_held

    def _doubt(self) -> None:
        for handler in self._doubts:
            handler()

    async def _try(self, call: Awaitable[T], otherwise: T) -> T:
        if time.monotonic() < self._rest_until:
            cast("Any", call).close()  # a coroutine that is never awaited
            return otherwise
        try:
            answer = await call
        except Exception as error:
            if not is_redis_outage(error):
                raise
            self._rest_until = time.monotonic() + _REST_SECONDS
            self._has_missed_sweeps = True
            if not self._is_degraded:  # one line an outage, not one a try
                log.warning("presence_degraded", reason=type(error).__name__)
            self._is_degraded = True
            return otherwise
        # Whoever hears of the return asks at once, and must not be put off.
        self._rest_until = 0.0
        if self._is_degraded:
            self._is_degraded = False
            self._restored_at = time.monotonic()
            log.info("presence_restored")
            self._doubt()
        return answer


def _key(user_id: UserId) -> str:
    return f"{_PREFIX}{user_id}"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _parts(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + _MAX_CALL] for start in range(0, len(items), _MAX_CALL)]
