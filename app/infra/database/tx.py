"""The one transaction type: a thin class over a connection to either database.

A function whose first parameter is `tx` runs in its caller's transaction and never commits.
"""

import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, Unpack, cast, overload

from sqlalchemy import Executable, Row, func, select, table, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import column
from sqlalchemy.sql.selectable import TypedReturnsRows
from typing_extensions import TypeVarTuple

from app.infra.database.errors import as_unique_violation
from app.infra.database.tables import Row as TableRow
from app.kernel.announcements import Announcement
from app.kernel.events import SecurityEvent

Dialect = Literal["postgresql", "sqlite"]
Parameters = Mapping[str, object] | Sequence[Mapping[str, object]]
Ts = TypeVarTuple("Ts")
V = TypeVar("V")


_TRY_LOCKS = text(
    "SELECT key, pg_try_advisory_xact_lock(:space, key) AS is_locked"
    " FROM unnest(CAST(:keys AS integer[])) AS key"
)


class TxConnection(Protocol):
    """An open connection; `execute` gives all rows and how many were changed (-1: not known)."""

    async def execute(
        self, statement: Executable, parameters: Parameters | None
    ) -> tuple[Sequence[Row[Unpack[tuple[Any, ...]]]], int]:
        """Run one statement, or one for each mapping of a list."""
        ...


class Tx:
    """What a use case may do inside its transaction. `now` is read once and holds for all of it."""

    __slots__ = (
        "__weakref__",
        "_after_commit",
        "_before_commit",
        "_connection",
        "announcements",
        "dialect",
        "failure",
        "now",
        "security_events",
    )

    def __init__(self, connection: TxConnection, dialect: Dialect, now: datetime) -> None:
        self._connection = connection
        self._before_commit: list[Callable[[], Awaitable[None]]] = []
        self._after_commit: list[Callable[[], None]] = []
        self.announcements: list[Announcement] = []
        # Written at the very end of the transaction, see `Database.write_events`.
        self.security_events: list[SecurityEvent] = []
        # The first statement that failed: whoever caught it, this transaction must not be committed.
        self.failure: Exception | None = None
        self.dialect: Dialect = dialect
        self.now = now

    @overload
    async def all(
        self,
        statement: TypedReturnsRows[Unpack[Ts]],
        parameters: Parameters | None = None,
    ) -> Sequence[Row[Unpack[Ts]]]: ...
    @overload
    async def all(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Sequence[Row[Unpack[tuple[Any, ...]]]]: ...
    async def all(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Sequence[Any]:
        """Every row of a query or of a RETURNING clause."""
        rows, _ = await self._run(statement, parameters)
        return rows

    @overload
    async def first(
        self,
        statement: TypedReturnsRows[Unpack[Ts]],
        parameters: Parameters | None = None,
    ) -> Row[Unpack[Ts]] | None: ...
    @overload
    async def first(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Row[Unpack[tuple[Any, ...]]] | None: ...
    async def first(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first row, or None."""
        rows, _ = await self._run(statement, parameters)
        return rows[0] if rows else None

    async def scalar(
        self, statement: TypedReturnsRows[V], parameters: Parameters | None = None
    ) -> V | None:
        """The first column of the first row; None if there is no row."""
        rows, _ = await self._run(statement, parameters)
        return cast("V", rows[0][0]) if rows else None

    async def scalars(
        self, statement: TypedReturnsRows[V], parameters: Parameters | None = None
    ) -> Sequence[V]:
        """The first column of every row."""
        rows, _ = await self._run(statement, parameters)
        return [cast("V", row[0]) for row in rows]

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> int:
        """Run a statement that gives no rows.

        Returns:
            Rows changed; -1 for a list of parameters, where PostgreSQL does not say.
        """
        _, changed = await self._run(statement, parameters)
        return changed

    async def reserve_ids(self, row_class: type[TableRow], count: int) -> list[int]:
        """Take the next `count` ids of a table, ascending, before its rows are inserted.

        Whoever needs ids that grow with commits inside a scope takes the scope's lock first.
        """
        if count == 0:
            return []
        name = row_class.__tablename__
        if self.dialect == "postgresql":
            series = func.generate_series(1, count).table_valued("n")
            sequence = select(func.nextval(f"{name}_id_seq")).select_from(series)
            return sorted(await self.scalars(cast("TypedReturnsRows[int]", sequence)))
        # The transaction holds SQLite's only write lock, and an insert with an explicit id
        # raises AUTOINCREMENT's counter, so that ids are never given out twice.
        counters = table("sqlite_sequence", column("name"), column("seq"))
        last = await self.scalar(select(counters.c.seq).where(counters.c.name == name))
        start = int(last or 0) + 1
        return list(range(start, start + count))

    async def lock_names(self, names: Iterable[str]) -> None:
        """Hold locks on arbitrary words to the end of the transaction (SQLite has one writer anyway)."""
        if self.dialect == "sqlite":
            return
        for key in sorted({zlib.crc32(name.encode()) for name in names}):
            await self.execute(
                text("SELECT pg_advisory_xact_lock(:space, :key)"),
                {"space": 7, "key": key - 2**31},
            )

    async def try_lock_names(self, names: Iterable[str]) -> set[str]:
        """As `lock_names`, in one statement, but leaves out what somebody else holds at the moment.

        Returns:
            The names that are locked now.
        """
        wanted = set(names)
        if self.dialect == "sqlite" or not wanted:
            return wanted
        keys = {name: zlib.crc32(name.encode()) - 2**31 for name in wanted}
        rows = await self.all(_TRY_LOCKS, {"space": 7, "keys": list(set(keys.values()))})
        locked = {row.key for row in rows if row.is_locked}
        return {name for name, key in keys.items() if key in locked}

    def before_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action` inside the transaction, at its very end."""
        self._before_commit.append(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the transaction is durable; it must neither block nor raise."""
        self._after_commit.append(action)

    def announce(self, announcement: Announcement) -> None:
        """Let an update leave after the commit, in the order of these calls."""
        self.announcements.append(announcement)

    async def run_before_commit(self) -> None:
        """For `Database` alone."""
        for action in self._before_commit:
            await action()

    def run_after_commit(self) -> None:
        """For `Database` alone."""
        for action in self._after_commit:
            action()

    async def _run(
        self, statement: Executable, parameters: Parameters | None
    ) -> tuple[Sequence[Row[Unpack[tuple[Any, ...]]]], int]:
        try:
            return await self._connection.execute(statement, parameters)
        except IntegrityError as error:
            violation = as_unique_violation(error)
            self.failure = self.failure or violation or error
            if violation is None:
                raise
            raise violation from error
        except Exception as error:
            self.failure = self.failure or error
            raise
