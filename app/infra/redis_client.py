"""One way to reach Redis: every call bounded in time, no silent retries. Redis is never the truth here."""

from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

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


def is_redis_outage(error: Exception) -> bool:
    """Whether Redis is to blame, or the way to it, and not the program.

    uvloop says by a bare `RuntimeError` that a connection was lost while it was being set up.
    """
    is_lost_meanwhile = isinstance(error, RuntimeError) and "handler is closed" in str(error)
    return is_lost_meanwhile or isinstance(error, RedisError | OSError | TimeoutError)
