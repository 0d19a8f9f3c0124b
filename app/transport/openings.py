"""Sockets are opened a few at a time, in order: a crowd that comes back at once delays itself.

Whoever is connected already hardly notices it.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.transport.websocket.protocol import find_pipe

# Each that waits for the database holds tens of kilobytes, and these fill its groups.
_MOST_INSIDE = 64
# When nobody has come out for so long the database may be away: then nobody is kept from hearing that. With the
# time in its queue it must stay below the five seconds within which every call is answered.
STALL_SECONDS = 0.4
# The body of such a request names a chat, or nothing. What is longer or takes longer is read as anybody's.
_MOST_AHEAD_BYTES = 4096
_AHEAD_SECONDS = 5.0


class OpeningsMiddleware:
    """Plain ASGI, in front of all else. `paths`: requests that are answered by a ticket for a socket.

    In a turn of the event loop one ticket is begun and one handshake. Were the tickets first, thousands of clients
    would wait with theirs at once, give up after their few seconds, and come again.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Collection[str],
        most_inside: int = _MOST_INSIDE,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._tickets = _Door(most_inside, stall_seconds)
        self._handshakes = _Door(math.inf, stall_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._handshakes.enter()
            pipe = find_pipe(scope)
            if pipe is None or not pipe.has_left:
                await self._app(scope, receive, send)
            # Who has left comes again, and must not cost time here.
        elif scope.get("path") in self._paths and scope["method"] == "POST":
            await self._answer_ticket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_ticket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whoever keeps us waiting for the rest of the request holds no place meanwhile, and gets none."""
        messages, is_whole = await _read_ahead(receive)
        ahead = deque(messages)

        async def receive_again() -> Message:
            return ahead.popleft() if ahead else await receive()

        if not is_whole:
            await self._app(scope, receive_again, send)
            return
        await self._tickets.enter()
        try:
            await self._app(scope, receive_again, send)
        finally:
            self._tickets.leave()


async def _read_ahead(receive: Receive) -> tuple[list[Message], bool]:
    """What comes of a request in a few seconds, and whether that is all of it."""
    messages: list[Message] = []
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_AHEAD_SECONDS):
            while size <= _MOST_AHEAD_BYTES:
                message = await receive()
                messages.append(message)
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return messages, message["type"] == "http.request"
    return messages, False


class _Door:
    """One comes in in a turn of the loop, while fewer than `most_inside` are."""

    def __init__(self, most_inside: float, stall_seconds: float) -> None:
        self._most_inside = most_inside
        self._stall_seconds = stall_seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: asyncio.Handle | None = None
        self._inside = 0
        self._left_at = -math.inf

    async def enter(self) -> None:
        """At once, where there is no crowd."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if self._next is None:
            self._next = loop.call_soon(self._let_in, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Whoever came in is through."""
        loop = asyncio.get_running_loop()
        self._inside -= 1
        self._left_at = loop.time()
        if self._waiting:
            self._replan(loop.call_soon(self._let_in, loop))

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = None
        opens_at = self._left_at + self._stall_seconds
        if self._inside >= self._most_inside and loop.time() < opens_at:
            self._replan(loop.call_at(opens_at, self._let_in, loop))
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                if not self._inside:
                    self._left_at = loop.time()  # it is not for long that nobody came out
                self._inside += 1
                turn.set_result(None)
                break
        if self._waiting:
            self._replan(loop.call_soon(self._let_in, loop))

    def _replan(self, handle: asyncio.Handle) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = handle
