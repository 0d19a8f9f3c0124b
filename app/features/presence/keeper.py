"""Keeps the open connections of this worker in the presence store, and notices who came and who has gone.

A connection that closes stays in the store for ten more seconds, so that a quick reconnect is
nobody's news; one whose worker was killed expires by itself. Either way some worker takes the
person from the store's list of the expired, exactly one, and tells.

All goes in batches: in a storm of reconnects thousands come at once, and each must be told within a
second. What could not be told (the database is away) is told later, if it is still true.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from app.infra.presence.port import PresenceStore
from app.kernel.ids import UserId
from app.kernel.problems import Problem

TTL_SECONDS = 25.0
LINGER_SECONDS = 10.0
_REFRESH_SECONDS = 8.0
# So late only a worker is that stood still; then the loop hears first of the sockets that closed.
_LATE_SECONDS = 1.0
_CATCH_UP_SECONDS = 0.5
_SWEEP_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_CALL_SECONDS = 3.0
_CONNECTIONS_A_BATCH = 500
_PEOPLE_A_BATCH = 100

_log = logging.getLogger(__name__)

Tell = Callable[[Sequence[UserId]], Awaitable[None]]


class PresenceKeeper:
    """`on_online` and `on_offline` are awaited with people whose state changed, on one worker each."""

    def __init__(self, store: PresenceStore, *, on_online: Tell, on_offline: Tell) -> None:
        self._store = store
        self._on_online = on_online
        self._on_offline = on_offline
        self._open: dict[str, UserId] = {}
        # Opened or closed since the store was told last, in order.
        self._changed: dict[str, UserId] = {}
        self._has_changed = asyncio.Event()
        # Came online and nobody was told yet, in order.
        self._untold: dict[UserId, None] = {}
        self._has_untold = asyncio.Event()
        self._expired: list[UserId] = []
        self._is_in_doubt = asyncio.Event()
        self._failing: set[str] = set()
        store.on_doubt(self._is_in_doubt.set)

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
            group.create_task(self._follow_forever())
            group.create_task(self._tell_forever())
            group.create_task(self._refresh_forever())
            group.create_task(self._sweep_forever())

    async def leave(self) -> None:
        """The server stops: whoever does not come back elsewhere is offline in ten seconds."""
        closing = {**self._changed, **self._open}
        self._open.clear()
        self._changed.clear()
        if closing:
            connections = [(user_id, connection_id) for connection_id, user_id in closing.items()]
            await self._try("leave", self._store.linger(connections, LINGER_SECONDS))

    async def follow(self) -> None:
        """Bring what changed to the store. What counts is whether a socket is open now."""
        while batch := dict(islice(self._changed.items(), _CONNECTIONS_A_BATCH)):
            for connection_id in batch:
                del self._changed[connection_id]
            if not await self._try("follow", self._settle(batch)):
                self._changed = batch | self._changed
                return

    async def tell(self) -> None:
        """Tell who came online."""
        while people := list(islice(self._untold, _PEOPLE_A_BATCH)):
            for user_id in people:
                del self._untold[user_id]
            if not await self._try("tell_online", self._on_online(people)):
                # Still true as long as a socket of theirs is open; else their going will be told.
                here = set(self._open.values())
                again = dict.fromkeys(user_id for user_id in people if user_id in here)
                self._untold = again | self._untold
                return

    async def refresh(self) -> None:
        """Keep what is open from expiring, and from being forgotten."""
        connections = [(user_id, connection_id) for connection_id, user_id in self._open.items()]
        for start in range(0, len(connections), _CONNECTIONS_A_BATCH):
            part = connections[start : start + _CONNECTIONS_A_BATCH]
            if not await self._try("refresh", self._refresh(part)):
                return

    async def sweep(self) -> None:
        """Tell who has gone; whoever could not be told comes up again."""
        await self._try("sweep", self._take_expired())
        while people := self._expired[:_PEOPLE_A_BATCH]:
            del self._expired[:_PEOPLE_A_BATCH]
            if not await self._try("tell_offline", self._tell_gone(people)):
                self._expired.clear()

    def _note(self, connection_id: str, user_id: UserId) -> None:
        self._changed[connection_id] = user_id
        self._has_changed.set()

    def _note_online(self, people: Sequence[UserId]) -> None:
        if people:
            self._untold |= dict.fromkeys(people)
            self._has_untold.set()

    async def _settle(self, batch: dict[str, UserId]) -> None:
        opened = [(user_id, it) for it, user_id in batch.items() if it in self._open]
        closed = [(user_id, it) for it, user_id in batch.items() if it not in self._open]
        if opened:
            self._note_online(await self._store.add(opened, TTL_SECONDS))
        if closed:
            await self._store.linger(closed, LINGER_SECONDS)

    async def _refresh(self, connections: Sequence[tuple[UserId, str]]) -> None:
        self._note_online(await self._store.refresh(connections, TTL_SECONDS))

    async def _take_expired(self) -> None:
        self._expired = await self._store.take_expired()

    async def _tell_gone(self, people: Sequence[UserId]) -> None:
        await self._on_offline(people)
        await self._store.forget(people)

    async def _follow_forever(self) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            await self.follow()
            if self._changed:
                self._has_changed.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _tell_forever(self) -> None:
        while True:
            await self._has_untold.wait()
            self._has_untold.clear()
            await self.tell()
            if self._untold:
                self._has_untold.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _refresh_forever(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _REFRESH_SECONDS
            try:
                async with asyncio.timeout_at(due):
                    await self._is_in_doubt.wait()
            except TimeoutError:
                pass
            if clock() > due + _LATE_SECONDS:
                # The worker stood still: whoever left meanwhile would seem to come back, and go again.
                await asyncio.sleep(_CATCH_UP_SECONDS)
            self._is_in_doubt.clear()
            await self.refresh()

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await self.sweep()

    async def _try(self, what: str, work: Awaitable[None]) -> bool:
        """Whether it worked. The keeper outlives every fault of its store and of whom it tells."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await work
        except (Problem, TimeoutError) as error:
            if what not in self._failing:  # one line an outage, not one a try
                _log.warning(
                    "presence_delayed", extra={"what": what, "reason": type(error).__name__}
                )
            self._failing.add(what)
            return False
        except Exception:  # noqa: BLE001 - an edge, see above
            _log.exception("presence_failed")
            return False
        self._failing.discard(what)
        return True
