"""What counts as an outage of Redis, under uvloop too, on which the server runs, and what as a fault of the program."""

import asyncio
import gc
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from app.infra.bus.redis import RedisBus
from app.infra.limits.port import Draw, Quota
from app.infra.limits.redis import RedisLimiter
from app.infra.presence.redis import RedisPresence
from app.infra.redis_client import is_redis_outage
from app.kernel.ids import UserId
from tests.support.ports import free_port
from tests.support.redis_server import run_redis
from tests.support.waiting import eventually

ANNA = UserId(1)
# Each time it is chance whether the line is lost before its first use, or in it.
_TRIES = 200
_RESET = struct.pack("ii", 1, 0)
LOST = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"


@contextmanager
def resetting_server(port: int) -> Iterator[list[bool]]:
    """Accepts and resets, as a proxy does in front of a Redis that is down; answers a list of its lines."""
    lines: list[bool] = []

    def reset_all() -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                line.close()
                lines.append(True)

    with socket.create_server(("127.0.0.1", port), backlog=_TRIES) as listener:
        thread = threading.Thread(target=reset_all)
        thread.start()
        try:
            yield lines
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_presence_does_without_a_redis_that_resets_every_line() -> None:
    async def ask() -> None:
        stores = [RedisPresence(f"redis://127.0.0.1:{port}/0") for _ in range(_TRIES)]
        answers = await asyncio.gather(*(store.online([ANNA]) for store in stores))
        assert answers == [set[UserId]()] * _TRIES
        for store in stores:
            await store.close()

    port = free_port()
    with resetting_server(port):
        uvloop.run(ask())


def test_limits_are_counted_here_when_the_line_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which of its errors uvloop tells of a lost line is chance; this one has ended the sender for good."""
    unheard: list[object] = []

    async def lose(*_: object) -> None:
        raise RuntimeError(LOST)

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        limiter = RedisLimiter("redis://127.0.0.1:1/0")
        draws = [Draw(Quota("three", 3, 60), "anna")]
        answers = [await limiter.take(draws) for _ in range(4)]
        assert [standing.is_allowed for [standing] in answers] == [True, True, True, False]
        await limiter.close()
        gc.collect()

    monkeypatch.setattr(Redis, "evalsha", lose)
    uvloop.run(ask())
    assert unheard == []


def test_the_bus_outlives_a_redis_that_resets_every_line() -> None:
    async def listen() -> None:
        key = os.urandom(32)
        buses = [RedisBus(f"redis://127.0.0.1:{port}/0", key) for _ in range(_TRIES // 4)]
        heard: set[int] = set()
        for number, bus in enumerate(buses):
            bus.subscribe("updates", lambda _, number=number: heard.add(number))
        async with AsyncExitStack() as stack:
            with resetting_server(port) as lines:

                async def is_enough() -> bool:
                    return len(lines) >= _TRIES

                for bus in buses:
                    await bus.start()
                    stack.push_async_callback(bus.stop)
                await eventually(is_enough, timeout_seconds=30, what="so many lost lines")
            stack.enter_context(run_redis(port))

            async def is_heard() -> bool:
                buses[0].publish("updates", b"here")
                return len(heard) == len(buses)

            await eventually(is_heard, timeout_seconds=30, what="that all listen again")

    port = free_port()
    uvloop.run(listen())


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
