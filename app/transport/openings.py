"""Sockets are opened a few in each turn of the event loop, in order: a crowd that comes back at once delays itself.

Whoever is connected already hardly notices it. Nothing is counted that could hang: what waits for a database that
does not answer holds nobody else up.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_A_TURN: Final = 2


class OpeningsMiddleware:
    """Plain ASGI, in front of all else. `paths`: requests that belong to the opening of a socket."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str]) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_letting_in = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or scope.get("path") in self._paths:
            await self._wait_for_turn()
        await self._app(scope, receive, send)

    async def _wait_for_turn(self) -> None:
        """At once, where there is no crowd."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if not self._is_letting_in:
            self._is_letting_in = True
            loop.call_soon(self._let_in, loop)
        await turn

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(_A_TURN, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            loop.call_soon(self._let_in, loop)
        else:
            self._is_letting_in = False
