"""Work that nobody waits for: it outlasts what a call may take, and takes nobody's turn for long."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, text

from app.features.audit.chain import append_queued
from app.features.audit.models import AuditEventRow
from app.features.audit.prune import prune_events
from app.features.audit.record import record
from app.features.audit.verify import verify_chain
from app.features.audit.write import event_writer
from app.features.auth.jobs import forget_codes, forget_tries
from app.features.auth.models import PasswordTokenRow
from app.features.chats.tell_counts import tell_due_counts
from app.features.sessions.jobs import prune
from app.features.sessions.models import RefreshTokenRow
from app.features.updates.prune import prune_updates
from app.infra.cipher.places import list_places
from app.infra.cipher.rewrite import is_other_form, rewrite
from app.infra.database.database import LONG_SECONDS
from app.infra.database.engines import sqlite_engine
from app.infra.database.prune import BATCH
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from tests.unit.features.conftest import World

pytestmark = pytest.mark.anyio

# Longer than SQLite's own patience and than a transaction of a call.
_LOCKED_SECONDS = 4.6


@pytest.fixture(autouse=True)
def writer(world: World) -> None:
    world.db.write_events = event_writer(world.keyring)


@contextmanager
def statements(world: World) -> Iterator[list[str]]:
    """Those that write, as they run."""
    connections: Any = world.db.connections
    engine = getattr(connections.engine, "sync_engine", connections.engine)
    found: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def record_things(world: World, count: int) -> None:
    async def work(tx: Tx) -> None:
        for number in range(count):
            record(tx, SecurityEvent("thing_done", details={"number": number}))

    await world.db.write(work, timeout_seconds=LONG_SECONDS)
    while await world.db.write(
        lambda tx: append_queued(tx, world.keyring), timeout_seconds=LONG_SECONDS
    ):
        pass


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_it_waits_for_a_turn_longer_than_a_call_may(world: World) -> None:
    """A copy of the file, or another job, holds the lock for some seconds: no job gives up for that."""
    await world.open(await world.new_user())
    await record_things(world, 3)
    world.clock.advance(days=400)
    db, done = world.db, dict[str, bool]()
    place = next(place for place in list_places() if place.table.name == "users")
    condition = is_other_form(place, encrypt=False)
    jobs: dict[str, Callable[[], Awaitable[object]]] = {
        "prune_events": lambda: prune_events(db, retention=timedelta(days=1)),
        "prune_sessions": lambda: prune(db),
        "forget_codes": lambda: forget_codes(db),
        "forget_tries": lambda: forget_tries(db),
        "tell_due_counts": lambda: tell_due_counts(db),
        "prune_updates": lambda: prune_updates(db, before=world.clock.now()),
        "activity": lambda: world.activity.flush(db, world.clock.now()),
        "rewrite": lambda: rewrite(db, world.keyring, place, condition, on_progress=lambda _: None),
    }

    async def run(name: str) -> None:
        await jobs[name]()
        done[name] = True

    engine = sqlite_engine(world.settings.sqlite_path)
    with closing(engine.connect()) as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        working = asyncio.gather(*(run(name) for name in jobs))
        await asyncio.sleep(_LOCKED_SECONDS)
        holder.exec_driver_sql("ROLLBACK")
    await working
    assert done.keys() == jobs.keys()
    await db.write(lambda tx: append_queued(tx, world.keyring))
    assert (await verify_chain(db, world.keyring)).faults == []


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_its_statements_have_as_long_as_its_transaction(world: World) -> None:
    """What a connection allows to others stays as it was."""

    async def allowed(tx: Tx) -> str:
        return str(await tx.scalar(text("SHOW statement_timeout")))  # type: ignore[arg-type]

    for run in (world.db.write, world.db.read):
        assert await run(allowed) == "15s"
        assert await run(allowed, timeout_seconds=120) in {"2min", "119s"}
        assert await run(allowed) == "15s"


async def test_much_that_is_over_goes_in_small_transactions(world: World) -> None:
    user_id = await world.new_user()
    rows = [
        {
            "hash": number.to_bytes(32, "big"),
            "user_id": user_id,
            "attempts": 0,
            "created_at": world.clock.now(),
            "expires_at": world.clock.now(),
        }
        for number in range(BATCH + 200)
    ]
    await world.db.write(lambda tx: tx.execute(insert(PasswordTokenRow), rows))
    world.clock.advance(seconds=1)
    with statements(world) as found:
        await forget_tries(world.db)
    deletions = [it for it in found if it.startswith("DELETE FROM password_tokens")]
    assert len(deletions) == 3  # the last finds nothing
    count = select(func.count()).select_from(PasswordTokenRow)
    assert await world.db.read(lambda tx: tx.scalar(count)) == 0


async def test_years_of_events_are_forgotten_step_by_step(world: World) -> None:
    await record_things(world, 5_300)
    world.clock.advance(days=2)
    await record_things(world, 2)
    await prune_events(world.db, retention=timedelta(days=1))
    while await world.db.write(lambda tx: append_queued(tx, world.keyring)):
        pass
    names = select(AuditEventRow.name).order_by(AuditEventRow.seq)
    left = await world.db.read(lambda tx: tx.scalars(names))
    assert left == ["thing_done"] * 2 + ["audit_pruned"] * 2
    assert (await verify_chain(world.db, world.keyring)).faults == []


async def test_successors_are_emptied_once_nobody_may_ask_for_them(world: World) -> None:
    opened = await world.open(await world.new_user())
    second = await world.refresh(opened.refresh_token)
    kept = select(func.count()).where(RefreshTokenRow.successor.is_not(None))

    async def count() -> int:
        await prune(world.db)
        return await world.db.read(lambda tx: tx.scalar(kept)) or 0

    assert await count() == 1
    world.clock.advance(seconds=31)
    assert await count() == 0
    await world.refresh(second.refresh_token)
    world.clock.advance(hours=20)
    assert await count() == 0


async def test_what_is_rewritten_keeps_nobody_from_writing_while_it_is_looked_for(
    world: World,
) -> None:
    """A look through millions of rows is no part of a transaction that writes."""
    await world.new_user()
    place = next(place for place in list_places() if place.column.name == "first_name")
    looking, may_end = asyncio.Event(), asyncio.Event()
    read = world.db.read

    async def read_slowly(work: Any, **options: Any) -> Any:
        looking.set()
        await may_end.wait()
        return await read(work, **options)

    world.db.read = read_slowly  # type: ignore[method-assign]
    condition = is_other_form(place, encrypt=False)
    rewriting = asyncio.create_task(
        rewrite(world.db, world.keyring, place, condition, on_progress=lambda _: None)
    )
    await looking.wait()
    await world.new_user("+447400123457")
    may_end.set()
    done = await rewriting
    assert (done.rewritten, done.invalid) == (2, 0)
