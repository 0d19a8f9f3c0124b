"""Whether the database keeps what it has acknowledged when the machine loses its power."""

from sqlalchemy import text

from app.infra.database.database import open_database
from app.infra.database.tx import Tx
from app.kernel.clock import SystemClock
from app.settings import Settings, SettingsError

_SETTINGS = text(
    "SELECT name FROM pg_settings WHERE setting = 'off'"
    " AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
)


async def require_durability(settings: Settings) -> None:
    """Look at the settings of PostgreSQL as our sessions have them; SQLite's are our own.

    Raises:
        SettingsError: an acknowledged change could be lost.
    """
    if settings.database.type == "sqlite":
        return
    database = open_database(settings, SystemClock())

    async def work(tx: Tx) -> list[str]:
        return [str(row[0]) for row in await tx.all(_SETTINGS)]

    try:
        switched_off = await database.read(work)
    finally:
        await database.close()
    if switched_off:
        names = ", ".join(f"{name}=off" for name in switched_off)
        fault = f"DATABASE_URL: PostgreSQL runs with {names} and may lose what it acknowledged; switch it on"
        raise SettingsError([fault])
