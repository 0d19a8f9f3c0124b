"""Refusals on their way into the record: bounded in memory and on disk, whatever a flood brings.

Refusals of one source (an account, else a network) under one name become one row at once for the
first, then one row a minute with a count. Of a new source one row more may leave within its first
minute, as soon as there are enough for a detector: it shall not learn of an attack when that is over.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.features.audit.detectors import telling_count
from app.features.audit.record import complete
from app.features.audit.write import Entry, write_entries
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.addresses import network_of
from app.kernel.clock import Clock
from app.kernel.events import Detail, SecurityEvent
from app.kernel.problems import Problem

WINDOW_SECONDS: Final = 60.0
FLUSH_INTERVAL = timedelta(milliseconds=250)
MAX_SUBJECTS: Final = 32
# With 300 bytes a row a flood from ever new addresses writes at most 9 MB an hour and worker.
MAX_SOURCES: Final = 500
MAX_WAITING: Final = 5_000
_BATCH: Final = 500

log = structlog.stdlib.get_logger("app.security")

Key = tuple[str, str]
# A damaged place is what is told, not whoever came upon it.
TOLD_BY_SUBJECT = frozenset({"ciphertext_invalid"})


@dataclass(slots=True)
class _Source:
    """What one source did under one name since its last row. `until` ends its minute."""

    event: SecurityEvent
    at: datetime
    count: int = 0
    subjects: dict[str, None] = field(default_factory=dict[str, None])
    until: float = 0.0
    # In its first minute: how many were written, so that the row which completes an alert leaves early.
    written: int = 0
    is_new: bool = True

    def add(self, event: SecurityEvent, at: datetime) -> None:
        if self.count == 0:
            self.event, self.at = event, at
        else:
            details = _common(self.event.details, event.details)
            self.event = replace(self.event, details=details)
        self.count += 1
        if event.subject is not None and len(self.subjects) < MAX_SUBJECTS:
            self.subjects[event.subject] = None

    def is_due(self, now: float) -> bool:
        if self.count == 0:
            return False
        is_telling = self.is_new and self.written + self.count >= telling_count(self.event.name)
        return now >= self.until or is_telling

    def take(self, now: float) -> Entry:
        entry = Entry(self.event, self.at, self.count, tuple(self.subjects))
        if now >= self.until:
            self.is_new = self.until == 0
            self.until = now + WINDOW_SECONDS
        else:
            self.is_new = False
        self.written += self.count
        self.count = 0
        self.subjects = {}
        return entry


class AuditSink:
    """The `EventSink` of one worker. `record` only counts; `flush` writes; `close` leaves nothing behind."""

    def __init__(
        self,
        clock: Clock,
        *,
        max_sources: int = MAX_SOURCES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._max_sources = max_sources
        self._sources: dict[Key, _Source] = {}
        self._waiting: deque[Entry] = deque()
        self._dropped = 0

    def record(self, event: SecurityEvent) -> None:
        """As `EventSink.record`."""
        event = complete(event)
        key = _key(event)
        source = self._sources.get(key)
        if source is None:
            if len(self._sources) >= self._max_sources:
                # Too many sources at once to tell them apart: one row for all, which names none.
                event = SecurityEvent(event.name, details={"from_many": True})
                key = (event.name, "")
            source = self._sources.setdefault(key, _Source(event, self._clock.now()))
        source.add(event, self._clock.now())

    async def flush(self, db: Database, keyring: Keyring) -> None:
        """Write what is due. While the database is away it waits here, up to `MAX_WAITING` rows."""
        self._collect(self._monotonic())
        while self._waiting:
            entries = [self._waiting[place] for place in range(min(_BATCH, len(self._waiting)))]

            async def work(tx: Tx, entries: list[Entry] = entries) -> None:
                await write_entries(tx, keyring, entries)

            try:
                await db.write(work)
            except Problem:
                return
            for _ in entries:
                self._waiting.popleft()

    async def close(self, db: Database, keyring: Keyring) -> None:
        """Write everything, due or not; what cannot be written is counted in the log."""
        self._collect(float("inf"))
        await self.flush(db, keyring)
        left = sum(entry.count for entry in self._waiting)
        if left:
            log.warning("audit_events_dropped", count=left)

    def _collect(self, now: float) -> None:
        for key, source in list(self._sources.items()):
            if source.is_due(now):
                self._enqueue(source.take(now))
            elif source.count == 0 and now >= source.until:
                del self._sources[key]
        if self._dropped and len(self._waiting) < MAX_WAITING:
            dropped, self._dropped = self._dropped, 0
            log.warning("audit_events_dropped", count=dropped)
            self._waiting.append(
                Entry(SecurityEvent("audit_events_dropped"), self._clock.now(), dropped)
            )

    def _enqueue(self, entry: Entry) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += entry.count
        else:
            self._waiting.append(entry)


def _key(event: SecurityEvent) -> Key:
    if event.name in TOLD_BY_SUBJECT and event.subject is not None:
        return event.name, event.subject
    if event.user_id is not None:
        return event.name, f"user:{event.user_id}"
    return event.name, network_of(event.address) if event.address else "-"


def _common(first: Mapping[str, Detail], second: Mapping[str, Detail]) -> Mapping[str, Detail]:
    """What both say."""
    if first == second:
        return first
    return {name: value for name, value in first.items() if second.get(name) == value}
