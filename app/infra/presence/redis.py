"""Presence shared by all workers: a sorted set of connections a person, scored by when each expires."""

import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar, cast

import structlog
from redis.exceptions import RedisError

from app.infra.presence.memory import MemoryPresence
from app.infra.redis_client import make_redis
from app.kernel.ids import UserId

T = TypeVar("T")
_ENDS = "messenger:presence-ends"
# After a failure Redis is left alone this long, so that not every caller waits for its timeout.
_REST_SECONDS = 1.0
# A script holds up everyone else: so many people at once and no more.
_MAX_CALL = 500

# All judge by Redis's own clock, in milliseconds.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000);"
# The last key holds, for each person, when the last connection expires: who is due is taken from it.
_ADD = (
    _NOW
    + """
for i = 2, #ARGV do
  local key = KEYS[i - 1]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  redis.call('ZADD', key, now + ARGV[1], ARGV[i])
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIRE', key, (last - now) * 2)
  redis.call('ZADD', KEYS[#KEYS], last, string.match(key, '%d+$'))
end
return redis.call('ZCARD', KEYS[1])
"""
)
_REMOVE = (
    _NOW
    + """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local count = redis.call('ZCARD', KEYS[1])
if count == 0 then redis.call('ZREM', KEYS[2], string.match(KEYS[1], '%d+$')) end
return count
"""
)
_TAKE_EXPIRED = (
    _NOW
    + """
local people = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
for _, person in ipairs(people) do redis.call('ZREM', KEYS[1], person) end
return people
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
    """Falls back on what this worker knows itself while Redis is away."""

    def __init__(self, url: str) -> None:
        self._client: Any = make_redis(url)
        self._own = MemoryPresence()
        self._rest_until = 0.0
        self._is_degraded = False

    async def add(self, user_id: UserId, connection_id: str, ttl_seconds: float) -> int:
        own = await self._own.add(user_id, connection_id, ttl_seconds)
        arguments = [str(int(ttl_seconds * 1000)), connection_id]
        count = await self._try(self._client.eval(_ADD, 2, _key(user_id), _ENDS, *arguments), own)
        return max(own, count)

    async def refresh(self, connections: Sequence[tuple[UserId, str]], ttl_seconds: float) -> None:
        await self._own.refresh(connections, ttl_seconds)
        for start in range(0, len(connections), _MAX_CALL):
            await self._refresh(connections[start : start + _MAX_CALL], ttl_seconds)

    async def _refresh(self, connections: Sequence[tuple[UserId, str]], ttl_seconds: float) -> None:
        keys = [*(_key(user_id) for user_id, _ in connections), _ENDS]
        ids = [connection_id for _, connection_id in connections]
        milliseconds = str(int(ttl_seconds * 1000))
        await self._try(self._client.eval(_ADD, len(keys), *keys, milliseconds, *ids), 0)

    async def remove(self, user_id: UserId, connection_id: str) -> int:
        own = await self._own.remove(user_id, connection_id)
        return await self._try(
            self._client.eval(_REMOVE, 2, _key(user_id), _ENDS, connection_id), own
        )

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        found = await self._own.online(user_ids)
        for start in range(0, len(user_ids), _MAX_CALL):
            found |= await self._online(user_ids[start : start + _MAX_CALL])
        return found

    async def _online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        keys = [_key(user_id) for user_id in user_ids]
        counts = await self._try(self._client.eval(_ONLINE, len(keys), *keys), [0] * len(keys))
        return {
            user_id
            for user_id, count in zip(user_ids, cast("list[int]", counts), strict=True)
            if count
        }

    async def take_expired(self) -> list[UserId]:
        own = await self._own.take_expired()
        people = await self._try(self._client.eval(_TAKE_EXPIRED, 1, _ENDS), own)
        return [UserId(int(person)) for person in people]

    async def close(self) -> None:
        await self._client.aclose()

    async def _try(self, call: Awaitable[T], otherwise: T) -> T:
        if time.monotonic() < self._rest_until:
            cast("Any", call).close()  # a coroutine that is never awaited
            return otherwise
        try:
            answer = await call
        except (TimeoutError, RedisError, OSError) as error:
            self._rest_until = time.monotonic() + _REST_SECONDS
            if not self._is_degraded:  # one line an outage, not one a try
                log.warning("presence_degraded", reason=type(error).__name__)
            self._is_degraded = True
            return otherwise
        if self._is_degraded:
            self._is_degraded = False
            log.info("presence_restored")
        return answer


def _key(user_id: UserId) -> str:
    return f"messenger:presence:{user_id}"
