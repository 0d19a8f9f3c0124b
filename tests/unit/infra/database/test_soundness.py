"""A database that is sound, or the server does not start: durable, at the right time, and there."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from app.infra.database.database import Database
from app.infra.database.soundness import list_database_faults
from app.infra.database.tx import Tx
from app.settings import Environment, ServerSettings, Settings
from tests.support.databases import SetClock, settings_for

pytestmark = pytest.mark.anyio


def in_production(settings: Settings) -> Settings:
    server = ServerSettings(_env_file=None, environment=Environment.PRODUCTION)
    return replace(settings, server=server)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_production_refuses_a_postgresql_that_may_lose_commits(
    settings: Settings, db: Database
) -> None:
    """The cluster of the tests is such a one, unless it was given by TEST_DATABASE_URL."""
    names = ("fsync", "full_page_writes")
    statement = text(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')"
    )
    values = {row[0]: row[1] for row in await db.read(lambda tx: tx.all(statement))}
    off = [f"{name}=off" for name in names if values[name] == "off"]
    faults = await list_database_faults(in_production(settings))
    begin = f"DATABASE_URL: PostgreSQL runs with {', '.join(off)} and may lose "
    assert [fault.startswith(begin) for fault in faults] == [True] * bool(off)
    assert await list_database_faults(settings) == []


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seconds", [-31, -29, 29, 31])
async def test_production_refuses_clocks_that_differ(
    settings: Settings, db: Database, seconds: int
) -> None:
    clock = SetClock()
    clock.advance(seconds=seconds)
    faults = await list_database_faults(in_production(settings), clock)
    told = [fault for fault in faults if "the clocks of PostgreSQL" in fault]
    assert len(told) == (abs(seconds) > 30)


async def test_a_database_that_is_away_is_named_without_its_password(settings: Settings) -> None:
    away = settings_for(
        settings.server.var_dir, url="postgresql://u:not-the-password@127.0.0.1:9/n"
    )
    assert await list_database_faults(away) == [
        "DATABASE_URL: the database does not answer (ConnectionRefusedError)"
    ]


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_sqlite_is_sound_by_itself(settings: Settings) -> None:
    assert await list_database_faults(in_production(settings)) == []


async def test_every_transaction_waits_for_the_disk(db: Database) -> None:
    """Whatever the database's own default is."""
    if db.dialect == "sqlite":
        assert await ask(db, "PRAGMA synchronous") == 2
        return
    name = await ask(db, "SELECT current_database()")
    setting = f'ALTER DATABASE "{name}" SET synchronous_commit'
    await db.write(lambda tx: tx.execute(text(f"{setting} = off")))
    await db.connections.engine.dispose()  # pyright: ignore[reportAttributeAccessIssue]
    assert await ask(db, "SHOW synchronous_commit") == "on"
    await db.write(lambda tx: tx.execute(text(f"{setting} TO DEFAULT")))


async def ask(db: Database, statement: str) -> object:
    async def work(tx: Tx) -> object:
        return (await tx.all(text(statement)))[0][0]

    answer = await db.write(work)
    assert await db.read(work) == answer
    return answer
