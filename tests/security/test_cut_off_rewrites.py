"""Commands that write a thousand rows anew are killed half way, begun again, and have lost nothing."""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from app.features.users.create import create_user
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.database.database import open_database
from app.infra.database.tx import Tx
from tests.conftest import BACKENDS
from tests.security.operator import Killed, Operator
from tests.support.databases import SetClock, settings_for
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Json, Person
from tests.support.rows import read_values

pytestmark = pytest.mark.anyio

KEYS = {name: secrets.token_urlsafe(40) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
NEW_KEY = secrets.token_urlsafe(40)
MANY = 1000
# What `keys` do between two commits, so that a kill finds them at work on every machine.
FEW = "10"
# As at a terminal: the bar is drawn while it moves, and not at its end alone.
TERMINAL = {"TTY_COMPATIBLE": "1", "TERM": "xterm"}


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, KEYS) as made:
        yield made


async def say_thousand(person: Person, chat: Json) -> None:
    """A hundred texts, each ten times."""
    said = [(await person.say(chat, f"text {number}"))["id"] for number in range(100)]
    origin = {"chat_id": chat["id"], "message_ids": said}
    for _ in range(MANY // len(said) - 1):
        await person.post("/messages/", {"chat_id": chat["id"], "forward_from": origin}, expect=201)


async def texts_of(person: Person, chat: Json) -> dict[int, str | None]:
    """All of a chat, read page by page."""
    texts: dict[int, str | None] = {}
    before: dict[str, int] = {}
    while True:
        path = f"/messages/chat/{chat['id']}"
        page = await person.get(path, limit=100, **before)
        texts |= {item["id"]: item.get("text") for item in page["items"]}
        if not page["has_more_before"]:
            return texts
        before = {"before": min(texts)}


def restart(backend: Backend, **settings: str) -> None:
    [server] = backend.deployment.nodes
    server.stop()
    server.environment.update(settings)
    server.start()


async def kill_half_way(
    backend: Backend, *command: str, done: Callable[[], Awaitable[int]]
) -> Killed:
    """Between 200 and 800 of the thousand."""

    async def has_come() -> bool:
        return await done() >= 200

    operator = Operator(backend.deployment.nodes[0])
    killed = await operator.run_and_kill(*command, "--batch", FEW, once=has_come, settings=TERMINAL)
    assert killed.was_at_work
    assert 200 <= await done() <= 800
    return killed


def counts_drawn(said: str, task: str) -> set[tuple[int, int]]:
    """Of the bar of a task: (done, of how many), each time it was drawn."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    found = re.findall(rf"{re.escape(task)}\s+\S*[━╸╺ ]*\s*(\d+)/(\d+)", plain)
    return {(int(done), int(total)) for done, total in found}


async def count(backend: Backend, condition: str) -> int:
    query = f"SELECT count(*) FROM messages WHERE {condition}"
    [found] = await read_values(backend.deployment, query)
    return int(str(found))


def begins_with(backend: Backend, head: bytes) -> str:
    literal = f"X'{head.hex()}'" if backend.name == "sqlite" else f"'\\x{head.hex()}'::bytea"
    return f"substr(body, 1, {len(head)}) = {literal}"


@pytest.mark.parametrize("encrypt", ["true", "false"])
async def test_a_conversion_that_was_killed_goes_on(backend: Backend, encrypt: str) -> None:
    before = "false" if encrypt == "true" else "true"
    restart(backend, ENCRYPT_MESSAGES=before)
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await say_thousand(anna, chat)
    texts = await texts_of(bruno, chat)
    assert len(texts) == MANY
    restart(backend, ENCRYPT_MESSAGES=encrypt)

    wanted = begins_with(backend, b"\x01" if encrypt == "true" else b"\x00")
    converted = partial(count, backend, wanted)
    killed = await kill_half_way(backend, "convert", "--wait", "2", done=converted)
    drawn = counts_drawn(killed.said, "messages.body")
    assert any(0 < done < total == MANY for done, total in drawn), killed.said
    assert await texts_of(bruno, chat) == texts
    left = MANY - await converted()
    said = await Operator(backend.deployment.nodes[0]).run("convert", "--wait", "2")
    # It does what was left, and not all again.
    assert counts_drawn(said, "messages.body") == {(left, left)}
    assert await converted() == MANY
    assert await texts_of(bruno, chat) == texts
    restart(backend)
    assert await texts_of(bruno, chat) == texts


async def test_a_renewal_of_all_keys_that_was_killed_goes_on(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await say_thousand(anna, chat)
    texts = await texts_of(bruno, chat)
    version_2 = begins_with(backend, b"\x01\x00\x00\x00\x02")
    renewed = partial(count, backend, version_2)
    await kill_half_way(backend, "renew", "--all", "--wait", "2", done=renewed)
    assert await texts_of(bruno, chat) == texts
    said = await Operator(backend.deployment.nodes[0]).run("renew", "--all", "--wait", "2")
    assert counts_drawn(said, "renewing keys")
    assert await renewed() == MANY
    versions = f"SELECT version FROM keys WHERE id = 'chat:{chat['id']}'"
    assert await read_values(backend.deployment, versions) == [2]
    assert await texts_of(bruno, chat) == texts
    restart(backend)
    assert await texts_of(bruno, chat) == texts


async def settle_thousand(backend: Backend) -> list[str]:
    """Accounts made beside the server; answers their phones."""
    [server] = backend.deployment.nodes
    settings = settings_for(server.var_dir, url=backend.deployment.details.get("database_url"))
    db = open_database(settings, SetClock())
    index = BlindIndex(KEYS["INDEX_KEY"].encode())
    phones = [f"+4915{number:09d}" for number in range(MANY)]
    try:
        keyring = await open_keyring(
            db, KEYS["MASTER_KEY"].encode(), rounds=1, personal=True, messages=True
        )
        for start in range(0, MANY, 50):
            await db.write(
                partial(_settle, keyring=keyring, index=index, phones=phones[start : start + 50]),
                timeout_seconds=30,
            )
    finally:
        await db.close()
    return phones


async def _settle(tx: Tx, *, keyring: Keyring, index: BlindIndex, phones: list[str]) -> None:
    for phone in phones:
        await create_user(tx, keyring, index, phone=phone, first_name="Jo", last_name=None)


async def test_a_rebuild_of_the_index_that_was_killed_goes_on(backend: Backend) -> None:
    [anna] = await backend.people(1)
    phones = await settle_thousand(backend)
    restart(backend, INDEX_KEY_NEW=NEW_KEY)
    indexes = "SELECT phone_index FROM users"
    older = await read_values(backend.deployment, indexes)
    newer = BlindIndex(NEW_KEY.encode())

    async def rebuilt() -> int:
        return len(set(await read_values(backend.deployment, indexes)).difference(older))

    killed = await kill_half_way(backend, "rebuild-index", done=rebuilt)
    drawn = counts_drawn(killed.said, "indexing accounts")
    assert any(0 < done < total == MANY + 1 for done, total in drawn), killed.said
    # Under whichever key a row is: everybody is found.
    await expect_found(anna, phones)
    left = MANY + 1 - await rebuilt()
    said = await Operator(backend.deployment.nodes[0]).run("rebuild-index")
    assert counts_drawn(said, "indexing accounts") == {(left, left)}
    expected = {newer.phone(phone) for phone in [*phones, anna.phone]}
    assert set(await read_values(backend.deployment, indexes)) == expected
    tokens = await read_values(backend.deployment, "SELECT token FROM user_name_tokens")
    assert tokens.count(newer.name_prefix("jo")) == MANY
    assert BlindIndex(KEYS["INDEX_KEY"].encode()).name_prefix("jo") not in tokens
    restart(backend, INDEX_KEY=NEW_KEY, INDEX_KEY_NEW="")
    await expect_found(anna, phones)


async def expect_found(person: Person, phones: list[str]) -> None:
    """By importing all of them."""
    for start in range(0, len(phones), 100):
        contacts = [{"phone": phone, "first_name": "Jo"} for phone in phones[start : start + 100]]
        answer = await person.post("/users/contacts", {"contacts": contacts}, expect=200)
        assert len(answer["items"]) == len(contacts)
