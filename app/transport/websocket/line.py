"""The way out of a socket: whatever is written waits in front of its reader, never in front of the writer."""

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, Protocol, cast

from app.transport.websocket.outgoing import OutFrame

# ASGI's own type of a message.
AsgiMessage = MutableMapping[str, Any]
Send = Callable[[AsgiMessage], Awaitable[None]]

# A closed socket gets this long to take its close frame.
CLOSING_SECONDS = 10.0


class Line(Protocol):
    """Every call is immediate. `has_given_up`: its handler was cancelled, for the close frame found no taker."""

    has_given_up: bool

    def write(self, frame: OutFrame) -> None:
        """Send a frame behind what waits; nothing happens once the line is closed or dead."""
        ...

    def waiting_bytes(self) -> int:
        """Bytes that the reader has not taken yet."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end the application's `receive`, at the latest after `CLOSING_SECONDS`."""
        ...


class AsgiLine:
    """Over ASGI's `send`, which waits for the reader: frames queue here meanwhile."""

    __slots__ = (
        "_drainer",
        "_is_lost",
        "_queue",
        "_queued_bytes",
        "_send",
        "_task",
        "has_given_up",
    )

    def __init__(self, send: Send) -> None:
        self.has_given_up = False
        self._send = send
        self._queue: deque[OutFrame] | None = None
        self._queued_bytes = 0
        self._is_lost = False
        self._drainer: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()

    def waiting_bytes(self) -> int:
        return self._queued_bytes

    def write(self, frame: OutFrame) -> None:
        if self._is_lost:
            return
        if self._queue is not None:
            self._queue.append(frame)
            self._queued_bytes += len(frame)
            return
        # Servers send at once unless the client lags: only then is a task worth its cost.
        sending = cast("Coroutine[Any, Any, None]", self._send(frame.message))
        try:
            awaited = sending.send(None)
        except StopIteration:
            return
        except (OSError, RuntimeError):
            # The server's words for "the client has gone"; `receive` tells the same in a moment.
            self._is_lost = True
            return
        self._queue = deque()
        self._queued_bytes = len(frame)
        self._drainer = asyncio.create_task(self._drain(sending, awaited, len(frame)))

    def close(self, code: int, reason: str) -> None:
        if self._queue is not None:
            self._queue.clear()
            self._queued_bytes = 0
        self._drainer = asyncio.create_task(self._close(self._drainer, code, reason))

    async def _drain(self, sending: Coroutine[Any, Any, None], awaited: object, size: int) -> None:
        try:
            await _finish(sending, awaited)
            self._queued_bytes -= size
            while self._queue:
                frame = self._queue.popleft()
                await self._send(frame.message)
                self._queued_bytes -= len(frame)
        except (OSError, RuntimeError):
            self._is_lost = True
        finally:
            self._queue = None
            self._queued_bytes = 0

    async def _close(self, drainer: "asyncio.Task[None] | None", code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                if drainer is not None:
                    await asyncio.wait([drainer])
                await self._send({"type": "websocket.close", "code": int(code), "reason": reason})
        except TimeoutError:
            # It reads nothing at all: end the handler, with which the server drops the socket.
            self.has_given_up = True
            if drainer is not None:
                drainer.cancel()
            if self._task is not None:
                self._task.cancel()
        except (OSError, RuntimeError):
            self._is_lost = True


@types.coroutine
def _finish(sending: Coroutine[Any, Any, None], awaited: object) -> Generator[object, None, None]:
    """Go on with a coroutine that was already run up to the first thing it waits for."""
    try:
        while True:
            yield awaited
            awaited = sending.send(None)
    except StopIteration:
        return
    finally:
        sending.close()
