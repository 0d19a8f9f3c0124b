"""Empty real databases for tests of use cases and adapters, without a server around them."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.infra.database.database import Database, open_database
from app.infra.database.tables import METADATA
from app.kernel.clock import SystemClock
from app.settings import GROUPS, DatabaseSettings, SecretSettings, ServerSettings, Settings

# A third of what TRUNCATE takes, which makes every table and index anew.
_EMPTY = text("""
DO $$
DECLARE name regclass; is_used boolean;
BEGIN
  SET LOCAL session_replication_role = replica;  -- no foreign keys
  FOR name IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO is_used;
    IF is_used THEN EXECUTE format('DELETE FROM %s', name); END IF;
  END LOOP;
  PERFORM setval(oid, 1, false) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'S';
END $$
""")


class SetClock:
    """A clock that starts at the real time and moves on only when it is told to."""

    def __init__(self) -> None:
        self.moment = SystemClock().now()

    def now(self) -> datetime:
        return self.moment

    def advance(self, **duration: float) -> None:
        self.moment += timedelta(**duration)


def settings_for(directory: Path, *, url: str | None = None, **groups: Any) -> Settings:
    """Default settings over an empty directory; `url` of PostgreSQL, else SQLite."""
    made: dict[str, Any] = {name: group(_env_file=None) for name, group in GROUPS.items()}
    made["server"] = ServerSettings(_env_file=None, var_dir=directory)
    made["secrets"] = SecretSettings(_env_file=None, pbkdf2_rounds=1000)
    if url is not None:
        made["database"] = DatabaseSettings(_env_file=None, type="postgresql", url=url)
    return replace(Settings(**made), **groups)


async def open_empty_database(settings: Settings, clock: SetClock) -> Database:
    """A database with the tables of everything that was imported."""
    db = open_database(settings, clock)
    engine: Any = db.connections.engine
    if db.dialect == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
    else:
        await asyncio.to_thread(METADATA.create_all, engine)
    return db


async def empty_database(db: Database) -> None:
    """Leave the tables of a shared database as they were made."""
    if db.dialect == "postgresql":
        engine: Any = db.connections.engine
        async with engine.begin() as connection:
            await connection.execute(_EMPTY)
