"""Finds a second server process where only one may run: beside SQLite, and beside PostgreSQL without Redis.

Reading argv would miss half of the ways to start several processes; a lock misses none. PostgreSQL's
lock dies with its connection (a restart, a line that was cut), so the connection is watched and the lock
taken again; where another process was faster, this one must stop.
"""

import asyncio
import contextlib
import fcntl
import secrets
from collections.abc import Callable
from typing import IO, Self

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.settings import Settings

_ADVISORY_KEY = 7_217_002
_CHECK_SECONDS = 2.0
_RETRY_SECONDS = 0.5
_COMMAND_SECONDS = 5
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_FIND_HOLDER = text(
    "SELECT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_END_SESSION = text("SELECT pg_terminate_backend(:pid)")
_UNANSWERED = (SQLAlchemyError, OSError)

log = structlog.stdlib.get_logger("app.database")


class SecondProcessError(Exception):
    """Another server process uses this database."""


class ProcessLock:
    """Held from start to stop; the kernel or PostgreSQL frees it when the process dies.

    `on_lost` is called once if the lock was lost and another process has it now.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._on_lost = on_lost
        self._file: IO[str] | None = None
        self._advisory: _AdvisoryLock | None = None
        self._watcher: asyncio.Task[None] | None = None

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
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._file:
            self._file.close()
        if self._advisory:
            await self._advisory.close()

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
        self._advisory = _AdvisoryLock(self._settings)
        if not await self._advisory.take():
            await self._advisory.close()
            msg = (
                "USE_REDIS: several workers need Redis, and another one already uses this database; "
                "set USE_REDIS=true and REDIS_URL."
            )
            raise SecondProcessError(msg)
        if self._on_lost is not None:
            self._watcher = asyncio.create_task(
                _watch(self._advisory, self._on_lost), name="process-lock"
            )


class _AdvisoryLock:
    """A session of PostgreSQL that holds the lock, and is known by its name."""

    def __init__(self, settings: Settings) -> None:
        self._name = f"telegram-clone-backend lock {secrets.token_hex(6)}"
        self._engine: AsyncEngine = create_async_engine(
            settings.database_url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={
                "timeout": _COMMAND_SECONDS,
                "command_timeout": _COMMAND_SECONDS,
                "server_settings": {"application_name": self._name},
            },
        )
        self._connection: AsyncConnection | None = None

    async def take(self) -> bool:
        """Connect and try; False: another process has it."""
        connection = self._connection = await self._engine.connect()
        while not (await connection.execute(_TRY_LOCK, {"key": _ADVISORY_KEY})).scalar():
            holder = (await connection.execute(_FIND_HOLDER, {"key": _ADVISORY_KEY})).first()
            if holder is None:
                continue  # it was freed a moment ago
            if holder.application_name != self._name:
                return False
            # A session of our own, of which PostgreSQL has not seen yet that its line was cut.
            await connection.execute(_END_SESSION, {"pid": holder.pid})
            await asyncio.sleep(_RETRY_SECONDS)
        return True

    async def is_held(self) -> bool:
        """Whether the session that holds it still lives."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute(text("SELECT 1"))
        except _UNANSWERED:
            return False
        return True

    async def drop(self) -> None:
        """Give up a session that does not answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_UNANSWERED):
                await connection.invalidate()
                await connection.close()

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*_UNANSWERED):
                await self._connection.close()
        await self._engine.dispose()


async def _watch(lock: _AdvisoryLock, on_lost: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        if await lock.is_held():
            continue
        log.warning("process_lock_gone")
        if not await _take_again(lock):
            log.error(
                "process_lock_lost",
                reason="another server uses this database, and several need Redis: this one stops",
            )
            on_lost()
            return
        log.info("process_lock_taken_again")


async def _take_again(lock: _AdvisoryLock) -> bool:
    """Waits for a database that is away; False: another process has the lock."""
    while True:
        await lock.drop()
        try:
            return await lock.take()
        except _UNANSWERED:
            await asyncio.sleep(_RETRY_SECONDS)
