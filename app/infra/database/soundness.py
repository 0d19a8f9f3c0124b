"""Whether the database may be relied on: it answers, keeps what it acknowledged, and knows what time it is."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.infra.database.database import open_database
from app.infra.database.errors import CONNECT_ERRORS
from app.infra.database.tx import Tx
from app.kernel.clock import Clock, SystemClock
from app.kernel.problems import Unavailable
from app.settings import Settings

MAX_CLOCK_OFFSET: Final = timedelta(seconds=30)
_SWITCHED_OFF = text(
    "SELECT name FROM pg_settings WHERE setting = 'off'"
    " AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
)
_NOW = text("SELECT clock_timestamp()")


async def list_database_faults(settings: Settings, clock: Clock | None = None) -> list[str]:
    """What only a connection to PostgreSQL tells, one sentence each. SQLite's settings are our own.

    Outside production it only has to answer.
    """
    if settings.database.type == "sqlite":
        return []
    clock = clock or SystemClock()
    try:
        switched_off, offset = await _look(settings, clock)
    except (*CONNECT_ERRORS, DBAPIError, SQLAlchemyError, Unavailable) as error:
        return [f"DATABASE_URL: the database does not answer ({_reason(error)})"]
    faults: list[str] = []
    if not settings.is_production:
        return faults
    if switched_off:
        names = ", ".join(f"{name}=off" for name in switched_off)
        faults.append(
            f"DATABASE_URL: PostgreSQL runs with {names} and may lose what it acknowledged; switch it on"
        )
    if abs(offset) >= MAX_CLOCK_OFFSET:
        faults.append(
            f"DATABASE_URL: the clocks of PostgreSQL and of this machine differ by {abs(offset).total_seconds():.0f} s;"
            " set both by NTP"
        )
    return faults


async def _look(settings: Settings, clock: Clock) -> tuple[list[str], timedelta]:
    """The settings as our sessions have them, and how far the database's clock is ahead of ours."""
    database = open_database(settings, clock)

    async def work(tx: Tx) -> tuple[list[str], timedelta]:
        switched_off = [str(row[0]) for row in await tx.all(_SWITCHED_OFF)]
        asked_at = clock.now()
        rows = await tx.all(_NOW)
        told: datetime = rows[0][0]
        between = asked_at + (clock.now() - asked_at) / 2
        return switched_off, told - between

    try:
        return await database.read(work)
    finally:
        await database.close()


def _reason(error: Exception) -> str:
    """Never its text, which may hold an address with a password."""
    cause = error.__cause__ or error
    return type(getattr(cause, "orig", None) or cause).__name__
