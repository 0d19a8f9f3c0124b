"""Stores: a change and its place in the log are kept together or not at all, whatever dies."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from messenger_client import (
    Forgotten,
    MemoryStore,
    Outgoing,
    Position,
    Reset,
    SqliteStore,
    Store,
    Tokens,
    Update,
    Voided,
)

from tests.support.servers import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
KILLS = 5


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "device.db")


async def test_a_position_moves_with_its_changes(store: Store) -> None:
    created = {"chat": {"id": 7, "seq": 4}}
    await store.apply([Voided("first"), Reset("user", 3), Reset("chat:1", 0)])
    await store.apply([Update("new_message", "chat:1", 1, {}), Forgotten("chat:1")])
    await store.apply([Update("chat_created", "user", 4, created)])
    assert await store.load() == Position("first", {"user": 4, "chat:7": 4})
    await store.apply([Voided("second"), Reset("user", 1)])
    assert await store.load() == Position("second", {"user": 1})
    await store.close()


async def test_tokens_and_outbox_are_kept(store: Store) -> None:
    tokens = Tokens("access", "refresh", 12.5)
    await store.save_tokens(tokens)
    sends = [Outgoing(f"{n}", {"chat_id": 1, "text": f"{n}"}) for n in (2, 1, 3)]
    for send in sends:
        await store.put_outgoing(send)
    await store.put_outgoing(Outgoing("1", {"chat_id": 9, "text": "other"}))
    await store.remove_outgoing("2")
    assert await store.load_tokens() == tokens
    assert await store.list_outgoing() == sends[1:]
    await store.save_tokens(None)
    assert await store.load_tokens() is None
    await store.close()


async def test_what_the_app_refuses_is_not_applied(tmp_path: Path) -> None:
    def refuse(connection: sqlite3.Connection, change: object) -> None:
        raise ZeroDivisionError

    store = SqliteStore(tmp_path / "device.db", refuse)
    with pytest.raises(ZeroDivisionError):
        await store.apply([Reset("user", 3)])
    assert (await store.load()).cursors == {}
    await store.close()


async def test_a_killed_device_has_lost_and_doubled_nothing(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    command = [sys.executable, "-m", "tests.clients.python.crashing_device", str(path)]
    source = str(ROOT / "clients/python/src")
    for kill in range(1, KILLS + 1):
        environment = {**os.environ, "PYTHONPATH": source}
        process = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: ASYNC220 - to be killed
        try:
            await eventually(lambda least=kill * 60: has_applied(path, least), timeout_seconds=20)
        finally:
            process.kill()
            process.wait()
        seqs, cursor = read(path)
        assert seqs == list(range(1, cursor + 1))


async def has_applied(path: Path, least: int) -> bool:
    return read(path)[1] >= least


def read(path: Path) -> tuple[list[int], int]:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        try:
            seqs = [seq for (seq,) in database.execute("SELECT seq FROM notes ORDER BY rowid")]
            [(cursor,)] = database.execute("SELECT seq FROM client_cursors")
        except (sqlite3.OperationalError, ValueError):
            return [], 0
        return seqs, cursor
