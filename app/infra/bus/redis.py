"""The bus over Redis pub/sub. Payloads are sealed: Redis sees topics, sizes and times, nothing else."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.infra.redis_client import is_redis_outage, make_redis

_PREFIX = "messenger:bus:"
_NONCE_BYTES = 12
_MAX_QUEUED = 20_000
_MAX_PIPELINE = 200
_ATTEMPTS = 2
_LISTEN_SECONDS = 1.0
# Listened in vain so often: ask whether the line still stands, and take it for dead at twice that.
_SILENCES = 2
_STABLE_SECONDS = 5.0
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

log = structlog.stdlib.get_logger("app.bus")


class RedisBus:
    """Publishes in pipelines from a bounded queue, listens on one connection, and connects again for ever."""

    reaches_others = True

    def __init__(self, url: str, key: bytes) -> None:
        """`key`: 32 bytes, the same in every worker."""
        self._url = url
        self._cipher = AESGCM(key)
        self._handlers: dict[str, list[Callable[[bytes], None]]] = {}
        self._reconnect_handlers: list[Callable[[], None]] = []
        self._queue: deque[tuple[str, bytes]] = deque(maxlen=_MAX_QUEUED)
        self._queued = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sender_client: Any = make_redis(url)
        self._is_stopping = False

    def publish(self, topic: str, payload: bytes) -> None:
        """Queue for sending. When Redis is away the oldest are dropped: readers find them in the log."""
        nonce = os.urandom(_NONCE_BYTES)
        self._queue.append((topic, nonce + self._cipher.encrypt(nonce, payload, topic.encode())))
        self._queued.set()

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        self._handlers.setdefault(topic, []).append(handler)

    def on_reconnect(self, handler: Callable[[], None]) -> None:
        self._reconnect_handlers.append(handler)

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._send_for_ever(), name="bus-send"),
            asyncio.create_task(self._listen_for_ever(), name="bus-listen"),
        ]

    async def stop(self) -> None:
        self._is_stopping = True
        self._queued.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=2)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender_client.aclose()

    async def _send_for_ever(self) -> None:
        failures = 0
        while self._queue or not self._is_stopping:
            await self._queued.wait()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_PIPELINE))]
            if not self._queue and not self._is_stopping:
                self._queued.clear()
            if not batch:
                continue
            failures = 0 if await self._send_stubbornly(batch) else failures + 1
            if failures:
                await asyncio.sleep(_backoff(failures))

    async def _send_stubbornly(self, batch: list[tuple[str, bytes]]) -> bool:
        """A connection that was cut costs no payload; an outage does, and readers turn to the log.

        What a broken pipeline did send arrives twice: subscribers expect that of a bus.
        """
        reason = ""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._send(batch)
            except Exception as error:
                if not is_redis_outage(error):
                    raise
                reason = type(error).__name__
                await asyncio.sleep(_backoff(attempt))
            else:
                return True
        log.warning("bus_publish_failed", lost=len(batch), reason=reason)
        return False

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        pipeline = self._sender_client.pipeline(transaction=False)
        for topic, sealed in batch:
            pipeline.publish(_PREFIX + topic, sealed)
        await pipeline.execute()

    async def _listen_for_ever(self) -> None:
        failures = 0
        is_first = True
        clock = asyncio.get_running_loop().time
        # Not left to the cancelling alone: `wait_for` of Python 3.11 loses one that comes with an answer.
        while not self._is_stopping:
            started = clock()
            try:
                await self._listen(is_first=is_first)
            except Exception as error:
                if not is_redis_outage(error):
                    raise
                is_first = False
                failures = 1 if clock() - started > _STABLE_SECONDS else failures + 1
                if failures == 1:  # one line an outage, not one a try
                    log.warning("bus_disconnected", reason=type(error).__name__)
                await asyncio.sleep(_backoff(failures))

    async def _listen(self, *, is_first: bool) -> None:
        """Until the connection breaks. What was published meanwhile is lost, so the listeners are told."""
        client = make_redis(self._url)
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(*(_PREFIX + topic for topic in self._handlers))
            if not is_first:
                log.info("bus_reconnected")
                for handler in self._reconnect_handlers:
                    handler()
            # Not counted in seconds: while the worker stood still it did not listen, and what came waits.
            silences = 0
            while not self._is_stopping:
                message = await pubsub.get_message(timeout=_LISTEN_SECONDS)
                if message is not None:
                    silences = 0
                    self._handle(message)
                    continue
                silences += 1
                if silences >= 2 * _SILENCES:
                    raise TimeoutError
                if silences >= _SILENCES:
                    await pubsub.ping()  # its pong is a message; a half-open connection gives none
        finally:
            await pubsub.aclose()
            await client.aclose()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        topic = message["channel"].decode().removeprefix(_PREFIX)
        try:
            sealed: bytes = message["data"]
            payload = self._cipher.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], topic.encode()
            )
        except (InvalidTag, ValueError):
            log.warning("bus_payload_refused", topic=topic)
            return
        for handler in self._handlers.get(topic, ()):
            try:
                handler(payload)
            except Exception:  # an edge: one bad payload must not end the listening
                log.exception("bus_handler_failed", topic=topic)


def _backoff(failures: int) -> float:
    return _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS)) - 1]
