"""One open socket: what goes out of it, never waiting, and in bounded memory.

Nobody who sends ever waits for a reader: a frame is handed over at once, or it queues in front of
this one socket. Over half of the limit signals are dropped; over the limit the socket is closed
with 4409 and its client resumes.
"""

import asyncio
import secrets
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, cast

from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.scopes import Scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import EXTENSION, Pipe

# ASGI's own type of a message.
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

# A closed socket gets this long to take its close frame.
_CLOSING_SECONDS = 10.0
_DRAIN_POLL_SECONDS = 0.02
# A replay waits this long for a client that takes nothing.
_STALLED_SECONDS = 30.0


class Connection:
    """A socket of a signed-in user; `chat_id` is set when it follows that chat alone.

    `expires_at` (seconds of the event loop's clock) is when the token that opened it ends.
    """

    __slots__ = (
        "__weakref__",
        "_drainer",
        "_limit",
        "_pipe",
        "_queue",
        "_queued_bytes",
        "_receive",
        "_send",
        "_task",
        "chat_id",
        "close_code",
        "expires_at",
        "has_given_up",
        "id",
        "is_ready",
        "last_frame_at",
        "scopes",
        "session_id",
        "user_id",
    )

    def __init__(
        self,
        asgi_scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        *,
        user_id: UserId,
        session_id: SessionId,
        chat_id: ChatId | None,
        queue_bytes: int,
        expires_at: float,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.user_id = user_id
        self.session_id = session_id
        self.chat_id = chat_id
        self.expires_at = expires_at
        self.last_frame_at = asyncio.get_running_loop().time()
        self.scopes: list[Scope] = []
        self.is_ready = False
        self.close_code: int | None = None
        self.has_given_up = False
        self._receive = receive
        self._send = send
        self._limit = queue_bytes
        self._queue: deque[OutFrame] | None = None
        self._queued_bytes = 0
        self._drainer: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        extensions = cast("dict[str, object]", asgi_scope.get("extensions") or {})
        pipe = extensions.get(EXTENSION)
        self._pipe = pipe if isinstance(pipe, Pipe) else None

    def waiting_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._queued_bytes if self._pipe is None else self._pipe.waiting_bytes()

    def send(self, frame: OutFrame) -> None:
        """Hand over a frame that must not be lost: where there is no room, the socket closes."""
        if self.close_code is not None:
            return
        waiting = self.waiting_bytes()
        if waiting and waiting + len(frame) > self._limit:
            self.close(CloseCode.TOO_SLOW)
        else:
            self._put(frame)

    def send_signal(self, frame: OutFrame) -> None:
        """Hand over a frame that may be lost, and is when the client lags."""
        if self.close_code is None and self.waiting_bytes() + len(frame) <= self._limit // 2:
            self._put(frame)

    async def wait_for_room(self) -> None:
        """Wait until the client has taken most of what waits; for replays, which bring their own pace."""
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + _STALLED_SECONDS
        # The transport tells nobody when its buffer empties below a mark of our choice.
        while self.close_code is None and self.waiting_bytes() > self._limit // 4:
            if loop.time() > patience_ends:
                self.close(CloseCode.TOO_SLOW)
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def receive(self) -> AsgiMessage:
        """The next ASGI message of the client."""
        return await self._receive()

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close behind what waits; the loop that receives then ends. A second call does nothing."""
        if self.close_code is not None:
            return
        self.close_code = code
        loop = asyncio.get_running_loop()
        if self._pipe is not None:
            self._pipe.close(code, reason)
            loop.call_later(_CLOSING_SECONDS, self._pipe.abort)
            return
        if self._queue is not None:
            self._queue.clear()
            self._queued_bytes = 0
        self._drainer = asyncio.create_task(self._close_over_asgi(self._drainer, code, reason))

    def mark_lost(self) -> None:
        """The client is gone: nothing can be sent any more."""
        if self.close_code is None:
            self.close_code = CloseCode.NORMAL
        self._queue = None
        self._queued_bytes = 0

    def _put(self, frame: OutFrame) -> None:
        if self._pipe is not None:
            self._pipe.write(frame.wire)
        elif self._queue is not None:
            self._queue.append(frame)
            self._queued_bytes += len(frame)
        else:
            self._put_over_asgi(frame)

    def _put_over_asgi(self, frame: OutFrame) -> None:
        """Servers send at once unless the client lags: only then is a task worth its cost."""
        sending = cast("Coroutine[Any, Any, None]", self._send(frame.message))
        try:
            awaited = sending.send(None)
        except StopIteration:
            return
        except (OSError, RuntimeError):
            # The server's words for "the client has gone"; `receive` tells the same in a moment.
            self.mark_lost()
            return
        self._queue = deque()
        self._queued_bytes = len(frame)
        self._drainer = asyncio.create_task(self._drain(sending, awaited, len(frame)))

    async def _drain(self, sending: Coroutine[Any, Any, None], awaited: object, size: int) -> None:
        try:
            await _finish(sending, awaited)
            self._queued_bytes -= size
            while self._queue:
                frame = self._queue.popleft()
                await self._send(frame.message)
                self._queued_bytes -= len(frame)
        except (OSError, RuntimeError):
            self.mark_lost()
        finally:
            self._queue = None
            self._queued_bytes = 0

    async def _close_over_asgi(
        self, drainer: "asyncio.Task[None] | None", code: CloseCode, reason: str
    ) -> None:
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
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
            self.mark_lost()


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
