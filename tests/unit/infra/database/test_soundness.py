"""What is acknowledged survives a loss of power, or the server does not start."""

import pytest
from sqlalchemy import text

from app.infra.database.database import Database
from app.infra.database.durability import require_durability
from app.infra.database.tx import Tx
from app.settings import Settings, SettingsError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
async def test_a_postgresql_that_may_lose_commits_is_refused(
    settings: Settings, db: Database
) -> None:
    """The cluster of the tests is such a one, unless it was given by TEST_DATABASE_URL."""
    names = ("fsync", "full_page_writes")
    statement = text(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')"
    )
    values = {row[0]: row[1] for row in await db.read(lambda tx: tx.all(statement))}
    off = [f"{name}=off" for name in names if values[name] == "off"]
    if not off:
        await require_durability(settings)
        return
    with pytest.raises(SettingsError) as caught:
        await require_durability(settings)
    (fault,) = caught.value.faults
    assert fault.startswith(f"DATABASE_URL: PostgreSQL runs with {', '.join(off)} and may lose ")


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_sqlite_is_durable_by_itself(settings: Settings) -> None:
    await require_durability(settings)


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
