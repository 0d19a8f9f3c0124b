"""Events become rows: with their change or not at all, in one chain, a flood as a count."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import delete, select, update
from structlog.testing import capture_logs

from app.features.audit.chain import (
    CHECKPOINT_NAME,
    FORGED,
    HEAD_NAME,
    START,
    Link,
    append_queued,
    next_link,
    read_link,
    write_link,
)
from app.features.audit.jobs import JOBS, log_head
from app.features.audit.models import AuditEventRow
from app.features.audit.prune import prune_events
from app.features.audit.record import record
from app.features.audit.sink import MAX_SOURCES, MAX_WAITING, AuditSink
from app.features.audit.verify import verify_chain
from app.features.audit.write import event_writer
from app.infra.database.database import open_database
from app.infra.database.tx import Tx
from app.infra.logging.context import begin_log_context
from app.infra.services import Services
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.settings import DatabaseSettings, Settings
from tests.unit.features.conftest import World

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def writer(world: World) -> None:
    world.db.write_events = event_writer(world.keyring)


async def rows(world: World) -> list:
    return list(
        await world.db.read(
            lambda tx: tx.all(select(*AuditEventRow.__table__.columns).order_by(AuditEventRow.id))
        )
    )


async def test_an_event_is_committed_with_its_change_or_not_at_all(world: World) -> None:
    async def fail(tx: Tx) -> None:
        record(tx, SecurityEvent("signed_in"))
        raise RuntimeError

    async def succeed(tx: Tx) -> None:
        record(tx, SecurityEvent("signed_out"))

    with pytest.raises(RuntimeError):
        await world.db.write(fail)
    await world.db.write(succeed)
    assert [row.name for row in await rows(world)] == ["signed_out"]


async def test_rows_are_chained_in_order_by_one_at_a_time(world: World) -> None:
    await world.db.write(lambda tx: queue_things(tx, 30))
    counts = await asyncio.gather(
        *(world.db.write(lambda tx: append_queued(tx, world.keyring)) for _ in range(5))
    )
    assert sum(counts) == 30
    last = START
    for row in await rows(world):
        last = next_link(last, row)
        assert (row.seq, row.hash) == (last.seq, last.hash)
    assert await world.db.read(lambda tx: read_link(tx, HEAD_NAME)) == last
    assert last.seq == 30


async def test_what_is_personal_is_stored_sealed(world: World) -> None:
    user_id = await world.new_user()
    begin_log_context("abc", address="203.0.113.77")

    async def queue(tx: Tx) -> None:
        record(tx, SecurityEvent("signed_in", user_id, personal={"device_name": "Laptop"}))
        record(tx, SecurityEvent("thing_refused", subject="4711"))

    await world.db.write(queue)
    first, second = await rows(world)
    assert first.request_id == "abc"
    for row in (first, second):
        stored = repr(tuple(row)).encode() + row.personal
        for word in (b"203.0.113.77", b"Laptop", b"4711"):
            assert word not in stored


async def test_a_flood_of_one_source_is_one_row_a_minute(world: World) -> None:
    now = [1000.0]
    sink = AuditSink(world.clock, monotonic=lambda: now[0])
    begin_log_context("abc", address="203.0.113.77")
    sink.record(SecurityEvent("rate_limited", details={"route": "/a", "code": "x"}))
    await sink.flush(world.db, world.keyring)
    for minute in range(1, 4):
        for number in range(1000):
            sink.record(SecurityEvent("rate_limited", details={"route": f"/{number}", "code": "x"}))
            if number % 100 == 99:
                await sink.flush(world.db, world.keyring)
        now[0] = 1000.0 + 60 * minute
        await sink.flush(world.db, world.keyring)
    counts = [row.count for row in await rows(world)]
    assert counts == [1, 100, 900, 1000, 1000]
    assert (await rows(world))[-1].details == '{"code":"x"}'


async def test_a_flood_of_ever_new_sources_is_bounded(world: World) -> None:
    sink = AuditSink(world.clock, max_sources=10)
    for number in range(300):
        begin_log_context("abc", address=f"203.0.{number // 250}.{number % 250}")
        sink.record(SecurityEvent("token_refused"))
    await sink.close(world.db, world.keyring)
    found = await rows(world)
    assert len(found) == 11
    assert sum(row.count for row in found) == 300


async def test_retention_deletes_the_old_end_and_the_chain_goes_on(world: World) -> None:
    for _ in range(3):
        await world.db.write(lambda tx: queue_things(tx, 1))
        await world.db.write(lambda tx: append_queued(tx, world.keyring))
        world.clock.advance(days=1)
    first = (await rows(world))[0]
    await prune_events(world.db, retention=timedelta(days=1, hours=1))
    await world.db.write(lambda tx: append_queued(tx, world.keyring))
    verdict = await verify_chain(world.db, world.keyring, kept_head=first.hash.hex())
    assert len(verdict.faults) == 1, "a head that is gone cannot be held against the chain"
    assert [row.name for row in await rows(world)] == ["thing_done", "audit_pruned"]
    assert (await verify_chain(world.db, world.keyring)).faults == []
    await prune_events(world.db, retention=timedelta(days=1, hours=1))
    assert len(await rows(world)) == 2


async def test_a_checkpoint_that_somebody_made_up_is_found_out(world: World) -> None:
    await world.db.write(lambda tx: queue_things(tx, 5))
    await world.db.write(lambda tx: append_queued(tx, world.keyring))
    third = (await rows(world))[2]

    async def cut(tx: Tx) -> None:
        await tx.execute(delete(AuditEventRow).where(AuditEventRow.seq <= 3))
        await write_link(tx, CHECKPOINT_NAME, Link(3, third.hash))

    await world.db.write(cut)
    (fault,) = (await verify_chain(world.db, world.keyring)).faults
    assert "no row of the chain says" in fault


async def test_what_a_record_cannot_take_is_counted_in_it(world: World, settings: Settings) -> None:
    away = DatabaseSettings(_env_file=None, type="postgresql", url="postgresql://u:p@127.0.0.1:9/n")  # type: ignore[arg-type]
    gone = open_database(replace(settings, database=away), world.clock)
    now = [1000.0]
    sink = AuditSink(world.clock, monotonic=lambda: now[0])
    for _ in range(MAX_WAITING // MAX_SOURCES + 1):
        for number in range(MAX_SOURCES):
            sink.record(
                SecurityEvent("token_refused", address=f"10.0.{number // 250}.{number % 250}")
            )
        now[0] += 60
        await sink.flush(gone, world.keyring)
    await gone.close()
    await sink.flush(world.db, world.keyring)
    await sink.flush(world.db, world.keyring)
    found = await rows(world)
    assert sum(row.count for row in found if row.name == "token_refused") == MAX_WAITING
    dropped = [row.count for row in found if row.name == "audit_events_dropped"]
    assert dropped == [MAX_SOURCES]


async def test_a_stop_without_a_database_says_what_is_lost(
    world: World, settings: Settings
) -> None:
    away = DatabaseSettings(_env_file=None, type="postgresql", url="postgresql://u:p@127.0.0.1:9/n")  # type: ignore[arg-type]
    gone = open_database(replace(settings, database=away), world.clock)
    sink = AuditSink(world.clock)
    for _ in range(3):
        sink.record(SecurityEvent("token_refused"))
    with capture_logs() as lines:
        assert not await sink.close(gone, world.keyring)
    await gone.close()
    told = [(line["event"], line["count"]) for line in lines if "count" in line]
    assert told == [("audit_events_dropped", 3)]


async def test_the_head_is_told_every_hour(world: World) -> None:
    (job,) = [job for job in JOBS if job.run is log_head]
    assert job.every == timedelta(hours=1)
    services = cast("Services", SimpleNamespace(db=world.db))
    with capture_logs() as lines:
        await job.run(services)
    assert lines == [], "an empty chain has no head"
    await world.db.write(lambda tx: queue_things(tx, 3))
    await world.db.write(lambda tx: append_queued(tx, world.keyring))
    last = (await rows(world))[-1]
    with capture_logs() as lines:
        await job.run(services)
    told = [(line["event"], line["head"]) for line in lines]
    assert told == [("audit_head", f"3:{last.hash.hex()}")]


async def queue_things(tx: Tx, count: int) -> None:
    for number in range(count):
        record(tx, SecurityEvent("thing_done", details={"number": number}))


async def test_accounts_and_events_are_counted_apart(world: World) -> None:
    sink = AuditSink(world.clock)
    begin_log_context("abc", address="203.0.113.77")
    for user_id in (5, 6):
        for name in ("permission_refused", "rate_limited"):
            sink.record(SecurityEvent(name, UserId(user_id)))
            sink.record(SecurityEvent(name, UserId(user_id)))
    await sink.close(world.db, world.keyring)
    found = [(row.name, row.user_id, row.count) for row in await rows(world)]
    names = ("permission_refused", "rate_limited")
    assert found == [(name, user_id, 2) for name in names for user_id in (5, 6)]


async def test_rows_from_before_there_were_macs_are_in_order(world: World) -> None:
    """Those that are chained, and those that the older server had queued; none that comes later."""

    async def strip(tx: Tx) -> None:
        await tx.execute(update(AuditEventRow).where(AuditEventRow.seq.is_(None)).values(mac=None))

    async def queue_and_chain(count: int, *, is_stripped: bool) -> None:
        await world.db.write(lambda tx: queue_things(tx, count))
        if is_stripped:
            await world.db.write(strip)
        await world.db.write(lambda tx: append_queued(tx, world.keyring))

    await queue_and_chain(2, is_stripped=True)
    # The very first ones of a record have nothing before them.
    await world.db.write(
        lambda tx: tx.execute(delete(AuditEventRow).where(AuditEventRow.name == FORGED))
    )
    await queue_and_chain(2, is_stripped=True)
    assert FORGED not in {row.name for row in await rows(world)}
    await queue_and_chain(2, is_stripped=False)
    assert (await verify_chain(world.db, world.keyring)).faults == []
    await queue_and_chain(1, is_stripped=True)
    assert [row.name for row in await rows(world)][-1] == FORGED
    (fault,) = (await verify_chain(world.db, world.keyring)).faults
    assert "none of our servers" in fault
