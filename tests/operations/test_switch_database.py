"""`scripts/switch_to_sqlite.py`: edits only its own lines, and carries every row over."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.audit import read_events
from tests.support.people import Backend, Deployment, Person
from tests.support.postgres import Postgres
from tests.support.servers import ROOT, Server

pytestmark = pytest.mark.anyio
SCRIPT = ROOT / "scripts" / "switch_to_sqlite.py"
BEFORE = """\
# my notes stay
HOST=127.0.0.1
DATABASE_TYPE=sqlite
 # indented comment
USE_REDIS=false

LOG_LEVEL=INFO
"""


def switch(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )


def test_switching_edits_only_its_own_lines_and_keeps_a_backup(directory: Path) -> None:
    env = directory / ".env"
    env.write_text(BEFORE)
    url = "postgresql://me:secret@db.internal:5433/chat"
    assert switch(directory, "postgresql", "--url", url).returncode == 0
    there = BEFORE.replace("sqlite", "postgresql").replace("USE_REDIS=false", "USE_REDIS=true")
    assert env.read_text() == f"{there}DATABASE_URL={url}\n"
    assert (directory / ".env.backup").read_text() == BEFORE
    assert switch(directory, "sqlite").returncode == 0
    assert env.read_text() == f"{BEFORE}# DATABASE_URL={url}\n"
    assert switch(directory, "postgresql").returncode == 0
    assert f"\nDATABASE_URL={url}\n" in env.read_text()


def test_status_shows_what_is_in_force_without_the_password(directory: Path) -> None:
    (directory / ".env").write_text(BEFORE)
    switch(directory, "postgresql", "--url", "postgresql://me:s3cret@db.internal:5433/chat")
    shown = switch(directory, "status")
    assert "DATABASE_TYPE=postgresql" in shown.stdout
    assert "db.internal:5433/chat as me" in shown.stdout
    assert "s3cret" not in shown.stdout + shown.stderr


def test_a_wrong_configuration_changes_nothing(directory: Path) -> None:
    (directory / ".env").write_text("PORT=none\n")
    refused = switch(directory, "postgresql")
    assert refused.returncode == 1
    assert "PORT" in refused.stdout
    assert (directory / ".env").read_text() == "PORT=none\n"


async def test_all_rows_are_carried_there_and_back(
    directory: Path, postgres: Postgres, redis_url: str
) -> None:
    """The very people go on with their tokens, chats and messages; ids go on growing."""
    url = await asyncio.to_thread(postgres.create_database)
    server = await asyncio.to_thread(installation, directory, redis_url)
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server], {}), stack)
        alice, bob = await backend.people(2)
        chat = await alice.private_chat(bob)
        file = await alice.upload(b"it stays where it lies", name="file.txt")
        sent = [await alice.say(chat, f"hello {number}") for number in range(30)]
        await alice.delete(f"/messages/{sent[-1]['id']}", for_everyone=True)
        running = await asyncio.to_thread(
            switch, directory, "postgresql", "--url", url, "--copy-data"
        )
        assert running.returncode == 1, "the server still writes to SQLite"
        epoch = await epoch_of(alice)
        await asyncio.to_thread(server.stop)

        copied = await asyncio.to_thread(
            switch, directory, "postgresql", "--url", url, "--copy-data"
        )
        assert copied.returncode == 0, copied.stdout + copied.stderr
        await asyncio.to_thread(server.start)
        assert [m["text"] for m in await alice.history(chat)] == [
            f"hello {number}" for number in reversed(range(29))
        ]
        assert await epoch_of(alice) != epoch
        assert (await alice.download(file)).content == b"it stays where it lies"
        assert (await bob.say(chat, "on PostgreSQL"))["id"] > sent[-1]["id"]
        await asyncio.to_thread(server.stop)

        occupied = await asyncio.to_thread(switch, directory, "sqlite", "--copy-data")
        assert occupied.returncode == 1
        assert "not empty" in occupied.stdout
        (server.var_dir / "messenger.db").rename(server.var_dir / "old.db")
        back = await asyncio.to_thread(switch, directory, "sqlite", "--copy-data")
        assert back.returncode == 0, back.stdout + back.stderr
        await asyncio.to_thread(server.start)
        # Each copy is in the record of the database that it made, and in its own turn copied on.
        acts = await read_events(backend.deployment, "--name", "admin_act")
        assert [act["details"]["act"] for act in acts].count("data_copied") == 2
        assert (await alice.download(file)).content == b"it stays where it lies"
        newest = await bob.say(chat, "back on SQLite")
        assert [m["text"] for m in await alice.history(chat, limit=2)] == [
            "back on SQLite",
            "on PostgreSQL",
        ]
        assert newest["id"] > sent[-1]["id"] + 1
        await asyncio.to_thread(server.stop)


def installation(directory: Path, redis_url: str) -> Server:
    """A started server that is configured by the `.env` of its directory, like an operator's."""
    (directory / ".env").write_text(
        f"DATABASE_TYPE=sqlite\nREDIS_URL={redis_url}\nVAR_DIR={directory}/var\nPBKDF2_ROUNDS=1000\n"
    )
    return Server(directory).start()


async def epoch_of(person: Person) -> str:
    socket = await person.connect()
    await socket.close()
    return str(socket.hello["epoch"])
