"""An account that is deleted is erased to the end: whoever is killed meanwhile, and however many do it at once.

Of a long export nothing is kept in memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import BACKENDS
from tests.faults.promises.scale import scaled
from tests.support.audit import logged_events
from tests.support.floods import say_many
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.rows import change_rows, read_rows, read_values
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MESSAGES = scaled(quick=1_000, full=10_000)
KILLS = scaled(quick=2, full=10)
EXPORTED = scaled(quick=15_000, full=60_000)
# As many as a message may have, of three bytes each: the document is longer than what the server may grow by.
EXPORTED_TEXT = "\u65e5" * 4_000
GROWN_BYTES = 24 * 2**20
# The four readers of SQLite keep pages, 32 MiB each; which one reads what is theirs to say.
CACHED_BYTES = {"sqlite": 4 * 32 * 2**20, "postgresql": 0}
# Looking costs time, too.
_LOOKED_EVERY_BYTES = 2**20
_PATIENCE_SECONDS = 120.0
# Text as it lies in the rows, so that many can be made of one without their keys.
_PLAIN = {"ENCRYPT_MESSAGES": "false"}


@pytest.fixture(params=BACKENDS)
async def own_backend(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Backend]:
    """One server, which a test may kill."""
    del anyio_backend
    environment, details = dict(_PLAIN), {}
    if request.param == "postgresql":
        details["database_url"] = request.getfixturevalue("postgres").create_database()
        environment |= {"DATABASE_TYPE": "postgresql", "DATABASE_URL": details["database_url"]}
    with Server(directory, environment) as server:
        details["sqlite_file"] = str(server.var_dir / "messenger.db")
        async with AsyncExitStack() as stack:
            yield Backend(Deployment(request.param, [server], details), stack)


async def count_left(backend: Backend, user_id: int) -> int:
    query = (
        f"SELECT count(*) FROM messages WHERE sender_id = {user_id}"
        " AND deleted_at IS NULL AND type <> 'service'"
    )
    [count] = await read_values(backend.deployment, query)
    return int(str(count))


async def hurry(backend: Backend, user_id: int) -> None:
    """As if the lease of whoever works at it had run out."""
    await change_rows(
        backend.deployment, f"UPDATE erasures SET due_at = 1 WHERE user_id = {user_id}"
    )


async def wait_for_erasure(backend: Backend, user_id: int) -> None:
    """A pass is over when it has put off the next one for a minute; messages are the last of it."""

    async def is_over() -> bool:
        query = f"SELECT 1 FROM erasures WHERE user_id = {user_id} AND due_at < asked_at + 60000"
        return not await count_left(backend, user_id) and not await read_values(
            backend.deployment, query
        )

    await eventually(is_over, timeout_seconds=_PATIENCE_SECONDS, what="the erasure")


async def judge(backend: Backend, group: Json, gone: Person, ids: list[int], stays: Person) -> None:
    """Each message is a tombstone, told once, and nothing of the others is touched."""
    assert await count_left(backend, gone.id) == 0
    rows = await read_rows(
        backend.deployment,
        "SELECT seq, type, subject_id FROM updates"
        f" WHERE kind = 1 AND scope_id = {group['id']} ORDER BY seq",
    )
    told = [row["subject_id"] for row in rows if row["type"] == "message_deleted"]
    assert sorted(told) == ids
    seqs = [row["seq"] for row in rows]
    assert seqs == list(range(1, len(seqs) + 1))
    left = [it["text"] for it in await stays.history(group) if not it.get("is_deleted")]
    assert "mine stays" in left
    members = await stays.walk(f"/chats/{group['id']}/members")
    assert [it["user"]["id"] for it in members] == [stays.id]
    chat = await stays.chat(group)
    assert (chat["members_count"], chat["my"]["role"]) == (1, "owner")


async def test_an_erasure_survives_kills(own_backend: Backend) -> None:
    backend, [server] = own_backend, own_backend.deployment.nodes
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    ids = await say_many(anna, group, MESSAGES)
    await bruno.say(group, "mine stays")
    await anna.delete("/users/me", expect=204)
    kills_between = 0
    for kill in range(1, KILLS + 1):
        bar = MESSAGES * (KILLS + 1 - kill) // (KILLS + 1)

        async def is_far(bar: int = bar) -> bool:
            return await count_left(backend, anna.id) <= bar

        await eventually(is_far, timeout_seconds=_PATIENCE_SECONDS, what="a part of the erasure")
        server.kill()
        kills_between += 0 < await count_left(backend, anna.id) < MESSAGES
        await hurry(backend, anna.id)
        await asyncio.to_thread(server.start)
    await wait_for_erasure(backend, anna.id)
    print(f"erasure of {MESSAGES} messages: {kills_between} kills in the middle")
    assert kills_between > 0
    await judge(backend, group, anna, ids, bruno)
    assert server.faults() == []


@pytest.mark.parametrize("deployment", ["postgresql"], indirect=True)
async def test_several_workers_at_once_come_to_the_same_end(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    ids = await say_many(anna, group, MESSAGES)
    await bruno.say(group, "mine stays")
    await anna.delete("/users/me", expect=204)
    at_once = 0
    while await count_left(backend, anna.id):
        await hurry(backend, anna.id)
        begun = len(logged_events(backend.deployment, "erasure_begun", user_id=anna.id))
        # A worker takes nothing else up before its pass is over.
        at_once = begun if await count_left(backend, anna.id) else at_once
    await hurry(backend, anna.id)
    await wait_for_erasure(backend, anna.id)
    print(f"erasure of {MESSAGES} messages: {at_once} workers at once")
    assert at_once >= 2
    await judge(backend, group, anna, ids, bruno)


async def test_a_long_export_runs_in_constant_memory(own_backend: Backend) -> None:
    backend, [server] = own_backend, own_backend.deployment.nodes
    anna, bruno = await backend.people(2)
    chat = await anna.group("Group", [bruno])
    said = await anna.say(chat, EXPORTED_TEXT)
    await multiply(backend, said["id"], EXPORTED - 1)
    # The first one brings in what the server keeps for good.
    await export(server, anna)
    before = resident_bytes(server)
    messages, size, peak = await export(server, anna)
    print(
        f"export of {messages} messages, {size / 2**20:.0f} MB:"
        f" {(peak - before) / 2**20:.1f} MB more than before"
    )
    assert messages == EXPORTED
    allowed = GROWN_BYTES + CACHED_BYTES[backend.deployment.name]
    assert size > EXPORTED * len(EXPORTED_TEXT.encode()) > allowed
    assert peak - before <= allowed


async def export(server: Server, person: Person) -> tuple[int, int, int]:
    """Messages and bytes of the document, and the most memory that the server had meanwhile."""
    messages = size = peak = 0
    headers = {"Authorization": f"Bearer {person.access_token}"}
    async with (
        httpx.AsyncClient(base_url=server.base_url, timeout=60, trust_env=False) as client,
        client.stream("GET", f"{API}/users/me/export", headers=headers) as answer,
    ):
        assert answer.status_code == httpx.codes.OK
        tail = b""
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            text = tail + chunk
            messages += text.count(_MARK)
            tail = text[-len(_MARK) + 1 :]
            if size // _LOOKED_EVERY_BYTES > (size - len(chunk)) // _LOOKED_EVERY_BYTES:
                peak = max(peak, resident_bytes(server))
        assert text.endswith(b"}")
    return messages, size, peak


_MARK = b'"reply_to_message_id":'


def resident_bytes(server: Server) -> int:
    """Of the server with all that it has started."""
    process = psutil.Process(server.pid)
    processes = [process, *process.children(recursive=True)]
    return sum(it.memory_info().rss for it in processes)


async def multiply(backend: Backend, message_id: int, count: int) -> None:
    """As many more messages of the same text, by the same person, in the same chat."""
    columns = [
        *("chat_id", "sender_id", "type", "body", "silent", "created_at"),
    ]
    listed = ", ".join(columns)
    await change_rows(
        backend.deployment,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        f" INSERT INTO messages (seq, {listed})"
        f" SELECT seq + i, {', '.join(f'm.{name}' for name in columns)}"
        f" FROM messages m, n WHERE m.id = {message_id}",
    )
