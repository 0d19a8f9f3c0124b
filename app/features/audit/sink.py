"""Refusals on their way into the record: bounded in memory and on disk, whatever a flood brings.

Refusals of one source (an account, else a network, before sign-in a network and a phone number) under
one name and code become one row at once for the first, then one row a minute with a count. Of a new
source one row more may leave within its first minute, as soon as there are enough for a detector: it
shall not learn of an attack when that is over.

Each name has places of its own, those with an account apart from those without, so that nobody who
fills some of them hides what others do. Sources without a place share one by their wide network, and
what has none there either is only counted.
"""

import hmac
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

import structlog

from app.features.audit.detectors import FROM_MANY, telling_count
from app.features.audit.record import complete
from app.features.audit.write import Entry, write_entries
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.addresses import network_of, wide_network_of
from app.kernel.clock import Clock
from app.kernel.events import Detail, SecurityEvent
from app.kernel.problems import Problem

WINDOW_SECONDS: Final = 60.0
FLUSH_INTERVAL = timedelta(milliseconds=250)
MAX_SUBJECTS: Final = 32
# Of one name, with and without accounts each; names are words of our source, some twenty.
MAX_SOURCES: Final = 200
MAX_NETWORKS: Final = 50
# With 300 bytes a row a flood writes at most 18 MB an hour and worker. What is over it goes on being
# counted in its place and is written in its turn, after some minutes at worst.
MAX_ROWS: Final = 1_000
MAX_WAITING: Final = 5_000
_BATCH: Final = 500

log = structlog.stdlib.get_logger("app.security")

# A damaged place is what is told, not whoever came upon it.
TOLD_BY_SUBJECT = frozenset({"ciphertext_invalid"})
# Every honest device causes it several times an hour, and an attacker gains nothing by it.
ONLY_COUNTED = frozenset({"token_expired"})


class _Grade(IntEnum):
    """How exactly a place says whose doing something was."""

    EXACT = 0
    NETWORK = 1
    NOBODY = 2


class _Shelf(NamedTuple):
    """A set of places with a size of its own."""

    name: str
    has_account: bool
    grade: _Grade


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
        max_networks: int = MAX_NETWORKS,
        max_rows: int = MAX_ROWS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_rows`: a minute; the others: of one name."""
        self._clock = clock
        self._monotonic = monotonic
        self._sizes = {
            _Grade.EXACT: max_sources,
            _Grade.NETWORK: max_networks,
            _Grade.NOBODY: 1,
        }
        # What a row says of many numbers is under nobody's key, so it names none that anybody can look up.
        self._pseudonym_key = os.urandom(16)
        self._shelves: dict[_Shelf, dict[str, _Source]] = {}
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._max_rows = max_rows
        self._rows_left = max_rows
        self._minute_ends = 0.0

    def record(self, event: SecurityEvent) -> None:
        """As `EventSink.record`."""
        now = self._clock.now()
        for shelf, place, told in self._list_places(complete(event)):
            sources = self._shelves.setdefault(shelf, {})
            source = sources.get(place)
            if source is None and len(sources) < self._sizes[shelf.grade]:
                source = sources[place] = _Source(told, now)
            if source is not None:
                source.add(told, now)
                return

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

    async def close(self, db: Database, keyring: Keyring) -> bool:
        """Write everything, due or not; what cannot be written is counted in the log.

        Returns:
            Whether all of it was written.
        """
        self._max_rows = sys.maxsize
        self._collect(float("inf"))
        await self.flush(db, keyring)
        left = self._dropped + sum(entry.count for entry in self._waiting)
        if left:
            log.warning("audit_events_dropped", count=left)
        return not left

    def _collect(self, now: float) -> None:
        if now >= self._minute_ends:
            self._rows_left = self._max_rows
            self._minute_ends = now + WINDOW_SECONDS
        due = sorted(self._sweep(now), key=lambda source: source.at)
        for source in due[: self._rows_left]:
            self._enqueue(source.take(now))
        self._rows_left -= min(len(due), self._rows_left)
        if self._dropped and len(self._waiting) < MAX_WAITING:
            dropped, self._dropped = self._dropped, 0
            log.warning("audit_events_dropped", count=dropped)
            self._waiting.append(
                Entry(SecurityEvent("audit_events_dropped"), self._clock.now(), dropped)
            )

    def _sweep(self, now: float) -> Iterator[_Source]:
        """What is due; the places of those who have been quiet for their minute come free."""
        for shelf, sources in list(self._shelves.items()):
            for place, source in list(sources.items()):
                if source.is_due(now):
                    yield source
                elif source.count == 0 and now >= source.until:
                    del sources[place]
            if not sources:
                del self._shelves[shelf]

    def _enqueue(self, entry: Entry) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += entry.count
        else:
            self._waiting.append(entry)

    def _list_places(self, event: SecurityEvent) -> Iterator[tuple[_Shelf, str, SecurityEvent]]:
        """Where `event` may be counted, the most exact place first, and what is told of it there."""
        name, has_account = event.name, event.user_id is not None
        if name in ONLY_COUNTED:
            told = SecurityEvent(name, details=event.details)
            yield _Shelf(name, has_account=False, grade=_Grade.NOBODY), "", told
            return
        code = _code_of(event.details)
        yield _Shelf(name, has_account, _Grade.EXACT), f"{code}|{_whose(event)}", event
        # Without who it was: what is sealed here is under nobody's own key.
        many = SecurityEvent(name, details={**event.details, FROM_MANY: True})
        if event.address is not None:
            wide = wide_network_of(event.address)
            told = replace(many, subject=self._rename(event), address=wide)
            yield _Shelf(name, has_account, _Grade.NETWORK), f"{code}|{wide}", told
        yield _Shelf(name, has_account, _Grade.NOBODY), "", many

    def _rename(self, event: SecurityEvent) -> str | None:
        if event.phone_index is None:
            return event.subject
        return hmac.digest(self._pseudonym_key, event.phone_index, "sha256")[:16].hex()


def _whose(event: SecurityEvent) -> str:
    if event.name in TOLD_BY_SUBJECT and event.subject is not None:
        return event.subject
    if event.user_id is not None:
        return f"user:{event.user_id}"
    network = network_of(event.address) if event.address else "-"
    # Each number has a key of its own.
    return network if event.phone_index is None else f"{network}|{event.phone_index.hex()}"


def _code_of(details: Mapping[str, Detail]) -> str:
    """What is counted apart under one name, because a detector looks at it."""
    return f"{details.get('code', '')}/{details.get('limit', '')}"


def _common(first: Mapping[str, Detail], second: Mapping[str, Detail]) -> Mapping[str, Detail]:
    """What both say."""
    if first == second:
        return first
    return {name: value for name, value in first.items() if second.get(name) == value}
