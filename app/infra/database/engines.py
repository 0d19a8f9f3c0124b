"""Connections to PostgreSQL (asyncpg) and SQLite (stdlib, on threads of our own), behind one Protocol."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, Unpack

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.infra.database.errors import CONNECT_ERRORS, DatabaseUnavailable
from app.infra.database.tx import Dialect, Parameters, TxConnection
from app.settings import Settings

_log = logging.getLogger(__name__)
_SQLITE_READERS = 4
_SQLITE_BUSY_SECONDS = 3
# Nothing that is asked for by default takes longer; whoever names a longer time for a transaction gets it.
_PG_STATEMENT_SECONDS = 15
# Whoever waits longer for a chat that is stuck is told so, before the line counts as silent.
_PG_LOCK_SECONDS = 3
_OPENED_AT = "opened_at"
R = TypeVar("R")
Outcome = tuple[Sequence[Row[Unpack[tuple[Any, ...]]]], int]


class Connections(Protocol):
    """Opens connections of either kind. `places_to_wait`: how many transactions may wait for a lock at once, so
    that others still find a connection.
    """

    dialect: Dialect
    places_to_wait: int

    @asynccontextmanager
    def writing(self, deadline: float) -> AsyncGenerator[TxConnection]:
        """A transaction that commits at the end and rolls back on any exception.

        `deadline` in the time of the loop: until then there is a connection, and a distant database
        has answered all that is asked on it, COMMIT included.
        """
        ...

    async def write_through(
        self, run: Callable[[TxConnection], Coroutine[Any, Any, R]], deadline: float
    ) -> R:
        """As `writing`, for work that waits for nothing but its connection.

        SQLite runs all of it on the writer's thread: on a loop that is busy each hop between the two
        costs a turn of it. So `run` may not touch what belongs to the loop.
        """
        ...

    @asynccontextmanager
    def reading(self, deadline: float) -> AsyncGenerator[TxConnection]:
        """A read-only connection on which each statement stands alone."""
        ...

    async def close(self) -> None:
        """Close them all."""
        ...


class PostgresConnections:
    """A pool of asyncpg connections.

    A line that does not answer by its deadline is hung up, which ends whatever waits on it at once, as
    any line that was cut. Cancelling instead would wait for the silent server to take note.
    """

    dialect: Dialect = "postgresql"

    def __init__(self, settings: Settings) -> None:
        self.places_to_wait = max(1, settings.database.pool_size * 2 // 5)
        self.engine: AsyncEngine = create_async_engine(
            settings.database_url,
            pool_size=settings.database.pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_use_lifo=True,
            pool_pre_ping=False,
            connect_args={
                "timeout": 5,
                "server_settings": {
                    "application_name": "telegram-clone-backend",
                    "jit": "off",  # plans here are tiny; compiling them costs more than running them
                    # What is read is in memory or on an SSD. With the default of 4, walks of an index
                    # that may stop early lose to plans that read all of a chat first.
                    "random_page_cost": "1.1",
                    "lock_timeout": str(_PG_LOCK_SECONDS * 1000),
                    "statement_timeout": str(_PG_STATEMENT_SECONDS * 1000),
                    "idle_in_transaction_session_timeout": "30000",
                    "synchronous_commit": "on",
                    "timezone": "UTC",
                },
            },
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        # When a line was last found silent. Those that were open then are not waited for.
        self._silent_at = -math.inf
        event.listen(self.engine.sync_engine, "connect", _note_opening)
        event.listen(self.engine.sync_engine, "close", self._abandon)

    @asynccontextmanager
    async def writing(self, deadline: float) -> AsyncGenerator[TxConnection]:
        """READ COMMITTED: a statement after a lock sees all that was committed before the lock."""
        async with self._connect(self.engine, deadline) as connection, connection.begin():
            await _allow_until(connection, deadline)
            yield _PostgresConnection(connection)

    async def write_through(
        self, run: Callable[[TxConnection], Coroutine[Any, Any, R]], deadline: float
    ) -> R:
        async with self.writing(deadline) as connection:
            return await run(connection)

    @asynccontextmanager
    async def reading(self, deadline: float) -> AsyncGenerator[TxConnection]:
        if not _is_long(deadline):
            async with self._connect(self._reading, deadline) as connection:
                yield _PostgresConnection(connection)
            return
        # What is set for a transaction ends with it.
        async with self._connect(self.engine, deadline) as connection, connection.begin():
            await _allow_until(connection, deadline)
            yield _PostgresConnection(connection)

    async def close(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _connect(
        self, engine: AsyncEngine, deadline: float
    ) -> AsyncGenerator[AsyncConnection]:
        """A connection of the pool.

        Raises:
            DatabaseUnavailable: the server is away, starting, full, silent, or lets us not in.
        """
        try:
            async with asyncio.timeout_at(deadline):
                connection = await engine.connect()
        except CONNECT_ERRORS as error:
            raise DatabaseUnavailable(retry_after=1) from error
        line: Any = connection.sync_connection and connection.sync_connection.connection
        loop = asyncio.get_running_loop()
        alarm = loop.call_at(deadline, self._hang_up, line.driver_connection)
        try:
            yield connection
        finally:
            try:
                await connection.close()
            finally:
                alarm.cancel()

    def _hang_up(self, line: Any) -> None:
        """`line`: asyncpg's own connection. What waits on it fails now, and the pool opens new ones."""
        _log.warning("database_silent")
        self._silent_at = time.monotonic()
        line.terminate()

    def _abandon(self, connection: Any, record: Any) -> None:
        """Of a line that may be as silent as another was, do not take leave: it would not answer."""
        if record.info.get(_OPENED_AT, 0.0) < self._silent_at:
            connection.driver_connection.terminate()


def _note_opening(_connection: Any, record: Any) -> None:
    record.info[_OPENED_AT] = time.monotonic()


def _is_long(deadline: float) -> bool:
    return deadline - asyncio.get_running_loop().time() > _PG_STATEMENT_SECONDS


async def _allow_until(connection: AsyncConnection, deadline: float) -> None:
    """Where the whole has longer than a statement usually may take, so has each of its statements."""
    if _is_long(deadline):
        seconds = math.ceil(deadline - asyncio.get_running_loop().time())
        await connection.execute(text(f"SET LOCAL statement_timeout = '{seconds}s'"))


class _PostgresConnection:
    __slots__ = ("_connection",)

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        try:
            result = await self._connection.execute(statement, parameters)  # pyright: ignore[reportArgumentType]
        except AttributeError as error:
            # asyncpg takes several steps for a statement with types that it does not know yet, and does not look
            # in between whether the line was hung up.
            if await self._is_hung_up():
                raise DatabaseUnavailable(retry_after=1) from error
            raise
        if result.returns_rows:
            return result.all(), -1
        return (), result.rowcount

    async def _is_hung_up(self) -> bool:
        line: Any = (await self._connection.get_raw_connection()).driver_connection
        return line.is_closed()


class SqliteConnections:
    """One writing connection on its thread, and a few read-only ones, each on its own.

    One hop to the thread a statement; measured, aiosqlite makes three or four. `write_through`: one in all.
    """

    dialect: Dialect = "sqlite"
    places_to_wait = 1  # there is one writer

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
    async def writing(self, deadline: float) -> AsyncGenerator[TxConnection]:
        loop = asyncio.get_running_loop()
        async with self._take_turn(deadline):
            connection = await loop.run_in_executor(
                self._writer_thread, self._begin, deadline - loop.time()
            )
            try:
                yield _SqliteWriter(connection, self._writer_thread)
                await loop.run_in_executor(self._writer_thread, connection.commit)
            except BaseException:
                await loop.run_in_executor(self._writer_thread, self._roll_back, connection)
                raise

    async def write_through(
        self, run: Callable[[TxConnection], Coroutine[Any, Any, R]], deadline: float
    ) -> R:
        loop = asyncio.get_running_loop()
        async with self._take_turn(deadline):
            seconds = deadline - loop.time()
            return await loop.run_in_executor(self._writer_thread, self._run_through, run, seconds)

    @asynccontextmanager
    async def reading(self, deadline: float) -> AsyncGenerator[TxConnection]:
        async with asyncio.timeout_at(deadline):
            yield _SqliteReader(self)

    @asynccontextmanager
    async def _take_turn(self, deadline: float) -> AsyncGenerator[None]:
        async with asyncio.timeout_at(deadline):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    async def close(self) -> None:
        async with self._turn:
            self._writer_thread.shutdown(wait=True)
            self._reader_threads.shutdown(wait=True)
            for connection in self._opened:
                connection.close()
            self.engine.dispose()
            self._reader_engine.dispose()

    def _begin(self, seconds: float) -> Connection:
        """Another program that holds the file's lock is waited for no longer than `seconds`."""
        if self._writer is None:
            self._writer = self.engine.connect()
            self._opened.append(self._writer)
        seconds = max(0.0, min(seconds, _SQLITE_BUSY_SECONDS))
        # Not through SQLAlchemy, where it would cost as much as a statement of ours.
        driver: Any = self._writer.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")
        self._writer.exec_driver_sql("BEGIN IMMEDIATE")
        return self._writer

    def _run_through(
        self, run: Callable[[TxConnection], Coroutine[Any, Any, R]], seconds: float
    ) -> R:
        connection = self._begin(seconds)
        try:
            result = _run_to_end(run(_SqliteThread(connection)))
            connection.commit()
        except BaseException:
            self._roll_back(connection)
            raise
        return result

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
        """Run one statement on any reader thread. Whoever gives up takes it off that thread."""
        loop = asyncio.get_running_loop()
        reading = _Reading()
        try:
            return await loop.run_in_executor(
                self._reader_threads, self._read, reading, statement, parameters
            )
        except asyncio.CancelledError:
            reading.interrupt()
            raise

    def _read(
        self, reading: "_Reading", statement: Executable, parameters: Parameters | None
    ) -> Outcome:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._reader_engine.connect()
            self._local.connection = connection
            self._opened.append(connection)
        try:
            with reading.on(connection.connection.driver_connection):
                return _run(connection, statement, parameters)
        finally:
            connection.rollback()  # ends SQLAlchemy's notion of a transaction; SQLite has none open


class _Reading:
    """One statement on a reader's connection; the next one there must not meet its interruption."""

    __slots__ = ("_driver", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._driver: Any = None

    @contextmanager
    def on(self, driver: Any) -> Generator[None]:
        with self._lock:
            self._driver = driver
        try:
            yield
        finally:
            with self._lock:
                self._driver = None

    def interrupt(self) -> None:
        with self._lock:
            if self._driver is not None:
                self._driver.interrupt()


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


class _SqliteThread:
    """On the writer's thread itself."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Parameters | None) -> Outcome:
        return _run(self._connection, statement, parameters)


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
            "timeout": _SQLITE_BUSY_SECONDS,
            "cached_statements": 512,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_SECONDS * 1000}")
        cursor.execute("PRAGMA cache_size=-32768")
        # A wrapped key that was deleted must not stay readable in a page that is free. Not every SQLite is
        # compiled with it.
        cursor.execute("PRAGMA secure_delete=ON")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    return engine


def _run(connection: Connection, statement: Executable, parameters: Parameters | None) -> Outcome:
    result = connection.execute(statement, parameters)  # pyright: ignore[reportArgumentType]
    if result.returns_rows:
        return result.all(), -1
    return (), result.rowcount


def _run_to_end(coroutine: Coroutine[Any, Any, R]) -> R:
    """What it returns; it never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    message = "this work waits for more than its connection"
    raise RuntimeError(message)
