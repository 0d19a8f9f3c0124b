"""A COMMIT whose answer is lost: the caller is told that nobody knows, and nothing is announced by guess."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import insert, select

from app.infra.database.database import Database, open_database
from app.infra.database.errors import DatabaseUnavailable
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.kernel.announcements import Announcement
from app.kernel.clock import SystemClock
from app.kernel.ids import ChatId
from app.kernel.scopes import chat_scope
from app.settings import DatabaseSettings, Settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("settings", ["postgresql"], indirect=True),
]


class Line:
    """Between the server and PostgreSQL; when it is told to, it carries a COMMIT and cuts off the answer."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.is_cutting = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._address)
        is_cut = asyncio.Event()
        tasks = [
            asyncio.create_task(self._carry_there(reader, far_writer, is_cut)),
            asyncio.create_task(self._carry_back(far_reader, writer, is_cut)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, far_writer):
            end.close()

    async def _carry_there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if self.is_cutting and b"COMMIT" in data:
                is_cut.set()
            writer.write(data)

    async def _carry_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        while (data := await reader.read(65536)) and not is_cut.is_set():
            writer.write(data)


@asynccontextmanager
async def behind_a_line(settings: Settings) -> AsyncIterator[tuple[Database, Line]]:
    url = urlsplit(settings.database_url.replace("+asyncpg", ""))
    line = Line(url.hostname or "", url.port or 5432)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    host = f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    through: Any = {
        "_env_file": None,
        "type": "postgresql",
        "url": urlunsplit(url._replace(netloc=host)),
    }
    database = open_database(replace(settings, database=DatabaseSettings(**through)), SystemClock())
    try:
        yield database, line
    finally:
        await database.close()
        server.close()


async def insert_row(tx: Tx, name: str) -> None:
    await tx.execute(insert(ServerStateRow).values(name=name, value=""))
    tx.announce(Announcement(chat_scope(ChatId(1)), 1, name.encode()))


async def names(db: Database) -> Sequence[str]:
    return await db.read(lambda tx: tx.scalars(select(ServerStateRow.name)))


async def test_a_lost_answer_is_no_success_and_no_definite_failure(
    settings: Settings, db: Database
) -> None:
    told: list[bytes | None] = []
    async with behind_a_line(settings) as (far, line):
        far.on_commit = lambda announcements: told.extend(it.frame for it in announcements)
        await far.write(lambda tx: insert_row(tx, "first"))
        line.is_cutting = True
        with pytest.raises(DatabaseUnavailable):
            await far.write(lambda tx: insert_row(tx, "lost"))
        line.is_cutting = False
        assert sorted(await names(db)) == ["first", "lost"]
        await far.write(lambda tx: insert_row(tx, "next"))
        assert told == [b"first", b"next"]


async def test_every_write_of_a_group_is_told_that_the_answer_was_lost(
    settings: Settings, db: Database
) -> None:
    async def work(tx: Tx, items: Sequence[str], *, may_wait: bool) -> Sequence[str]:
        for item in items:
            await insert_row(tx, item)
        return items

    async with behind_a_line(settings) as (far, line):
        assert await far.write_grouped(work, "first") == "first"
        line.is_cutting = True
        sends = [asyncio.create_task(far.write_grouped(work, name)) for name in ("a", "b", "c")]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3
        line.is_cutting = False
        assert await far.write_grouped(work, "next") == "next"
    assert {"first", "next"} <= set(await names(db))
