"""PostgreSQL without Redis serves one process, also when the session that holds the lock was lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from app.infra.database import process_lock
from app.infra.database.process_lock import ProcessLock, SecondProcessError
from app.settings import Settings
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("settings", ["postgresql"], indirect=True),
]
KEY = process_lock._ADVISORY_KEY


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lock, "_CHECK_SECONDS", 0.3)
    monkeypatch.setattr(process_lock, "_RETRY_SECONDS", 0.05)


@asynccontextmanager
async def session(settings: Settings, name: str = "other") -> AsyncIterator[asyncpg.Connection]:
    url = settings.database_url.replace("postgresql+asyncpg", "postgresql")
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


async def holder(connection: asyncpg.Connection) -> asyncpg.Record | None:
    return await connection.fetchrow(
        "SELECT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND granted AND objid = $1 AND datname = current_database()",
        KEY,
    )


async def end_holder(connection: asyncpg.Connection) -> str:
    """As a restart of PostgreSQL does it; the name of the session that held the lock."""
    held = await holder(connection)
    assert held is not None
    await connection.execute("SELECT pg_terminate_backend($1)", held["pid"])

    async def is_free() -> bool:
        now = await holder(connection)
        return now is None or now["pid"] != held["pid"]

    await eventually(is_free)
    return held["application_name"]


async def test_a_lost_lock_is_taken_again_and_keeps_others_out(settings: Settings) -> None:
    lost: list[int] = []
    async with (
        session(settings) as other,
        ProcessLock(settings, on_lost=lambda: lost.append(1)),
    ):
        for _ in range(2):
            name = await end_holder(other)

            async def is_taken_again(name: str = name) -> bool:
                held = await holder(other)
                return held is not None and held["application_name"] == name

            await eventually(is_taken_again)
            with pytest.raises(SecondProcessError):
                async with ProcessLock(settings):
                    pass
        assert lost == []
    async with ProcessLock(settings):
        pass


async def test_a_server_whose_lock_another_process_took_is_told_to_stop(settings: Settings) -> None:
    lost: list[int] = []
    async with session(settings) as other:
        async with ProcessLock(settings, on_lost=lambda: lost.append(1)):
            held = await holder(other)
            # Behind the one that holds it, so that the watcher cannot be faster.
            waiting = asyncio.create_task(other.execute(f"SELECT pg_advisory_lock({KEY})"))
            async with session(settings) as third:
                await third.execute("SELECT pg_terminate_backend($1)", held["pid"])
            await waiting

            async def is_told() -> bool:
                return bool(lost)

            await eventually(is_told)
        assert lost == [1]


async def test_a_session_of_its_own_that_the_database_still_counts_is_ended(
    settings: Settings,
) -> None:
    lost: list[int] = []
    async with session(settings) as other, ProcessLock(settings, on_lost=lambda: lost.append(1)):
        first = await holder(other)
        # What a cut line leaves: a session under the server's own name that still holds the lock.
        async with session(settings, first["application_name"]) as ghost:
            waiting = asyncio.create_task(ghost.execute(f"SELECT pg_advisory_lock({KEY})"))
            await other.execute("SELECT pg_terminate_backend($1)", first["pid"])
            await waiting

            async def is_taken_again() -> bool:
                held = await holder(other)
                return held is not None and ghost.is_closed()

            await eventually(is_taken_again)
        assert lost == []
