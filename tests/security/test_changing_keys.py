"""Keys are changed beside the running server, and no kill at any moment loses anything."""

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.security.operator import Operator
from tests.security.test_ciphertext import Row, expect_event, literal, texts_of
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Json, Person, new_id
from tests.support.rows import change_rows, dump, read_rows, read_values
from tests.support.servers import Server, ServerFailed
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

OLD = {name: secrets.token_urlsafe(40) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
NEW_KEY = secrets.token_urlsafe(40)


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, OLD) as made:
        yield made


def server_of(backend: Backend) -> Server:
    return backend.deployment.nodes[0]


def restart(backend: Backend, **settings: str) -> None:
    server = server_of(backend)
    server.stop()
    server.environment.update(settings)
    server.start()


def refusal(backend: Backend, **settings: str) -> str:
    """What a stopped server says that must not start with these settings."""
    server = server_of(backend)
    before = dict(server.environment)
    server.environment.update(settings)
    server.output_file.unlink(missing_ok=True)
    with pytest.raises(ServerFailed):
        server.start()
    server.environment.clear()
    server.environment.update(before)
    return server.output()


def once(backend: Backend, query: str, *, least: int = 1) -> Callable[[], Awaitable[bool]]:
    """For `run_and_kill`: whether this SELECT of a number has come so far."""

    async def has_come() -> bool:
        [found] = await read_values(backend.deployment, query)
        return int(str(found)) >= least

    return has_come


REWRAPPED = "SELECT count(*) FROM keys WHERE kek_version = 2"
ROTATION_BEGUN = "SELECT count(*) FROM server_state WHERE name = 'master_key_next'"


async def add_keys(backend: Backend, count: int) -> None:
    """Damaged ones: they are counted like all others, and hold nothing up."""
    series = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        " SELECT 'chat:' || (900000000 + i), 1, 1, {blob} FROM n"
    )
    blob = "X'00'" if backend.name == "sqlite" else "'\\x00'::bytea"
    select = series.format(count=count, blob=blob)
    await change_rows(
        backend.deployment, f"INSERT INTO keys (id, version, kek_version, wrapped) {select}"
    )


async def test_the_master_key_changes_under_load_and_survives_kills(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    before = await anna.say(chat, "before")
    old_file = await anna.upload(b"sealed before", name="before.txt")
    await add_keys(backend, 3000)
    operator, settings = Operator(server_of(backend)), {"MASTER_KEY_NEW": NEW_KEY}
    arguments = ("rotate", "--wait", "1.5", "--batch", "10")
    said: list[Json] = []
    files: list[Json] = []

    async def talk() -> None:
        while True:
            said.append(await anna.say(chat, f"meanwhile {len(said)}"))
            group = await bruno.group("Made meanwhile", [anna])
            said.append(await bruno.say(group, "in it"))
            files.append(await bruno.upload(os.urandom(100), name="meanwhile.txt"))
            await asyncio.sleep(0.05)

    talking = asyncio.create_task(talk())
    kills = 0
    moments = [once(backend, ROTATION_BEGUN)]
    moments += [once(backend, REWRAPPED, least=count) for count in (1, 700, 1700, 2700)]
    for moment in moments:
        killed = await operator.run_and_kill(*arguments, once=moment, settings=settings)
        assert (await anna.get(f"/messages/{before['id']}"))["text"] == "before"
        if not killed.was_at_work:
            # A fast machine: it has come to its end, and the old key opens nothing any more.
            break
        kills += 1
    else:
        await operator.run(*arguments, settings=settings)
    await anna.say(chat, "after")
    await bruno.group("Made after")
    assert not talking.done(), talking.exception()
    talking.cancel()
    assert kills > 0
    assert said
    left = "SELECT count(*) FROM keys WHERE kek_version = 1"
    assert await read_values(backend.deployment, left) == [0]
    assert server_of(backend).faults() == []
    # The running server knows the new key; it was started with the old one, which opens nothing now.
    server_of(backend).stop()
    stored = await dump(backend.deployment)
    assert "MASTER_KEY: this is not the key" in refusal(backend)
    assert await dump(backend.deployment) == stored
    restart_stopped(backend, MASTER_KEY=NEW_KEY)
    assert (await bruno.get(f"/messages/{before['id']}"))["text"] == "before"
    assert all([(await bruno.get(f"/messages/{m['id']}"))["text"] for m in said])
    assert (await anna.download(old_file)).content == b"sealed before"
    assert files
    assert all([(await bruno.download(file)).content for file in files])


def restart_stopped(backend: Backend, **settings: str) -> None:
    server = server_of(backend)
    server.environment.update(settings)
    server.start()


async def test_a_start_with_the_new_key_before_the_end_is_told_what_to_do(
    backend: Backend,
) -> None:
    await backend.people(1)
    await add_keys(backend, 20_000)
    operator, settings = Operator(server_of(backend)), {"MASTER_KEY_NEW": NEW_KEY}
    arguments = ("rotate", "--wait", "0", "--batch", "10")
    moment = once(backend, REWRAPPED)
    killed = await operator.run_and_kill(*arguments, once=moment, settings=settings)
    assert killed.was_at_work
    status, said = await operator.try_to(*arguments, settings={"MASTER_KEY_NEW": "another key" * 5})
    assert status == 1
    assert "a change to another key was begun" in said
    restart(backend)  # the old key serves until the end
    server_of(backend).stop()
    wrong = refusal(backend, MASTER_KEY="w" * 40)
    assert "MASTER_KEY: this is not the key" in wrong
    restart_stopped(backend)


async def test_a_renewed_key_makes_the_old_ciphertext_useless(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.group("Title", [bruno])
    client_id = new_id()
    message = await anna.say(chat, "text", client_message_id=client_id)
    await anna.put(f"/messages/{message['id']}", {"text": "edited"})
    other = await anna.say(chat, "other")
    row = await Row.take(backend, "messages", other["id"])
    operator = Operator(server_of(backend))
    await operator.run("renew", "--owner", f"chat:{chat['id']}", "--wait", "3")
    await anna.say(chat, "more")
    texts = await texts_of(bruno, chat)
    assert (texts[message["id"]], texts[other["id"]]) == ("edited", "other")
    assert (await bruno.chat(chat))["title"] == "Title"
    versions = f"SELECT version FROM keys WHERE id = 'chat:{chat['id']}'"
    assert await read_values(backend.deployment, versions) == [2]
    # A repeat of the first send is still known for what it is.
    body = {"chat_id": chat["id"], "text": "text", "client_message_id": client_id}
    assert (await anna.post("/messages/", body, expect=200))["id"] == message["id"]
    await row.put_back("body")
    assert (await texts_of(bruno, chat))[other["id"]] is None


async def test_all_keys_of_an_age_are_renewed(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sent = [await anna.say(chat, str(n)) for n in range(30)]
    file = await anna.upload(b"sealed once", name="once.txt")
    await bruno.put("/users/me", {"first_name": "Renamed", "bio": "a bio"})
    operator = Operator(server_of(backend))
    said = await operator.run("renew", "--all", "--older-than", "30", "--wait", "3")
    assert "0 keys" in said
    chats = f"SELECT count(*) FROM keys WHERE id = 'chat:{chat['id']}'"
    await operator.run("renew", "--all", "--wait", "3")
    assert await read_values(backend.deployment, chats) == [1]
    texts = await texts_of(bruno, chat)
    assert [texts[message["id"]] for message in sent] == [str(n) for n in range(30)]
    profile = await anna.get(f"/users/{bruno.id}")
    assert (profile["first_name"], profile["bio"]) == ("Renamed", "a bio")
    # What lies in the storage is never sealed anew: its key stays as long as it does.
    of_files = "SELECT id, version FROM keys WHERE id LIKE 'blob:%'"
    [key] = await read_rows(backend.deployment, of_files)
    assert key["version"] == 1
    status, told = await operator.try_to("renew", "--owner", str(key["id"]), "--wait", "0")
    assert (status, "is never renewed" in told) == (1, True)
    assert (await anna.download(file)).content == b"sealed once"
    restart(backend)
    assert (await anna.download(file)).content == b"sealed once"
    assert (await anna.get("/users/me"))["first_name"] == "Anna"
    assert (await backend.sign_in(bruno.phone)).id == bruno.id


async def stored_plain(backend: Backend, *markers: bytes) -> list[bool]:
    values = await read_values(
        backend.deployment, "SELECT body FROM messages WHERE body IS NOT NULL"
    )
    values += await read_values(backend.deployment, "SELECT first_name FROM users")
    stored = b"\0".join(value for value in values if isinstance(value, bytes))
    return [marker in stored for marker in markers]


async def test_stored_rows_are_converted_when_encryption_is_switched(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await anna.put("/users/me", {"first_name": "Markername"})
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "markertext")
    markers = (b"markertext", b"Markername")
    assert await stored_plain(backend, *markers) == [False, False]
    operator, server = Operator(server_of(backend)), server_of(backend)

    restart(backend, **OFF)
    await eventually(partial(has_warned, server, times=1))
    assert await texts_of(bruno, chat) == {message["id"]: "markertext"}
    await operator.run("convert")
    assert await stored_plain(backend, *markers) == [True, True]
    assert await texts_of(bruno, chat) == {message["id"]: "markertext"}

    restart(backend, **ON)
    assert await texts_of(bruno, chat) == {message["id"]: "markertext"}
    await operator.run("convert", "--wait", "0")
    assert await stored_plain(backend, *markers) == [False, False]
    await eventually(partial(has_warned, server, times=2))
    restart(backend)
    await eventually(partial(has_started, server, times=4))
    assert await has_warned(server, times=2)
    assert await texts_of(bruno, chat) == {message["id"]: "markertext"}
    assert (await bruno.get(f"/users/{anna.id}"))["first_name"] == "Markername"


OFF = {"ENCRYPT_PERSONAL_DATA": "false", "ENCRYPT_MESSAGES": "false"}
ON = dict.fromkeys(OFF, "true")


async def test_a_server_that_was_left_with_encryption_off_hides_nothing(backend: Backend) -> None:
    restart(backend, **OFF)
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    server = server_of(backend)
    said = {(await anna.say(chat, "before"))["id"]: "before"}
    converting = asyncio.create_task(Operator(server).run("convert", "--wait", "3", settings=ON))
    while not converting.done():
        text = f"meanwhile {len(said)}"
        said[(await anna.say(chat, text))["id"]] = text
        await anna.put("/users/me", {"first_name": f"Markername {len(said)}"})
    await converting
    said[(await anna.say(chat, "after"))["id"]] = "after"
    assert (
        await stored_plain(backend, b"before", b"meanwhile", b"after", b"Markername") == [False] * 4
    )
    assert '"settings_overruled"' in server.log()
    for settings in ({}, ON):
        if settings:
            restart(backend, **settings)
        newest = dict(list(said.items())[-50:])
        assert await texts_of(bruno, chat) == newest
        found = await bruno.get(f"/users/{anna.id}")
        assert found["first_name"].startswith("Markername")
    assert "ciphertext_invalid" not in server.log()


async def test_a_forged_note_of_plain_rows_opens_nothing(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "true")
    forged = b"\x00" + json.dumps({"text": "forged"}).encode()
    await change_rows(
        backend.deployment,
        f"UPDATE messages SET body = {literal(backend, forged)} WHERE id = {message['id']}",
    )
    notes = "FROM server_state WHERE name = 'stored_messages'"
    await change_rows(backend.deployment, f"DELETE {notes}")
    await expect_event(backend, "server_state", "value", "stored_messages")
    assert await texts_of(bruno, chat) == {message["id"]: None}
    await expect_event(backend, "messages", "body", message["id"])
    server_of(backend).stop()
    await change_rows(
        backend.deployment,
        "INSERT INTO server_state (name, value) VALUES ('stored_messages', 'mixed')",
    )
    restart_stopped(backend)
    assert await texts_of(bruno, chat) == {message["id"]: None}
    assert await read_values(backend.deployment, f"SELECT value {notes}") == ["sealed"]


async def has_warned(server: Server, *, times: int) -> bool:
    return server.log().count('"rows_stored_otherwise"') == times


async def has_started(server: Server, *, times: int) -> bool:
    """Behind this line stands everything that the start had to say."""
    return server.log().count('"server_started"') == times


async def finds(person: Person, text: str) -> list[int]:
    return [item["id"] for item in (await person.get("/users/search", q=text))["items"]]


async def imports(person: Person, phone: str) -> list[int]:
    body = {"contacts": [{"phone": phone, "first_name": "Friend"}]}
    answer = await person.post("/users/contacts", body, expect=200)
    return [item["id"] for item in answer["items"]]


async def test_the_index_key_changes_while_people_search(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    await anna.group("Group", [bruno, clara])
    operator, server = Operator(server_of(backend)), server_of(backend)
    newer = {"INDEX_KEY_NEW": NEW_KEY}
    status, said = await operator.try_to("rebuild-index", settings=newer)
    assert status == 1
    assert "start the servers with it first" in said
    restart(backend, **newer)

    async def check() -> None:
        assert await finds(anna, bruno.phone) == [bruno.id]
        assert await finds(anna, "brun") == [bruno.id]
        assert await imports(anna, clara.phone) == [clara.id]

    await check()
    rebuilding = asyncio.create_task(operator.run("rebuild-index"))
    while not rebuilding.done():
        await check()
        await clara.put("/users/me", {"last_name": new_id()[:8]})
        late = await backend.sign_up(first_name="Late")
        assert await finds(anna, late.phone) == [late.id]
    await rebuilding
    await check()
    # No phone can register twice, whichever key its row is under.
    assert (await backend.sign_in(bruno.phone)).id == bruno.id
    assert server.faults() == []
    server.stop()
    assert "INDEX_KEY: this is not the key" in refusal(backend, INDEX_KEY_NEW="")
    restart_stopped(backend, INDEX_KEY=NEW_KEY, INDEX_KEY_NEW="")
    await check()
    assert (await backend.sign_in(bruno.phone)).id == bruno.id


@pytest.mark.parametrize("name", ["MASTER_KEY", "INDEX_KEY"])
async def test_a_wrong_or_missing_key_refuses_and_touches_nothing(
    backend: Backend, name: str
) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "text")
    server = server_of(backend)
    server.stop()
    before = await dump(backend.deployment)
    said = refusal(backend, **{name: "w" * 48})
    assert said.count(f"{name}: this is not the key") == 1
    assert "Traceback" not in said
    assert await dump(backend.deployment) == before
    said = refusal(backend, **{name: ""})
    assert f"{name}: {name.lower()}.txt is missing" in said
    assert await dump(backend.deployment) == before
    assert not (server.var_dir / f"{name.lower()}.txt").exists()
    restart_stopped(backend)
    assert [item["text"] for item in await bruno.history(chat)] == ["text"]


async def test_a_backup_cannot_be_read_once_its_key_was_destroyed(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.group("Group", [bruno])
    message = await anna.say(chat, "gone")
    row = await Row.take(backend, "messages", message["id"])
    rows = await Row.take(backend, "chats", chat["id"])
    await anna.delete(f"/chats/{chat['id']}", expect=204)
    owner = f"chat:{chat['id']}"
    kept = await read_values(backend.deployment, f"SELECT id FROM keys WHERE id = '{owner}'")
    assert kept == []
    # A backup of everything but `keys` is put back: the rows are there, and nothing of them opens.
    await rows.put_back()
    await row.put_back()

    async def shows_nothing() -> bool:
        answer = await bruno.call("GET", f"/messages/chat/{chat['id']}")
        return answer.status_code == 200 and "gone" not in answer.text

    await eventually(shows_nothing)
