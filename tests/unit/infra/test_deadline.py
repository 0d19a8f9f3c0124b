"""One deadline for a call: it holds for the caller, whatever goes on behind it, and for nobody else."""

import asyncio
import time
from contextlib import closing

import pytest
from sqlalchemy import insert, select, text

from app.infra.database.database import Database
from app.infra.database.engines import sqlite_engine
from app.infra.database.errors import DatabaseUnavailable
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.deadline import seconds_left
from app.infra.hashing import HashingBusy, SlowHasher
from app.settings import Settings
from tests.support.calls import a_call
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def put(tx: Tx, name: str) -> None:
    await tx.execute(insert(ServerStateRow).values(name=name, value=""))


async def names(db: Database) -> list[str]:
    statement = select(ServerStateRow.name).order_by(ServerStateRow.name)
    return list(await db.read(lambda tx: tx.scalars(statement)))


async def test_without_a_caller_there_is_no_deadline() -> None:
    assert seconds_left(7) == 7


async def test_a_task_that_outlives_its_call_is_bound_no_longer() -> None:
    ended = asyncio.Event()

    async def outlive() -> float:
        await ended.wait()
        return seconds_left(7)

    with a_call(seconds=0.5) as call:
        task = asyncio.create_task(outlive())
        assert 0 < seconds_left(7) <= 0.5
        call.postpone(2)
        assert 2 < seconds_left(7) <= 2.5
    ended.set()
    assert await task == 7


async def test_each_transaction_has_what_those_before_have_left(db: Database) -> None:
    has_waited = asyncio.Event()

    async def dawdle(tx: Tx) -> None:
        await has_waited.wait()
        await put(tx, "unknown")

    with a_call(seconds=2):
        await db.write(lambda tx: put(tx, "in time"))
        with pytest.raises(DatabaseUnavailable):
            await db.write(dawdle)
        with pytest.raises(DatabaseUnavailable):
            await db.read(lambda tx: tx.scalar(select(ServerStateRow.name)))
        with pytest.raises(DatabaseUnavailable):
            await db.write(lambda tx: put(tx, "too late"))
    has_waited.set()

    async def is_over() -> bool:
        return await names(db) == ["in time", "unknown"]

    await eventually(is_over)


async def test_what_the_caller_waits_for_no_longer_is_done_nevertheless(db: Database) -> None:
    """Whether it was is unknown to the caller, as after every outage; nothing is torn in between."""
    has_waited = asyncio.Event()

    async def dawdle(tx: Tx) -> None:
        await put(tx, "one")
        await has_waited.wait()
        await put(tx, "two")

    with a_call(seconds=0.5), pytest.raises(DatabaseUnavailable):
        await db.write(dawdle)
    has_waited.set()

    async def are_there() -> bool:
        return await names(db) == ["one", "two"]

    await eventually(are_there)


async def test_who_waits_for_a_hash_too_long_is_refused(anyio_backend: str) -> None:
    hasher = SlowHasher(rounds=11, threads=1)
    queue = [asyncio.create_task(hasher.hash(b"digest")) for _ in range(60)]
    await asyncio.sleep(0)
    started = time.monotonic()
    with a_call(seconds=0.5), pytest.raises(HashingBusy):
        await hasher.hash(b"digest")
    # The queue takes ten times as long.
    assert time.monotonic() - started < 3
    for task in queue:
        task.cancel()


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_another_program_that_holds_the_file_keeps_nobody_waiting_for_long(
    db: Database, settings: Settings
) -> None:
    """SQLite's own patience would add up: one writer after the other."""
    await db.write(lambda tx: put(tx, "before"))
    engine = sqlite_engine(settings.sqlite_path)
    with closing(engine.connect()) as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        started = time.monotonic()
        writes = [db.write(lambda tx: put(tx, "no"), timeout_seconds=1.5) for _ in range(8)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert time.monotonic() - started < 8
        assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 8
        assert await names(db) == ["before"]
        holder.exec_driver_sql("ROLLBACK")
    await db.write(lambda tx: put(tx, "next"))
    assert await names(db) == ["before", "next"]


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_statements_without_an_end_keep_no_reader_waiting(db: Database) -> None:
    endless = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000000)"
        " SELECT count(*) FROM n"
    )
    reads = [db.read(lambda tx: tx.execute(endless), timeout_seconds=0.2) for _ in range(20)]
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 20
    # No thread is busy with them any more.
    assert await names(db) == []
