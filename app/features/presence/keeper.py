"""Keeps the open connections of this worker in the presence store, and notices who came and who has gone.

A connection that closes stays in the store for ten more seconds, so that a quick reconnect is
nobody's news; one whose worker was killed expires by itself. Either way some worker takes the
person from the store's list of the expired, exactly one, and tells.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from app.infra.presence.port import PresenceStore
from app.kernel.ids import UserId

TTL_SECONDS = 25.0
LINGER_SECONDS = 10.0
_REFRESH_SECONDS = 8.0
_SWEEP_SECONDS = 1.0
_STORE_SECONDS = 3.0

_log = logging.getLogger(__name__)


class PresenceKeeper:
    """`on_online` and `on_offline` are awaited with people whose state changed, on one worker each."""

    def __init__(
        self,
        store: PresenceStore,
        *,
        on_online: Callable[[UserId], Awaitable[None]],
        on_offline: Callable[[Sequence[UserId]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._on_online = on_online
        self._on_offline = on_offline
        self._open: dict[str, UserId] = {}
        self._changes: deque[tuple[str, UserId]] = deque()
        self._has_changed = asyncio.Event()

    def arrive(self, user_id: UserId, connection_id: str) -> None:
        """A socket has opened; the news follows in the background."""
        self._open[connection_id] = user_id
        self._note(connection_id, user_id)

    def depart(self, user_id: UserId, connection_id: str) -> None:
        """The socket has closed."""
        if self._open.pop(connection_id, None) is not None:
            self._note(connection_id, user_id)

    async def run(self) -> None:
        """Work to the end of the server."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_changes())
            group.create_task(self._refresh_forever())
            group.create_task(self._sweep_forever())

    async def leave(self) -> None:
        """The server stops: whoever does not come back elsewhere is offline in ten seconds."""
        connections = [(user_id, connection_id) for connection_id, user_id in self._open.items()]
        self._open.clear()
        if connections:
            await self._try(self._store.refresh(connections, LINGER_SECONDS))

    def _note(self, connection_id: str, user_id: UserId) -> None:
        self._changes.append((connection_id, user_id))
        self._has_changed.set()

    async def _follow_changes(self) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            while self._changes:
                connection_id, user_id = self._changes.popleft()
                await self._try(self._settle(connection_id, user_id))

    async def _settle(self, connection_id: str, user_id: UserId) -> None:
        """What counts is whether the socket is open now: it may have closed since."""
        if connection_id not in self._open:
            await self._store.refresh([(user_id, connection_id)], LINGER_SECONDS)
        elif await self._store.add(user_id, connection_id, TTL_SECONDS) == 1:
            await self._on_online(user_id)

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            connections = [
                (user_id, connection_id) for connection_id, user_id in self._open.items()
            ]
            if connections:
                await self._try(self._store.refresh(connections, TTL_SECONDS))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await self._try(self._sweep())

    async def _sweep(self) -> None:
        if expired := await self._store.take_expired():
            await self._on_offline(expired)

    async def _try(self, work: Awaitable[None]) -> None:
        """Presence is not durable: where the store or the bus fails, later news is right again."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await work
        except Exception:  # noqa: BLE001 - an edge: the keeper outlives every fault of its store
            _log.warning("presence_failed", exc_info=True)
