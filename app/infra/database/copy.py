"""Carries all rows from one database to the other in one transaction, verified before it commits."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.infra.database.engines import SqliteConnections
from app.infra.database.tables import METADATA
from app.infra.database.tx import Tx
from app.settings import Settings

_BATCH = 500
Progress = Callable[[str, int], None]


class CopyError(Exception):
    """The copy was refused or did not verify; the target is as it was before."""


class Checksum:
    """Rows counted and summed: the order in which they are read does not matter."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, row: Sequence[object]) -> None:
        """Take in one row."""
        digest = hashlib.sha256(orjson.dumps(list(row), default=_jsonable)).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**256
        self.rows += 1

    def value(self) -> tuple[int, str]:
        return self.rows, f"{self._sum:064x}"


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


class Source:
    """A consistent view of the database that is read."""

    def __init__(
        self, stream: Callable[[Any], AsyncIterator[Sequence[Sequence[object]]]], dialect: str
    ) -> None:
        self.stream = stream
        self.dialect = dialect


@asynccontextmanager
async def open_source(settings: Settings) -> AsyncGenerator[Source]:
    """Read everything as of one moment."""
    if settings.database.type == "sqlite":
        connections = SqliteConnections(settings.sqlite_path)
        with connections.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")

            async def stream(statement: Any) -> AsyncGenerator[Sequence[Sequence[object]]]:
                for batch in connection.execute(statement).partitions(_BATCH):
                    yield cast("Sequence[Sequence[object]]", batch)

            yield Source(stream, "sqlite")
            connection.rollback()
        await connections.close()
        return
    engine = create_async_engine(
        settings.database_url, poolclass=NullPool, isolation_level="REPEATABLE READ"
    )
    async with engine.connect() as connection:

        async def stream_pg(statement: Any) -> AsyncGenerator[Sequence[Sequence[object]]]:
            async with connection.stream(statement) as result:
                async for batch in result.partitions(_BATCH):
                    yield cast("Sequence[Sequence[object]]", batch)

        yield Source(stream_pg, "postgresql")
    await engine.dispose()


async def count_rows(source: Source) -> dict[str, int]:
    """Rows of each table, in the order in which tables are copied."""
    counts: dict[str, int] = {}
    for table in METADATA.sorted_tables:
        async for batch in source.stream(select(func.count()).select_from(table)):
            counts[table.name] = int(cast("int", batch[0][0]))
    return counts


async def copy_rows(source: Source, tx: Tx, progress: Progress) -> Mapping[str, tuple[int, str]]:
    """Insert every row of `source` in the transaction of the target and verify what stands there.

    Returns:
        Table -> (rows, checksum).

    Raises:
        CopyError: the target is not empty, or does not hold what was read.
    """
    await _require_empty(tx)
    checksums: dict[str, tuple[int, str]] = {}
    for table in METADATA.sorted_tables:
        checksums[table.name] = await _copy_table(source, tx, table, progress)
        written = await _check_table(tx, table)
        if written != checksums[table.name]:
            msg = f"{table.name}: read {checksums[table.name]}, but the target holds {written}"
            raise CopyError(msg)
    await _carry_counters(source, tx)
    return checksums


async def _require_empty(tx: Tx) -> None:
    for table in METADATA.sorted_tables:
        if await tx.first(select(text("1")).select_from(table).limit(1)):
            msg = f"the target is not empty: table {table.name} has rows"
            raise CopyError(msg)


async def _copy_table(source: Source, tx: Tx, table: Table, progress: Progress) -> tuple[int, str]:
    checksum = Checksum()
    names = [column.name for column in table.columns]
    async for batch in source.stream(select(table)):
        for row in batch:
            checksum.add(row)
        await tx.execute(insert(table), [dict(zip(names, row, strict=True)) for row in batch])
        progress(table.name, len(batch))
    return checksum.value()


async def _check_table(tx: Tx, table: Table) -> tuple[int, str]:
    checksum = Checksum()
    keys = list(table.primary_key.columns)
    last: Sequence[object] | None = None
    while True:
        statement = select(table).order_by(*keys).limit(_BATCH)
        if last is not None:
            # Row by row comparison of the whole key, as both databases know it.
            positions = [list(table.columns).index(key) for key in keys]
            statement = statement.where(_after(keys, [last[position] for position in positions]))
        rows = await tx.all(statement)
        for row in rows:
            checksum.add(row)
        if len(rows) < _BATCH:
            return checksum.value()
        last = rows[-1]


def _after(keys: Sequence[Any], values: Sequence[object]) -> Any:
    condition = keys[-1] > values[-1]
    for key, value in zip(reversed(keys[:-1]), reversed(values[:-1]), strict=True):
        condition = (key > value) | ((key == value) & condition)
    return condition


async def _carry_counters(source: Source, tx: Tx) -> None:
    """No id is ever given out twice, not even that of a row which is gone: carry the counters, not the maxima."""
    for table in METADATA.sorted_tables:
        column = table.autoincrement_column
        if column is None or not table.dialect_options["sqlite"].get("autoincrement"):
            continue
        sequence = f"{table.name}_{column.name}_seq"
        if source.dialect == "sqlite":
            query = text("SELECT seq FROM sqlite_sequence WHERE name = :name").bindparams(
                name=table.name
            )
        else:
            query = text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")  # noqa: S608 - our own names
        async for batch in source.stream(query):
            await _set_counter(tx, table.name, sequence, int(cast("int", batch[0][0])))


async def _set_counter(tx: Tx, table_name: str, sequence: str, value: int) -> None:
    if value == 0:
        return
    if tx.dialect == "postgresql":
        await tx.execute(
            text("SELECT setval(:sequence, :value)"), {"sequence": sequence, "value": value}
        )
        return
    await tx.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table_name})
    await tx.execute(
        text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"),
        {"name": table_name, "seq": value},
    )
