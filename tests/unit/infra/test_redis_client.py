"""What counts as an outage of Redis, and what as a fault of the program."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from app.infra.redis_client import is_redis_outage

LOST = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (RedisConnectionError(), True),
        (ResponseError("OOM"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (RuntimeError(LOST), True),
        (RuntimeError("dictionary changed size during iteration"), False),
        (ValueError(), False),
    ],
)
def test_redis_is_blamed_for_its_own(error: Exception, is_outage: bool) -> None:
    assert is_redis_outage(error) is is_outage
