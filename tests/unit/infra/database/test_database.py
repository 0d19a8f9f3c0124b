"""The transaction at its limits: what fails is never told as done, and never harms the next one."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from app.infra.database.database import Database, open_database
from app.infra.database.errors import DatabaseUnavailable, UniqueViolation
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.kernel.announcements import Announcement
from app.kernel.clock import SystemClock
from app.kernel.ids import ChatId
from app.kernel.scopes import chat_scope
from app.settings import DatabaseSettings, Settings
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def put(db: Database, name: str) -> None:
    await db.write(lambda tx: insert_row(tx, name))


async def insert_row(tx: Tx, name: str) -> None:
    await tx.execute(insert(ServerStateRow).values(name=name, value=""))


async def names(db: Database) -> Sequence[str]:
    async def work(tx: Tx) -> Sequence[str]:
        return await tx.scalars(select(ServerStateRow.name).order_by(ServerStateRow.name))

    return await db.read(work)


async def test_a_failing_announcement_does_not_refuse_what_is_committed(db: Database) -> None:
    told: list[Announcement] = []

    def tell(announcements: Sequence[Announcement]) -> None:
        told.extend(announcements)
        raise RuntimeError("no")

    db.on_commit = tell

    async def work(tx: Tx) -> str:
        await insert_row(tx, "a")
        tx.after_commit(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        tx.announce(Announcement(chat_scope(ChatId(1)), 1))
        return "done"

    assert await db.write(work) == "done"
    assert await names(db) == ["a"]
    assert len(told) == 1


async def test_a_commit_that_fails_is_told_and_leaves_a_working_writer(db: Database) -> None:
    """A deferred constraint is judged by COMMIT itself, which then fails."""

    async def work(tx: Tx) -> None:
        await insert_row(tx, "lost")
        if tx.dialect == "sqlite":
            await tx.execute(text("PRAGMA defer_foreign_keys=ON"))
            await tx.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
            await tx.execute(text("CREATE TABLE child (id INTEGER REFERENCES parent (id))"))
        else:
            await tx.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
            await tx.execute(
                text(
                    "CREATE TABLE child (id INTEGER REFERENCES parent (id)"
                    " DEFERRABLE INITIALLY DEFERRED)"
                )
            )
        await tx.execute(text("INSERT INTO child (id) VALUES (7)"))

    with pytest.raises(DBAPIError):
        await db.write(work)
    assert await names(db) == []
    await put(db, "next")
    assert await names(db) == ["next"]


async def test_a_statement_that_failed_is_never_committed_over(db: Database) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with ROLLBACK and no error."""
    await put(db, "taken")

    async def work(tx: Tx) -> str:
        await insert_row(tx, "new")
        try:
            await insert_row(tx, "taken")
        except UniqueViolation:
            return "done"
        return "never"

    with pytest.raises(UniqueViolation):
        await db.write(work)
    assert await names(db) == ["taken"]


async def test_work_that_takes_too_long_is_rolled_back_and_frees_the_writer(db: Database) -> None:
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000)"
        " SELECT count(*) FROM n"
    )

    async def work(tx: Tx) -> None:
        await insert_row(tx, "lost")
        await tx.execute(text(slow))
        await asyncio.sleep(30)

    with pytest.raises(DatabaseUnavailable):
        await db.write(work, timeout_seconds=0.2)
    await put(db, "next")
    assert await names(db) == ["next"]


async def test_a_caller_that_goes_away_leaves_the_transaction_whole(db: Database) -> None:
    begun = asyncio.Event()

    async def work(tx: Tx) -> None:
        await insert_row(tx, "one")
        begun.set()
        await asyncio.sleep(0.1)
        await insert_row(tx, "two")

    caller = asyncio.create_task(db.write(work))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await put(db, "zero")

    async def are_there() -> bool:
        return await names(db) == ["one", "two", "zero"]

    await eventually(are_there)


async def test_closing_waits_for_what_runs_and_for_what_waits_behind_it(db: Database) -> None:
    begun, may_end = threading.Event(), threading.Event()

    async def work(tx: Tx, items: Sequence[str], *, may_wait: bool) -> Sequence[str]:
        begun.set()
        if tx.dialect == "sqlite":
            may_end.wait()  # this is the writer's thread
        else:
            await asyncio.to_thread(may_end.wait)
        for item in items:
            await insert_row(tx, item)
        return items

    sends = [asyncio.create_task(db.write_grouped(work, "first"))]
    await asyncio.to_thread(begun.wait)
    sends += [asyncio.create_task(db.write_grouped(work, name)) for name in ("second", "third")]
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    may_end.set()
    assert await asyncio.gather(*sends) == ["first", "second", "third"]
    await closing


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_a_group_that_waits_for_something_else_is_refused_and_undone(db: Database) -> None:
    """On SQLite all of it runs on the writer's thread."""
    ready = asyncio.get_running_loop().create_future()

    async def work(tx: Tx, items: Sequence[str], *, may_wait: bool) -> Sequence[str]:
        for item in items:
            await insert_row(tx, item)
        await ready
        return items

    with pytest.raises(RuntimeError, match="waits for more than its connection"):
        await db.write_grouped(work, "lost")
    await put(db, "next")
    assert await names(db) == ["next"]


async def test_closing_does_not_wait_for_ever(db: Database) -> None:
    async def work(tx: Tx) -> None:
        await insert_row(tx, "lost")
        await asyncio.sleep(30)

    stuck = asyncio.create_task(db.write(work))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(15):
        await db.close()
    with pytest.raises(asyncio.CancelledError):
        await stuck


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_connections_that_the_server_ended_cost_no_restart(
    db: Database, settings: Settings
) -> None:
    await asyncio.gather(*(names(db) for _ in range(5)))
    name = urlsplit(settings.database_url).path.removeprefix("/")
    other = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = $1 AND pid <> pg_backend_pid()",
        name,
    )
    await other.close()

    async def is_back() -> bool:
        try:
            await put(db, "back")
        except DatabaseUnavailable:
            return False
        return await names(db) == ["back"]

    await eventually(is_back)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_a_server_that_refuses_to_let_us_in_is_unavailable(
    db: Database, settings: Settings
) -> None:
    url = settings.database_url.replace("+asyncpg", "")
    gone = urlunsplit(urlsplit(url)._replace(path="/there_is_none"))
    elsewhere: Any = {"_env_file": None, "type": "postgresql", "url": gone}
    refused = open_database(
        replace(settings, database=DatabaseSettings(**elsewhere)), SystemClock()
    )
    with pytest.raises(DatabaseUnavailable):
        await names(refused)
    with pytest.raises(DatabaseUnavailable):
        await put(refused, "never")
    await refused.close()


async def test_a_name_that_somebody_holds_is_left_out(db: Database) -> None:
    if db.dialect == "sqlite":
        # Whoever writes is alone.
        assert await db.write(lambda tx: tx.try_lock_names(["a", "b"])) == {"a", "b"}
        return
    has_locked, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: Tx) -> None:
        assert await tx.try_lock_names(["a"]) == {"a"}
        has_locked.set()
        await let_go.wait()

    holding = asyncio.create_task(db.write(hold))
    await has_locked.wait()
    assert await db.write(lambda tx: tx.try_lock_names(["a", "b", "c"])) == {"b", "c"}
    assert await db.write(lambda tx: tx.try_lock_names([])) == set()
    let_go.set()
    await holding
    assert await db.write(lambda tx: tx.try_lock_names(["a"])) == {"a"}


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_a_line_hung_up_between_two_steps_of_a_statement_is_an_outage(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    introspect = asyncpg.Connection._introspect_types

    async def hang_up_first(line: Any, *arguments: Any) -> Any:
        line.terminate()
        return await introspect(line, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", hang_up_first)
    statement = text("SELECT ARRAY[CAST(1 AS BIGINT)]")
    for act in (db.read, db.write):
        with pytest.raises(DatabaseUnavailable):
            await act(lambda tx: tx.scalar(statement))
    monkeypatch.undo()
    assert await db.read(lambda tx: tx.scalar(statement)) == [1]
