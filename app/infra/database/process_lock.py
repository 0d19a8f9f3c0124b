"""Finds a second server process where only one may run: beside SQLite, and beside PostgreSQL without Redis.

Reading argv would miss half of the ways to start several processes; a lock misses none.
"""

import fcntl
from typing import IO, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.settings import Settings

_ADVISORY_KEY = 7_217_002


class SecondProcessError(Exception):
    """Another server process uses this database."""


class ProcessLock:
    """Held from start to stop; the kernel or PostgreSQL frees it when the process dies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file: IO[str] | None = None
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        """Take the lock where one is needed.

        Raises:
            SecondProcessError: it is taken.
        """
        if self._settings.database.type == "sqlite":
            self._lock_file()
        elif not self._settings.redis.use:
            await self._lock_advisory()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if self._connection:
            await self._connection.close()
        if self._engine:
            await self._engine.dispose()

    def _lock_file(self) -> None:
        path = self._settings.sqlite_path.with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            msg = (
                "DATABASE_TYPE: SQLite serves one process, and another one already uses "
                f"{self._settings.sqlite_path}; for several workers set DATABASE_TYPE=postgresql and USE_REDIS=true."
            )
            raise SecondProcessError(msg) from error

    async def _lock_advisory(self) -> None:
        self._engine = create_async_engine(
            self._settings.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._connection = await self._engine.connect()
        result = await self._connection.execute(
            text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_KEY}
        )
        if not result.scalar():
            await self._connection.close()
            await self._engine.dispose()
            msg = (
                "USE_REDIS: several workers need Redis, and another one already uses this database; "
                "set USE_REDIS=true and REDIS_URL."
            )
            raise SecondProcessError(msg)
