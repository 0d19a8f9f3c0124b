"""Events become rows: with their change or not at all, in one chain, a flood as a count."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from app.features.audit.chain import (
    CHECKPOINT_NAME,
    HEAD_NAME,
    START,
    Link,
    append_queued,
    next_link,
    read_link,
    write_link,
)
from app.features.audit.models import AuditEventRow
from app.features.audit.prune import prune_events
from app.features.audit.record import record
from app.features.audit.sink import AuditSink
from app.features.audit.verify import verify_chain
from app.features.audit.write import event_writer
from app.infra.database.tx import Tx
from app.infra.logging.context import begin_log_context
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
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
    counts = await asyncio.gather(*(world.db.write(append_queued) for _ in range(5)))
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
        record(tx, SecurityEvent("sign_in_refused", subject="4711"))

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
        await world.db.write(append_queued)
        world.clock.advance(days=1)
    first = (await rows(world))[0]
    await prune_events(world.db, retention=timedelta(days=1, hours=1))
    await world.db.write(append_queued)
    verdict = await verify_chain(world.db, kept_head=first.hash.hex())
    assert len(verdict.faults) == 1, "a head that is gone cannot be held against the chain"
    assert [row.name for row in await rows(world)] == ["thing_done", "audit_pruned"]
    assert (await verify_chain(world.db)).faults == []
    await prune_events(world.db, retention=timedelta(days=1, hours=1))
    assert len(await rows(world)) == 2


async def test_a_checkpoint_that_somebody_made_up_is_found_out(world: World) -> None:
    await world.db.write(lambda tx: queue_things(tx, 5))
    await world.db.write(append_queued)
    third = (await rows(world))[2]

    async def cut(tx: Tx) -> None:
        await tx.execute(delete(AuditEventRow).where(AuditEventRow.seq <= 3))
        await write_link(tx, CHECKPOINT_NAME, Link(3, third.hash))

    await world.db.write(cut)
    (fault,) = (await verify_chain(world.db)).faults
    assert "no row of the chain says" in fault


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
    assert [(row.user_id, row.count) for row in await rows(world)] == [(5, 2)] * 2 + [(6, 2)] * 2
