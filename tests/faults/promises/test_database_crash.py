"""An acknowledged send survives a crash of the database: of SQLite with its server, and of PostgreSQL."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from app.kernel.scopes import ScopeKind
from tests.faults.promises.scale import FORKED, scaled
from tests.faults.promises.sends import Sends
from tests.support import missing
from tests.support.people import Backend, Deployment, Json
from tests.support.postgres import run_postgres_process
from tests.support.rows import read_values
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

# In quick runs other tests use the machine as well.
READY_SECONDS = scaled(quick=40.0, full=10.0)
SQLITE_KILLS = scaled(quick=1, full=200)
SQLITE_COPIES = scaled(quick=2, full=100)
POSTGRES_KILLS = scaled(quick=1, full=30)
# Tokens shall outlive the test.
_SETTINGS = {"ACCESS_TOKEN_MINUTES": "1440", "LOG_LEVEL": "WARNING"}


@pytest.fixture
async def stack(anyio_backend: str) -> AsyncIterator[AsyncExitStack]:
    del anyio_backend
    async with AsyncExitStack() as opened:
        yield opened


class Scene(NamedTuple):
    deployment: Deployment
    chat: Json
    sends: Sends


async def set_scene(deployment: Deployment, stack: AsyncExitStack) -> Scene:
    backend = Backend(deployment, stack)
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    return Scene(deployment, chat, Sends(anna, chat))


def some_time(rng: random.Random) -> float:
    """Until the next fault: long enough for sends to be under way."""
    return rng.uniform(0.1, 0.6)


async def expect_progress(sends: Sends) -> None:
    before = len(sends.acknowledged)

    async def has_moved() -> bool:
        return len(sends.acknowledged) > before

    await eventually(has_moved, timeout_seconds=READY_SECONDS, what="the next acknowledged send")


async def judge(scene: Scene) -> int:
    """No acknowledged send is lost, none is in twice, no number is missing; answers how many there are."""
    read = scene.deployment
    stored = await read_values(
        read,
        "SELECT client_message_id || ' ' || id FROM messages WHERE client_message_id IS NOT NULL",
    )
    seqs = await read_values(
        read,
        f"SELECT seq FROM updates WHERE kind = {int(ScopeKind.CHAT)}"
        f" AND scope_id = {scene.chat['id']} ORDER BY seq",
    )
    told = await read_values(read, "SELECT subject_id FROM updates WHERE type = 'new_message'")
    check(scene.sends.acknowledged, [str(value) for value in stored])
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(told) == len(set(told)) == len(stored)
    assert scene.sends.refused == []
    return len(scene.sends.acknowledged)


def check(acknowledged: dict[str, int], stored: Sequence[str]) -> None:
    """`stored`: client id and message id of each row."""
    rows = dict(row.split() for row in stored)
    assert len(rows) == len(stored), "a send is in twice"
    lost = {key for key, message_id in acknowledged.items() if rows.get(key) != str(message_id)}
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged sends are lost"


async def test_sqlite_keeps_what_it_acknowledged_when_its_server_is_killed(
    directory: Path, stack: AsyncExitStack
) -> None:
    server = Server(directory, _SETTINGS, forked=FORKED)
    stack.callback(server.kill)
    server.start()
    file = server.var_dir / "messenger.db"
    scene = await set_scene(Deployment("sqlite", [server], {"sqlite_file": str(file)}), stack)
    rng = random.Random(2)
    slowest = 0.0
    async with scene.sends as sends:
        for number in range(SQLITE_COPIES):
            await asyncio.sleep(some_time(rng) / 2)
            await judge_copy(server, directory / f"copy{number}", sends)
        for _ in range(SQLITE_KILLS):
            await expect_progress(sends)
            await asyncio.sleep(some_time(rng))
            server.kill()
            started = time.monotonic()
            await asyncio.to_thread(server.start)
            slowest = max(slowest, time.monotonic() - started)
        await expect_progress(sends)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    count = await judge(scene)
    assert slowest <= READY_SECONDS
    print(
        f"SQLite: {SQLITE_KILLS} kills, {SQLITE_COPIES} crash copies, {count} sends acknowledged,"
        f" {len(sends.unknown)} unknown, 0 lost, ready after {slowest:.1f} s at most"
    )
    server.stop()
    assert server.faults() == []


async def judge_copy(server: Server, copy: Path, sends: Sends) -> None:
    """The files as a power failure would leave them at this moment hold all that was acknowledged."""
    process = psutil.Process(server.pid)
    acknowledged = dict(sends.acknowledged)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: has_stopped(process), what="the stop of the server")
        await asyncio.to_thread(copy_database, server.var_dir, copy)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    with closing(sqlite3.connect(copy / "messenger.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT client_message_id || ' ' || id FROM messages WHERE client_message_id IS NOT NULL"
        check(acknowledged, [row[0] for row in database.execute(query)])
    shutil.rmtree(copy)


def copy_database(source: Path, copy: Path) -> None:
    copy.mkdir()
    for file in source.glob("messenger.db*"):
        shutil.copy(file, copy / file.name)


async def has_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


async def test_postgresql_keeps_what_it_acknowledged_when_it_is_killed(
    directory: Path, stack: AsyncExitStack
) -> None:
    try:
        postgres = stack.enter_context(run_postgres_process(durable=True))
    except missing.Missing as reason:
        missing.skip("PostgreSQL as a process", str(reason))
    settings = {"DATABASE_TYPE": "postgresql", "DATABASE_URL": postgres.url}
    server = stack.enter_context(Server(directory, _SETTINGS | settings, forked=FORKED))
    details = {"database_url": postgres.url}
    scene = await set_scene(Deployment("postgresql", [server], details), stack)
    rng = random.Random(3)
    slowest = 0.0
    async with scene.sends as sends:
        for _ in range(POSTGRES_KILLS):
            await expect_progress(sends)
            await asyncio.sleep(some_time(rng))
            postgres.kill()
            await asyncio.sleep(some_time(rng))
            started = time.monotonic()
            await asyncio.to_thread(postgres.start)
            await eventually(
                readiness_of(server), timeout_seconds=READY_SECONDS, what="the readiness"
            )
            slowest = max(slowest, time.monotonic() - started)
        await expect_progress(sends)
    count = await judge(scene)
    print(
        f"PostgreSQL: {POSTGRES_KILLS} kills, {count} sends acknowledged, {len(sends.unknown)} unknown,"
        f" 0 lost, ready after {slowest:.1f} s at most"
    )
    server.stop()
    assert server.faults() == []


def readiness_of(server: Server) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
            return (await client.get("/health/ready")).status_code == httpx.codes.OK

    return is_ready
