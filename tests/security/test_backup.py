"""The commands of docs/operations.md as they stand there: what was deleted is unreadable in old backups of the data."""

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.infra.cipher.keyring import user_key
from tests.conftest import BACKENDS
from tests.security.operator import Operator
from tests.support import missing
from tests.support.audit import read_events, wait_for_log
from tests.support.forks import ROOT
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment
from tests.support.postgres import find_programs
from tests.support.rows import dump, read_values
from tests.support.servers import ServerFailed

pytestmark = pytest.mark.anyio

KEYS = {name: secrets.token_urlsafe(40) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
NEW_KEY = secrets.token_urlsafe(40)
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, KEYS) as made:
        yield made


def commands(title: str) -> str:
    """The block of the documentation that begins with this comment."""
    text = (ROOT / "docs" / "operations.md").read_text()
    [block] = re.findall(rf"```sh\n# {title}\n(.*?)```", text, re.DOTALL)
    return block


class Shell:
    """An operator's, with the variables that the documentation names."""

    def __init__(self, backend: Backend, directory: Path) -> None:
        self.data, self.keys = directory / "data", directory / "keys"
        self._backend = backend
        self._paths = [Path(sys.executable).parent]
        if backend.name == "postgresql":
            self._paths.append(find_programs())
        paths = os.pathsep.join([*map(str, self._paths), os.environ["PATH"]])
        tool = "sqlite3" if backend.name == "sqlite" else "pg_dump"
        if shutil.which(tool, path=paths) is None:
            missing.skip(tool, "it is not on the PATH")
        details = backend.deployment.details
        self._environment = {
            **backend.deployment.nodes[0].environment,
            "PATH": paths,
            "DB": details.get("database_url") or details["sqlite_file"],
            "DATA": str(self.data),
            "KEYS": str(self.keys),
        }

    async def run(self, what: str, **settings: str) -> None:
        ran = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euc", commands(f"{TITLES[self._backend.name]}: {what}")],
            cwd=self._backend.deployment.nodes[0].directory,
            env=self._environment | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_what_was_deleted_is_unreadable_in_an_old_backup_of_the_data(
    backend: Backend, directory: Path
) -> None:
    anna, bruno, clara = await backend.people(3)
    gone, kept = await anna.group("Gone", [bruno]), await anna.group("Kept", [bruno, clara])
    lost = await anna.say(gone, "text of the chat")
    theirs, others = await clara.say(kept, "by Clara"), await anna.say(kept, "by Anna")
    await clara.put("/users/me", {"first_name": "Claraname", "bio": "a bio"})
    shell = Shell(backend, directory)
    await shell.run("back up")
    stored_key = f"SELECT wrapped FROM keys WHERE id = '{user_key(clara.id)}'"
    [wrapped] = await read_values(backend.deployment, stored_key)
    assert isinstance(wrapped, bytes)
    assert wrapped not in shell.data.read_bytes()
    assert shell.keys.stat().st_mode & 0o077 == 0
    old_data = shell.data.read_bytes()

    await anna.delete(f"/chats/{gone['id']}", expect=204)
    await clara.delete("/users/me", expect=204)
    assert await read_values(backend.deployment, stored_key) == []
    await shell.run("back up")
    shell.data.write_bytes(old_data)
    [server] = backend.deployment.nodes
    server.stop()
    if backend.name == "sqlite":
        # Nor in a free page of the live file.
        assert not is_in_file(wrapped, backend.deployment.details["sqlite_file"])
    await shell.run("restore")
    server.start()
    await wait_for_log(backend.deployment, "admin_act", act="keys_restore")
    events = await read_events(backend.deployment, "--name", "admin_act")
    assert "keys_restore" in {event["details"]["act"] for event in events}

    # The rows are there again, and nothing of them opens.
    texts = "SELECT count(*) FROM messages WHERE body IS NOT NULL"
    [count] = await read_values(backend.deployment, texts)
    assert int(str(count)) >= 3
    answer = await bruno.call("GET", f"/messages/chat/{gone['id']}")
    assert "text of the chat" not in answer.text
    assert (await bruno.call("GET", f"/messages/{lost['id']}")).json().get("text") is None
    profile = await bruno.call("GET", f"/users/{clara.id}")
    assert "Claraname" not in profile.text
    assert "a bio" not in profile.text
    # Everything else is as it was, what was said in the chat that is left too.
    history = {item["id"]: item["text"] for item in await bruno.history(kept)}
    assert history[theirs["id"]] == "by Clara"
    assert history[others["id"]] == "by Anna"
    assert (await bruno.chat(kept))["title"] == "Kept"
    assert (await anna.get("/users/me"))["first_name"] == "Anna"
    await anna.say(kept, "after")
    assert (await backend.sign_in(bruno.phone)).id == bruno.id


def is_in_file(wanted: bytes, file: str) -> bool:
    return wanted in Path(file).read_bytes()


async def test_keys_and_data_of_two_sides_of_a_change_of_the_master_key_fit(
    backend: Backend, directory: Path
) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "before")
    shell = Shell(backend, directory)
    await shell.run("back up")
    old_data = shell.data.read_bytes()
    [server] = backend.deployment.nodes
    server.stop()
    rotate = [sys.executable, "-m", "app.admin", "keys", "rotate", "--wait", "0"]
    environment = {**server.environment, "MASTER_KEY_NEW": NEW_KEY}
    await asyncio.to_thread(subprocess.run, rotate, env=environment, check=True)
    server.environment["MASTER_KEY"] = NEW_KEY
    server.start()
    await shell.run("back up", MASTER_KEY=NEW_KEY)
    shell.data.write_bytes(old_data)
    server.stop()
    await shell.run("restore", MASTER_KEY=NEW_KEY)
    server.start()
    assert [item["text"] for item in await bruno.history(chat)] == ["before"]


async def test_data_without_its_keys_refuses_the_start_and_changes_nothing(
    backend: Backend, directory: Path
) -> None:
    await backend.people(1)
    shell = Shell(backend, directory)
    await shell.run("back up")
    [server] = backend.deployment.nodes
    server.stop()
    whole = shell.keys.read_text()
    lines = whole.splitlines(keepends=True)
    for broken in ("", "no keys\n", "".join(lines[:-1]), "".join([*lines[:2], lines[-1]])):
        shell.keys.write_text(broken)
        with pytest.raises(AssertionError, match="cut off"):
            await shell.run("restore")
    before = await dump(backend.deployment) if backend.name == "postgresql" else b""
    server.output_file.unlink(missing_ok=True)
    with pytest.raises(ServerFailed):
        server.start()
    assert "this database holds data and no keys" in server.output()
    if backend.name == "postgresql":
        assert await dump(backend.deployment) == before
    shell.keys.write_text(whole)
    await shell.run("restore")
    server.start()
    # A second time would lose what was made since.
    status, said = await Operator(server).try_to("restore", str(shell.keys))
    assert status == 1
    assert "This database has keys" in said
