"""A deleted account is gone: for those who hold its tokens, for those who talked to it, and in the rows."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from app.infra.database.tables import METADATA
from app.kernel.scopes import ScopeKind
from tests.architecture.test_personal_data import ERASED, FATES
from tests.conftest import BACKENDS
from tests.support.audit import Event, read_events, run_admin
from tests.support.people import API, Backend, Deployment, Json, Person, new_id
from tests.support.rows import change_rows, read_rows, read_values
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

_ENDED = 4401
_PLAIN = {"ENCRYPT_PERSONAL_DATA": "false", "ENCRYPT_MESSAGES": "false"}


@pytest.fixture(params=BACKENDS)
async def plain_backend(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Backend]:
    """Without encryption, so that what is left can be read: destroying keys alone would hide it."""
    del anyio_backend
    environment, details = dict(_PLAIN), {}
    if request.param == "postgresql":
        details["database_url"] = request.getfixturevalue("postgres").create_database()
        environment |= {"DATABASE_TYPE": "postgresql", "DATABASE_URL": details["database_url"]}
    with Server(directory, environment) as server:
        details["sqlite_file"] = str(server.var_dir / "messenger.db")
        async with AsyncExitStack() as stack:
            yield Backend(Deployment(request.param, [server], details), stack)


async def delete(person: Person, *, keep_messages: bool | None = None) -> None:
    await person.delete("/users/me", expect=204, keep_messages=keep_messages)


async def wait_for_erasure(backend: Backend, user_id: int) -> None:
    """A pass is over when it has put off the next one for a minute."""

    async def is_over() -> bool:
        waiting = await read_values(
            backend.deployment,
            f"SELECT 1 FROM erasures WHERE user_id = {user_id} AND due_at < asked_at + 60000",
        )
        return not waiting

    await eventually(is_over, timeout_seconds=30, what="the erasure")


async def end_erasure(backend: Backend, user_id: int) -> None:
    """As if the minute were over after which the last pass comes."""
    await change_rows(
        backend.deployment,
        f"UPDATE erasures SET due_at = 1, asked_at = asked_at - 61000 WHERE user_id = {user_id}",
    )

    async def is_done() -> bool:
        query = f"SELECT 1 FROM erasures WHERE user_id = {user_id}"
        return not await read_values(backend.deployment, query)

    await eventually(is_done, timeout_seconds=30, what="the last pass")


async def test_every_token_and_socket_ends_and_the_phone_is_free(backend: Backend) -> None:
    [bruno] = await backend.people(1)
    anna = await backend.sign_up(first_name="Anna")
    name = "gone_" + secrets.token_hex(5)
    await anna.put("/users/me", {"username": name, "bio": "about me"})
    await anna.post("/users/contacts", {"contacts": [{"phone": bruno.phone, "first_name": "B"}]})
    other = await backend.sign_in(anna.phone)
    await bruno.post("/users/contacts", {"contacts": [{"phone": anna.phone, "first_name": "A"}]})
    sockets = [await anna.connect(), await other.connect(), await other.connect()]
    await delete(anna)
    await asyncio.gather(*(it.expect_close(_ENDED) for it in sockets))
    for device in (anna, other):
        await device.get("/users/me", expect=401)
        stale = {"refresh_token": device.tokens["refresh_token"]}
        await backend.stranger().post("/auth/refresh-token", stale, expect=401)
    seen = await bruno.get(f"/users/{anna.id}")
    assert seen["is_deleted"] is True
    assert (seen["username"], seen["first_name"], seen["bio"]) == (None, "", None)
    assert (await bruno.get("/users/search", q=name))["items"] == []
    await bruno.put("/users/me", {"username": name}, expect=200)
    # The same phone is somebody new, and known to nobody.
    again = await backend.sign_up(anna.phone, first_name="Newcomer")
    assert again.id != anna.id
    assert (await again.walk("/chats/")) == []
    assert (await again.walk("/users/contacts")) == []
    assert [it["id"] for it in await bruno.walk("/users/contacts")] == [anna.id]


async def test_a_stale_session_is_asked_to_prove_itself(backend: Backend) -> None:
    anna = await backend.sign_up()
    await change_rows(
        backend.deployment, f"UPDATE sessions SET authenticated_at = 1 WHERE user_id = {anna.id}"
    )
    await anna.delete("/users/me", expect=403, code="fresh_authentication_required")
    assert (await anna.get("/users/me"))["first_name"] == "Anna"
    await anna.delete("/users/me", expect=422, keep_messages="perhaps")
    await backend.stranger().delete("/users/me", expect=401)


async def test_messages_and_private_chats_are_deleted_for_everyone(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    private = await anna.private_chat(bruno)
    await anna.say(private, "to Bruno")
    await bruno.say(private, "to Anna")
    group = await bruno.group("Group", [anna, clara])
    mine = [await anna.say(group, f"mine {number}") for number in range(120)]
    reply = await bruno.say(group, "a reply", reply_to_message_id=mine[0]["id"])
    socket = await clara.connect()
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    await socket.expect("message_deleted")
    history = await _all(clara, group)
    assert [it for it in history if "mine" in (it["text"] or "")] == []
    target = next(it for it in history if it["id"] == reply["id"])["reply_to"]
    assert target == {"message_id": mine[0]["id"]}
    await bruno.get(f"/chats/{private['id']}", expect=404)
    assert private["id"] not in [it["id"] for it in await bruno.walk("/chats/")]
    members = await bruno.walk(f"/chats/{group['id']}/members")
    assert {it["user"]["id"] for it in members} == {bruno.id, clara.id}
    assert (await bruno.chat(group))["members_count"] == 2


async def test_with_keep_messages_they_stay_under_a_deleted_sender(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    private = await anna.private_chat(bruno)
    kept = await anna.say(private, "for you")
    group = await bruno.group("Group", [anna])
    said = await anna.say(group, "for all")
    await delete(anna, keep_messages=True)
    await wait_for_erasure(backend, anna.id)
    for chat, message in ((private, kept), (group, said)):
        found = next(it for it in await bruno.history(chat) if it["id"] == message["id"])
        assert found["text"] == message["text"]
        assert found["sender"] == {
            "id": anna.id,
            "first_name": "",
            "last_name": None,
            "username": None,
            "is_deleted": True,
        }


async def test_what_others_forwarded_stands_without_the_name(backend: Backend) -> None:
    bruno, clara = await backend.people(2)
    name = "Named" + secrets.token_hex(6)
    anna = await backend.sign_up(first_name=name, last_name=f"Last{name}")
    await anna.put("/users/me", {"username": f"u{name}".lower()})
    group = await anna.group("Group", [bruno])
    elsewhere = await bruno.group("Elsewhere", [clara])
    said = await anna.say(group, "worth telling")
    origin = {"chat_id": group["id"], "message_ids": [said["id"]]}
    body = {"chat_id": elsewhere["id"], "forward_from": origin}
    told = await bruno.post("/messages/", body, expect=201)
    assert name in json.dumps(await clara.history(elsewhere))
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    found = next(it for it in await clara.history(elsewhere) if it["id"] == told["id"])
    assert found["text"] == "worth telling"
    assert found["sender"]["id"] == bruno.id
    assert found["forward_from"]["sender"] == {
        "id": anna.id,
        "first_name": "",
        "last_name": None,
        "username": None,
        "is_deleted": True,
    }
    seen = [
        await clara.history(elsewhere),
        await clara.walk("/chats/"),
        await bruno.get("/users/me/export"),
    ]
    assert name.lower() not in json.dumps(seen).lower()


async def test_the_record_stays_whole_and_opens_no_more(backend: Backend) -> None:
    """Who the person was is sealed under a key that is gone; that there was something is chained."""
    anna, bruno = await backend.people(2)
    await anna.private_chat(bruno)
    for person in (anna, bruno):
        await guess_wrongly(backend, person.phone)

    async def are_found() -> bool:
        return all(
            [
                {it["name"] for it in await find_by_phone(backend, person)} >= NAMES_BEFORE_SIGN_IN
                for person in (anna, bruno)
            ]
        )

    await eventually(are_found, what="the record of both numbers", timeout_seconds=20)
    before = {it["id"] for it in await find_by_phone(backend, anna)}
    attempts = (await anna.get("/users/me/export"))["sign_in_attempts"]
    assert {it["name"] for it in attempts} >= NAMES_BEFORE_SIGN_IN
    assert {it["place"] for it in attempts} == {"127.0.x.x"}
    await delete(anna)
    await wait_for_erasure(backend, anna.id)

    async def is_chained() -> bool:
        query = "SELECT 1 FROM audit_events WHERE seq IS NULL"
        return not await read_values(backend.deployment, query)

    await eventually(is_chained, what="the record of the deletion")
    done = await run_admin(backend.deployment, "audit", "verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["faults"] == []
    events = await read_events(backend.deployment, "--user", str(anna.id))
    assert "account_deleted" in {it["name"] for it in events}
    assert [it["personal"] for it in events if it["personal"]] == []
    assert await find_by_phone(backend, anna) == []
    kept = [it for it in await read_events(backend.deployment) if it["id"] in before]
    assert [it["personal"] for it in kept] == [{}] * len(before)
    assert {it["name"] for it in await find_by_phone(backend, bruno)} >= NAMES_BEFORE_SIGN_IN
    # The number is a stranger's from here on, and forgotten anew with the next account.
    await backend.ask_code(anna.phone)
    assert [it["name"] for it in await find_by_phone(backend, anna)] == ["sign_in_code_asked"]


NAMES_BEFORE_SIGN_IN = {"sign_in_code_asked", "sign_in_refused"}


async def guess_wrongly(backend: Backend, phone: str) -> None:
    verification_id, code = await backend.ask_code(phone)
    body = {"verification_id": verification_id, "code": f"{(int(code) + 1) % 1_000_000:06d}"}
    await backend.stranger().post("/auth/verify-code", body, expect=400)


async def find_by_phone(backend: Backend, person: Person) -> list[Event]:
    return await read_events(backend.deployment, "--phone", person.phone)


async def test_owned_chats_pass_on_or_go(backend: Backend) -> None:
    anna, bruno, clara, david = await backend.people(4)
    with_admin = await anna.group("With an admin", [bruno, clara])
    await anna.put(f"/chats/{with_admin['id']}/members/{clara.id}", {"role": "admin"}, expect=200)
    with_members = await anna.group("With members", [bruno])
    await anna.post(f"/chats/{with_members['id']}/members", {"user_ids": [david.id]}, expect=201)
    channel = await anna.channel("Channel", [bruno, clara])
    name = "lone_" + secrets.token_hex(5)
    alone = await anna.group("Alone", username=name)
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    assert (await clara.chat(with_admin))["my"]["role"] == "owner"
    assert (await bruno.chat(with_admin))["my"]["role"] == "member"
    assert (await bruno.chat(with_members))["my"]["role"] == "owner"
    owners = [await person.chat(channel) for person in (bruno, clara)]
    assert [it["my"]["role"] for it in owners].count("owner") == 1
    assert owners[0]["members_count"] == 2
    await bruno.get("/chats/resolve", username=name, expect=404)
    del alone


async def test_what_is_written_as_the_account_goes_is_erased_by_the_last_pass(
    backend: Backend,
) -> None:
    """A worker that has not heard of the deletion yet still lets requests in."""
    anna, bruno = await backend.people(2)
    group = await bruno.group("Group", [anna])
    said = await anna.say(group, "early")
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    late = await bruno.say(group, "late")
    await change_rows(
        backend.deployment, f"UPDATE messages SET sender_id = {anna.id} WHERE id = {late['id']}"
    )
    await end_erasure(backend, anna.id)
    ids = [it["id"] for it in await bruno.history(group)]
    assert said["id"] not in ids
    assert late["id"] not in ids


async def test_what_ends_the_sockets_can_be_read_until_the_last_pass(backend: Backend) -> None:
    """By a worker that lost the bus: without it the devices would only hear that they should come back."""
    anna = await backend.sign_up()
    await backend.sign_in(anna.phone)
    mine = f"kind = {int(ScopeKind.USER)} AND scope_id = {anna.id}"
    await change_rows(
        backend.deployment, f"UPDATE updates SET created_at = created_at - 60000 WHERE {mine}"
    )
    [before] = await read_values(backend.deployment, f"SELECT max(seq) FROM updates WHERE {mine}")
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    [kept] = await read_values(backend.deployment, f"SELECT min(seq) FROM updates WHERE {mine}")
    assert kept == before + 1
    await change_rows(
        backend.deployment, f"UPDATE updates SET created_at = created_at - 60000 WHERE {mine}"
    )
    await end_erasure(backend, anna.id)
    assert await read_values(backend.deployment, f"SELECT seq FROM updates WHERE {mine}") == []


async def test_a_code_for_the_old_account_opens_nothing(backend: Backend) -> None:
    anna = await backend.sign_up()
    verification_id, code = await backend.ask_code(anna.phone)
    await delete(anna)
    url = backend.deployment.next_node().base_url + API
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"verification_id": verification_id, "code": code}
        answer = await client.post(f"{url}/auth/verify-code", json=body)
    assert answer.status_code == httpx.codes.BAD_REQUEST


async def _all(person: Person, chat: Json) -> list[Json]:
    items: list[Json] = []
    before = None
    while True:
        page = await person.history(chat, before=before, limit=100)
        items += page
        if not page:
            return items
        before = page[-1]["id"]


async def test_nothing_of_the_person_is_left_in_the_rows_or_for_others(
    plain_backend: Backend,
) -> None:
    backend, marker = plain_backend, f"marker{secrets.token_hex(6)}"
    bruno, clara = await backend.people(2)
    anna = await backend.sign_up(first_name=f"First{marker}", device_name=f"Device {marker}")
    await anna.put(
        "/users/me",
        {"last_name": f"Last{marker}", "bio": f"Bio {marker}", "username": f"u{marker}"},
    )
    await anna.post("/users/contacts", {"contacts": [{"phone": bruno.phone, "first_name": marker}]})
    await anna.put(f"/users/blocked/{clara.id}")
    await clara.put(f"/users/blocked/{anna.id}")
    private = await anna.private_chat(bruno)
    group = await bruno.group("Group", [anna])
    socket = await bruno.connect()
    said = await anna.say(private, f"private {marker}")
    first = await anna.say(group, f"said {marker}", client_message_id=new_id())
    await bruno.say(group, "an answer", reply_to_message_id=first["id"])
    hidden = await bruno.say(group, "hidden by Anna")
    await anna.delete(f"/messages/{hidden['id']}", expect=204, for_everyone=False)
    await socket.expect_message(first["id"])
    epoch = socket.hello["epoch"]
    assert marker in await _all_rows(backend)
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    left = await _all_rows(backend)
    assert marker not in left, left[left.index(marker) - 200 :][:300]
    assert anna.phone not in left
    for place, fate in FATES.items():
        if fate.erased == ERASED:
            table, _, column = place.partition(".")
            query = f"SELECT {column} FROM {table} WHERE {column} = {anna.id}"
            assert await read_values(backend.deployment, query) == [], place
    state = {"user": 0, f"chat:{group['id']}": 0, f"chat:{private['id']}": 0}
    seen = [
        await bruno.post("/updates/difference", {"epoch": epoch, "state": state}),
        await bruno.history(group),
        await bruno.walk("/chats/"),
        await bruno.get("/users/search", q=f"u{marker}"),
        await bruno.get("/users/me/export"),
        await bruno.get(f"/users/{anna.id}"),
    ]
    assert marker not in json.dumps(seen)
    assert said["text"] not in json.dumps(seen)
    [server] = backend.deployment.nodes
    assert marker not in server.output() + server.log()


async def _all_rows(backend: Backend) -> str:
    """Every row of every table, as text."""
    found: list[object] = []
    for table in METADATA.sorted_tables:
        rows = await read_rows(backend.deployment, f"SELECT * FROM {table.name}")
        found += [
            value.decode(errors="replace") if isinstance(value, bytes) else value
            for row in rows
            for value in row.values()
        ]
    return "\n".join(map(str, found))
