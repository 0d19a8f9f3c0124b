"""One way to reach Redis: every call bounded in time, no silent retries. Redis is never the truth here."""

from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# What a call ends with when Redis is away. uvloop has a RuntimeError for a line that was lost before it was used.
REDIS_FAULTS = (RedisError, OSError, TimeoutError, RuntimeError)
_CONNECT_SECONDS = 1.0
_CALL_SECONDS = 1.0

RedisClient = Any
"""redis-py annotates its answers as unions of sync and async results; the adapters narrow them."""


def make_redis(url: str) -> RedisClient:
    """A client whose faults show at once: the adapters decide what a lost connection means."""
    client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - untyped keyword arguments
        url,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_CALL_SECONDS,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return cast("RedisClient", client)
