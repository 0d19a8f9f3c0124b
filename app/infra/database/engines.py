"""Connections to PostgreSQL (asyncpg) and SQLite (stdlib, on threads of our own), behind one Protocol."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, Unpack

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.infra.database.errors import CONNECT_ERRORS, DatabaseUnavailable
from app.infra.database.tx import Dialect, Parameters, TxConnection
from app.settings import Settings

_log = logging.getLogger(__name__)
_SQLITE_READERS = 4
_PG_COMMAND_SECONDS = 15
Outcome = tuple[Sequence[Row[Unpack[tuple[Any, ...]]]], int]


class Connections(Protocol):
    """Opens connections of either kind."""

    dialect: Dialect

    @asynccontextmanager
    def writing(self) -> AsyncGenerator[TxConnection]:
        """A transaction that commits at the end and rolls back on any exception."""
        ...

    @asynccontextmanager
    def reading(self) -> AsyncGenerator[TxConnection]:
        """A read-only connection on which each statement stands alone."""
        ...

    async def close(self) -> None:
        """Close them all."""
        ...


class PostgresConnections:
    """A pool of asyncpg connections."""

    dialect: Dialect = "postgresql"

    def __init__(self, settings: Settings) -> None:
        self.engine: AsyncEngine = create_async_engine(
            settings.database_url,
            pool_size=settings.database.pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_use_lifo=True,
            pool_pre_ping=False,
            connect_args={
                "timeout": 5,
                "command_timeout": _PG_COMMAND_SECONDS,
                "server_settings": {
                    "application_name": "telegram-clone-backend",
                    "jit": "off",  # plans here are tiny; compiling them costs more than running them
                    # What is read is in memory or on an SSD. With the default of 4, walks of an index
                    # that may stop early lose to plans that read all of a chat first.
                    "random_page_cost": "1.1",
                    "lock_timeout": "5000",
                    "statement_timeout": str(_PG_COMMAND_SECONDS * 1000),
                    "idle_in_transaction_session_timeout": "30000",
                    "synchronous_commit": "on",
                    "timezone": "UTC",
                },
            },
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[TxConnection]:
        """READ COMMITTED: a statement after a lock sees all that was committed before the lock."""
        async with _connect(self.engine) as connection, connection.begin():
            yield _PostgresConnection(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[TxConnection]:
        async with _connect(self._reading) as connection:
            yield _PostgresConnection(connection)

    async def close(self) -> None:
        await self.engine.dispose()


@asynccontextmanager
async def _connect(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A connection of the pool.

    Raises:
        DatabaseUnavailable: the server is away, starting, full, or lets us not in.
    """
    try:
        connection = await engine.connect()
    except CONNECT_ERRORS as error:
        raise DatabaseUnavailable(retry_after=1) from error
    try:
        yield connection
    finally:
        await connection.close()


class _PostgresConnection:
    __slots__ = ("_connection",)

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        result = await self._connection.execute(statement, parameters)  # pyright: ignore[reportArgumentType]
        if result.returns_rows:
            return result.all(), -1
        return (), result.rowcount


class SqliteConnections:
    """One writing connection on its thread, and a few read-only ones, each on its own.

    One hop to the thread a statement; measured, aiosqlite makes three or four.
    """

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.engine = sqlite_engine(path)
        self._reader_engine = sqlite_engine(path, read_only=True)
        self._turn = (
            asyncio.Lock()
        )  # first come, first served: measured, without it cold writes starve
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        self._reader_threads = ThreadPoolExecutor(_SQLITE_READERS, thread_name_prefix="sqlite-read")
        self._writer: Connection | None = None
        self._local = threading.local()
        self._opened: list[Connection] = []

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[TxConnection]:
        loop = asyncio.get_running_loop()
        async with self._turn:
            connection = await loop.run_in_executor(self._writer_thread, self._begin)
            try:
                yield _SqliteWriter(connection, self._writer_thread)
                await loop.run_in_executor(self._writer_thread, connection.commit)
            except BaseException:
                await loop.run_in_executor(self._writer_thread, self._roll_back, connection)
                raise

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[TxConnection]:
        yield _SqliteReader(self)

    async def close(self) -> None:
        async with self._turn:
            self._writer_thread.shutdown(wait=True)
            self._reader_threads.shutdown(wait=True)
            for connection in self._opened:
                connection.close()
            self.engine.dispose()
            self._reader_engine.dispose()

    def _begin(self) -> Connection:
        if self._writer is None:
            self._writer = self.engine.connect()
            self._opened.append(self._writer)
        self._writer.exec_driver_sql("BEGIN IMMEDIATE")
        return self._writer

    def _roll_back(self, connection: Connection) -> None:
        """Leave no transaction open, or the next BEGIN fails, and every one after it."""
        try:
            connection.rollback()
            # After a COMMIT that failed SQLAlchemy takes the transaction for ended; SQLite does not.
            connection.connection.rollback()
        except Exception:  # noqa: BLE001 - an edge: the first error is the one to tell
            _log.exception("sqlite_rollback_failed")
            self._writer = None
            connection.invalidate()

    async def read(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        """Run one statement on any reader thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader_threads, self._read, statement, parameters)

    def _read(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._reader_engine.connect()
            self._local.connection = connection
            self._opened.append(connection)
        try:
            return _run(connection, statement, parameters)
        finally:
            connection.rollback()  # ends SQLAlchemy's notion of a transaction; SQLite has none open


class _SqliteWriter:
    __slots__ = ("_connection", "_thread")

    def __init__(self, connection: Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def execute(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, _run, self._connection, statement, parameters
        )


class _SqliteReader:
    __slots__ = ("_connections",)

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def execute(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        return await self._connections.read(statement, parameters)


def sqlite_engine(path: Path, *, read_only: bool = False) -> Engine:
    """A synchronous engine under whose settings an acknowledged commit survives power loss."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        # isolation_level None: the driver begins nothing by itself, we say BEGIN IMMEDIATE.
        connect_args={
            "check_same_thread": False,
            "isolation_level": None,
            "timeout": 10,
            "cached_statements": 512,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA cache_size=-32768")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    return engine


def _run(connection: Connection, statement: Executable, parameters: Parameters | None) -> Outcome:
    result = connection.execute(statement, parameters)  # pyright: ignore[reportArgumentType]
    if result.returns_rows:
        return result.all(), -1
    return (), result.rowcount
