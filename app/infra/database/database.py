"""The database: opens the one transaction of a use case, repeats it when it must, announces after commit."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.infra.database.committer import MAX_GROUP, Group, GroupCommitter
from app.infra.database.engines import (
    Connections,
    PostgresConnections,
    SqliteConnections,
)
from app.infra.database.errors import DatabaseUnavailable, is_retryable, is_unavailable
from app.infra.database.tx import Dialect, Tx, TxConnection
from app.infra.deadline import ANSWER_SECONDS, seconds_left
from app.kernel.announcements import Announcement
from app.kernel.clock import Clock
from app.kernel.events import SecurityEvent
from app.settings import Settings

R = TypeVar("R")
Item = TypeVar("Item")
_log = logging.getLogger(__name__)
_MAX_TRIES = 6
# What a transaction may take, unless it is told otherwise.
_TRANSACTION_SECONDS = 4.0
# For jobs and commands, which nobody waits for but whoever began them: beside a busy server, or where much is read.
LONG_SECONDS: Final = 60.0
# For statements that look at every row of a table.
SCAN_SECONDS: Final = 1800.0
# With less time left nothing is tried again: waiting for a lock takes longer.
_LEAST_TRY_SECONDS = 1.0
# Work that waits for something else than the database; the line is hung up before that.
_GRACE_SECONDS = 0.2
# A disk that hangs stops the thread that writes. Whoever waits for it is told so nevertheless.
_LATE_SECONDS = 0.3
# A stopping server has ten seconds in all, and eight of them are for requests.
_CLOSING_SECONDS = 1.0
WriteOnce = Callable[[Callable[[Tx], Awaitable[R]], float], Awaitable[R]]
_jitter = secrets.SystemRandom()


class Database:
    """Either database. `on_commit` gets what was announced, in order, right after each commit;
    `write_events` writes what a transaction is recorded by, as its last statements.
    """

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self.connections = connections
        self.dialect: Dialect = connections.dialect
        self.on_commit: Callable[[Sequence[Announcement]], None] = _announce_nothing
        self.write_events: Callable[[Tx, Sequence[SecurityEvent]], Awaitable[None]] = _write_nothing
        self._clock = clock
        self._running: set[asyncio.Task[object]] = set()
        self._committers: dict[object, object] = {}
        self._places_to_wait = asyncio.Semaphore(connections.places_to_wait)

    async def write(
        self, work: Callable[[Tx], Awaitable[R]], *, timeout_seconds: float = _TRANSACTION_SECONDS
    ) -> R:
        """Run `work` in a transaction and commit it; the result is returned only once it is durable.

        `work` is run again from its beginning after a deadlock or a serialisation failure, so it
        must be repeatable. The caller's cancellation does not reach it. `timeout_seconds` hold for
        all of it: waiting for a connection and for locks, every try, and the commit.

        Raises:
            DatabaseUnavailable: the database is down or silent, or its caller must be answered sooner;
                whether it was committed is unknown.
        """
        return await self._answer(
            self._write(self._write_once, work, timeout_seconds), timeout_seconds
        )

    async def read(
        self, work: Callable[[Tx], Awaitable[R]], *, timeout_seconds: float = _TRANSACTION_SECONDS
    ) -> R:
        """Run `work` on a read-only connection; each statement sees the newest committed state.

        Raises:
            DatabaseUnavailable: the database is down or silent.
        """
        return await self._answer(self._read(work, timeout_seconds), timeout_seconds)

    async def write_grouped(
        self, work: Group[Item, R], item: Item, *, at_most: int = MAX_GROUP
    ) -> R:
        """Run `work` for `item` in one transaction with the other items that wait at this moment, up to `at_most`.

        `work` awaits nothing but `tx`, and touches nothing that belongs to the event loop: on SQLite
        all of it runs on another thread.

        Raises:
            Problem: the outcome of this item alone.
            DatabaseUnavailable: as above, or its turn did not come in time.
        """
        seconds = seconds_left(ANSWER_SECONDS)
        committer = self._committers.get(work)
        if not isinstance(committer, GroupCommitter):
            committer = GroupCommitter[Item, R](
                self._write_group, work, places_to_wait=self._places_to_wait, max_group=at_most
            )
            self._committers[work] = committer
        if seconds <= 0:
            raise DatabaseUnavailable(retry_after=1)
        outcome: asyncio.Future[R] = committer.submit(item)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(outcome)
        except TimeoutError as error:
            outcome.cancel()  # what still waits for its turn is not begun any more
            raise DatabaseUnavailable(retry_after=1) from error

    async def close(self) -> None:
        """Wait for running transactions and those that wait behind them, then close all connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                while under_way := self._list_under_way():
                    await asyncio.wait(under_way)
        for task in self._running:
            task.cancel()  # rolled back: nobody was told that it is done
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSING_SECONDS)
        await self.connections.close()

    def _list_under_way(self) -> "set[asyncio.Task[object]]":
        """Transactions, and the groups that gather behind them."""
        tasks = set(self._running)
        for committer in self._committers.values():
            if isinstance(committer, GroupCommitter):
                tasks |= committer.tasks()
        return tasks

    async def _answer(self, run: Coroutine[Any, Any, R], seconds: float) -> R:
        """What comes of it, or a refusal in time; it is not cut short by that, and ends by itself."""
        left = seconds_left(seconds + _LATE_SECONDS)
        if left <= 0:
            run.close()
            raise DatabaseUnavailable(retry_after=1)
        task = self._start(run)
        await asyncio.wait([task], timeout=left)
        if not task.done():
            raise DatabaseUnavailable(retry_after=1)
        return task.result()

    def _start(self, run: Awaitable[R]) -> "asyncio.Future[R]":
        """Nobody's cancellation reaches it."""
        task = asyncio.ensure_future(run)
        self._running.add(task)  # pyright: ignore[reportArgumentType]
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Future[R]") -> None:
        self._running.discard(task)  # pyright: ignore[reportArgumentType]
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may have gone

    async def _write_group(self, work: Callable[[Tx], Awaitable[R]]) -> R:
        """Of many callers; each of them waits as long as it may."""
        run = self._write(self._write_through, work, _TRANSACTION_SECONDS)
        return await asyncio.shield(self._start(run))

    async def _write(
        self, write_once: "WriteOnce[R]", work: Callable[[Tx], Awaitable[R]], timeout_seconds: float
    ) -> R:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        for attempt in range(1, _MAX_TRIES + 1):
            try:
                return await write_once(work, deadline)
            except DBAPIError as error:
                has_time = loop.time() < deadline - _LEAST_TRY_SECONDS
                if is_retryable(error) and attempt < _MAX_TRIES and has_time:
                    await asyncio.sleep(_jitter.uniform(0.005, 0.02) * 2**attempt)
                    continue
                raise _as_unavailable(error) from error
            except (OSError, PoolTimeoutError) as error:
                raise DatabaseUnavailable(retry_after=1) from error
        raise AssertionError

    async def _write_once(self, work: Callable[[Tx], Awaitable[R]], deadline: float) -> R:
        async with self.connections.writing(deadline) as connection:
            tx = Tx(connection, self.dialect, self._clock.now())
            async with asyncio.timeout_at(deadline + _GRACE_SECONDS):
                result = await self._run(tx, work)
        self._tell(tx)
        return result

    async def _write_through(self, work: Callable[[Tx], Awaitable[R]], deadline: float) -> R:
        async def run(connection: TxConnection) -> tuple[Tx, R]:
            tx = Tx(connection, self.dialect, self._clock.now())
            return tx, await self._run(tx, work)

        tx, result = await self.connections.write_through(run, deadline)
        self._tell(tx)
        return result

    async def _run(self, tx: Tx, work: Callable[[Tx], Awaitable[R]]) -> R:
        """All that stands between BEGIN and COMMIT."""
        result = await work(tx)
        await tx.run_before_commit()
        if tx.security_events:
            await self.write_events(tx, tx.security_events)
        if tx.failure is not None:
            # PostgreSQL answers COMMIT of a failed transaction with a rollback and no error.
            raise tx.failure
        return result

    def _tell(self, tx: Tx) -> None:
        """It is durable: whatever fails from here on must not make the caller write it again."""
        try:
            tx.run_after_commit()
        except Exception:  # noqa: BLE001 - an edge, see above
            _log.exception("after_commit_failed")
        try:
            if tx.announcements:
                self.on_commit(tx.announcements)
        except Exception:  # noqa: BLE001 - an edge, see above
            _log.exception("announcement_failed")

    async def _read(self, work: Callable[[Tx], Awaitable[R]], timeout_seconds: float) -> R:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with self.connections.reading(deadline) as connection:
                return await work(Tx(connection, self.dialect, self._clock.now()))
        except DBAPIError as error:
            raise _as_unavailable(error) from error
        except (OSError, PoolTimeoutError) as error:
            raise DatabaseUnavailable(retry_after=1) from error


def open_database(settings: Settings, clock: Clock) -> Database:
    """The database that the settings name; connects on first use."""
    if settings.database.type == "postgresql":
        return Database(PostgresConnections(settings), clock)
    return Database(SqliteConnections(settings.sqlite_path), clock)


def _as_unavailable(error: DBAPIError) -> Exception:
    if is_unavailable(error) or is_retryable(error):
        _log.warning("database_unavailable", extra={"reason": type(error.orig).__name__})
        return DatabaseUnavailable(retry_after=1)
    return error


def _announce_nothing(announcements: Sequence[Announcement]) -> None:
    """Until the gateway listens there is nobody to tell."""


async def _write_nothing(_tx: Tx, _events: Sequence[SecurityEvent]) -> None:
    """Until the record is opened there is nobody to keep it: the start itself is not recorded."""
