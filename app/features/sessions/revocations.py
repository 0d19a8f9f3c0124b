"""Ended sessions, known to every worker within a second: their access tokens and sockets die with
them.

Three ways lead here: this worker's own commits, the bus, and a poll of the table `revocations`, so
that nothing depends on the bus alone.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import cast

import orjson
from sqlalchemy import select

from app.features.sessions.models import RevocationRow, SessionRow
from app.infra.bus.port import Bus
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import SessionId

TOPIC = "revocations"
POLL_INTERVAL = timedelta(milliseconds=500)

_STALE_SECONDS = 5.0
# Rows become visible at commit, not in the order of their ids: a poll looks back this far. No
# transaction lives longer.
_OVERLAP_SECONDS = 60.0

Listener = Callable[[Sequence[SessionId]], None]


class RevocationList:
    """The deny set of one worker. `keep`: at least as long as an access token lives."""

    def __init__(self, bus: Bus, *, keep: timedelta) -> None:
        self._bus = bus
        self._keep_seconds = keep.total_seconds()
        self._denied: dict[SessionId, float] = {}
        self._listeners: list[Listener] = []
        self._last_id = 0
        self._floor = 0
        self._marks: deque[tuple[float, int]] = deque()
        self._polled_at: float | None = None
        bus.subscribe(TOPIC, self._on_message)

    def add_listener(self, listener: Listener) -> None:
        """`listener` is called with sessions that this worker has just learned to be over.

        Whoever opens a socket looks again with `is_denied` once the socket can be found by the
        listener: the session may have ended in between.
        """
        self._listeners.append(listener)

    def announce(self, session_ids: Sequence[SessionId]) -> None:
        """Tell all workers, this one at once. Call it after the commit."""
        self._note(session_ids)
        self._bus.publish(TOPIC, orjson.dumps(list(session_ids)))

    def is_denied(self, session_id: SessionId) -> bool:
        """What this worker knows, without asking anybody."""
        return session_id in self._denied

    async def is_revoked(self, db: Database, session_id: SessionId) -> bool:
        """Asks the database when the last poll is too long ago to be relied on."""
        if session_id in self._denied:
            return True
        now = time.monotonic()
        if self._polled_at is not None and now - self._polled_at <= _STALE_SECONDS:
            return False
        return await db.read(lambda tx: _is_over(tx, session_id))

    async def poll(self, db: Database) -> None:
        """Read what has been added to the table; forget what no access token can outlive."""
        started = time.monotonic()
        floor = self._move_floor(started)

        async def work(tx: Tx) -> list[tuple[int, SessionId]]:
            statement = select(RevocationRow.id, RevocationRow.session_id).where(
                RevocationRow.id > floor
            )
            return [(row.id, row.session_id) for row in await tx.all(statement)]

        rows = await db.read(work)
        self._polled_at = started
        self._last_id = max((row[0] for row in rows), default=self._last_id)
        self._note([session_id for _, session_id in rows])
        self._forget_old(started)

    def _move_floor(self, now: float) -> int:
        self._marks.append((now, self._last_id))
        while self._marks and self._marks[0][0] < now - _OVERLAP_SECONDS:
            self._floor = self._marks.popleft()[1]
        return self._floor

    def _on_message(self, payload: bytes) -> None:
        self._note(cast("list[SessionId]", orjson.loads(payload)))

    def _note(self, session_ids: Sequence[SessionId]) -> None:
        fresh = [session_id for session_id in session_ids if session_id not in self._denied]
        if not fresh:
            return
        until = time.monotonic() + self._keep_seconds
        self._denied.update(dict.fromkeys(fresh, until))
        for listener in self._listeners:
            listener(fresh)

    def _forget_old(self, now: float) -> None:
        # In order of insertion, so the oldest come first.
        old: list[SessionId] = []
        for session_id, until in self._denied.items():
            if until > now:
                break
            old.append(session_id)
        for session_id in old:
            del self._denied[session_id]


async def _is_over(tx: Tx, session_id: SessionId) -> bool:
    row = await tx.first(select(SessionRow.revoked_at).where(SessionRow.id == session_id))
    return row is None or row.revoked_at is not None
