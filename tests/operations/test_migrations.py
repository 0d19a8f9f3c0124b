"""Migrations carry the rows of every released schema over, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from app.features.updates.log import Head, lock_scopes, read_heads
from app.features.updates.read import read_log
from app.infra.database.database import Database, open_database
from app.infra.database.migrate import migrate
from app.infra.database.tx import Tx
from app.kernel.clock import SystemClock
from app.kernel.ids import ChatId
from app.kernel.scopes import chat_scope
from app.settings import Settings
from tests.support.databases import settings_for
from tests.support.postgres import Postgres
from tests.support.servers import ROOT

pytestmark = pytest.mark.anyio
CHAT = chat_scope(ChatId(7))


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, directory: Path) -> Iterator[Settings]:
    """Of a database without a schema."""
    if request.param == "sqlite":
        yield settings_for(directory)
        return
    cluster: Postgres = request.getfixturevalue("postgres")
    url = cluster.create_database()
    yield settings_for(directory, url=url)
    cluster.drop_database(url)


@pytest.fixture
async def db(settings: Settings, anyio_backend: str) -> AsyncIterator[Database]:
    del anyio_backend
    database = open_database(settings, SystemClock())
    yield database
    await database.close()


async def upgrade(settings: Settings, revision: str) -> None:
    config = Config(ROOT / "alembic.ini", attributes={"settings": settings})
    await asyncio.to_thread(command.upgrade, config, revision)


async def test_a_log_of_the_first_schema_goes_on_under_the_newest(
    settings: Settings, db: Database
) -> None:
    async def write_old(tx: Tx) -> None:
        await tx.execute(text("INSERT INTO scopes (kind, id, seq) VALUES (1, 7, 2), (2, 9, 0)"))
        await tx.execute(
            text(
                "INSERT INTO updates (kind, scope_id, seq, type, created_at) "
                "VALUES (1, 7, 1, 'new_message', 1000), (1, 7, 2, 'new_message', 1000)"
            )
        )

    async def write_new(tx: Tx) -> None:
        log = await lock_scopes(tx, [CHAT])
        log.count_removal(CHAT)
        log.append(CHAT, "new_message", subject_id=5)

    await upgrade(settings, "0001")
    await db.write(write_old)
    await migrate(settings)
    await db.write(write_new)
    assert await db.read(lambda tx: read_heads(tx, [CHAT])) == {CHAT: Head(3, 1)}
    rows = await db.read(lambda tx: read_log(tx, {CHAT: (0, 9)}, limit=9))
    assert [row.seq for row in rows] == [1, 2, 3]
