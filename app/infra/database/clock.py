"""The one clock of all workers: PostgreSQL's. What one worker gave out, another judges by the same time,
however wrong the clock of its own machine is, and whoever sets it meanwhile.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import text

from app.infra.database.database import Database, open_database
from app.infra.database.tx import Tx
from app.kernel.clock import EPOCH, Clock, SystemClock, from_milliseconds
from app.settings import Settings

_NOW: Final = text("SELECT clock_timestamp()")


class DatabaseClock:
    """PostgreSQL's time, carried on between two looks by the monotonic clock of this machine, which
    nobody sets. Until the first look it is the time of the machine.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        # Seconds since 1970 less those of the monotonic clock.
        self._ahead = _seconds(SystemClock().now()) - monotonic()
        self._has_looked = False

    def now(self) -> datetime:
        """As `Clock.now`."""
        return from_milliseconds(int((self._monotonic() + self._ahead) * 1000))

    async def look(self, tx: Tx) -> None:
        """Ask the database what time it is."""
        asked_at = self._monotonic()
        rows = await tx.all(_NOW)
        self.learn(rows[0][0], asked_at=asked_at, answered_at=self._monotonic())

    def learn(self, told: datetime, *, asked_at: float, answered_at: float) -> None:
        """`told` was right at some moment between the two. What is believed changes only as far as that
        proves it wrong: an answer that was long under way says little.
        """
        least, most = _seconds(told) - answered_at, _seconds(told) - asked_at
        if not self._has_looked:
            self._has_looked = True
            self._ahead = (least + most) / 2
        self._ahead = min(max(self._ahead, least), most)


async def open_database_and_clock(settings: Settings) -> tuple[Database, Clock]:
    """The database that the settings name, and the clock that its rows are judged by. SQLite serves one
    process, whose machine's clock is the only one there is.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    if settings.database.type == "sqlite":
        clock = SystemClock()
        return open_database(settings, clock), clock
    clock = DatabaseClock()
    db = open_database(settings, clock)
    try:
        await db.read(clock.look)
    except BaseException:
        await db.close()
        raise
    return db, clock


async def watch_clock(db: Database, clock: Clock) -> None:
    """Look again, for what the two clocks drift apart, and for a machine that slept."""
    if isinstance(clock, DatabaseClock):
        await db.read(clock.look)


def _seconds(moment: datetime) -> float:
    return (moment - EPOCH).total_seconds()
