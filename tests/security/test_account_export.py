"""The personal export: all that is kept about me, nothing of others that I do not see anyway."""

import json

import pytest

from tests.support.floods import say_many
from tests.support.people import Backend, Json, Person
from tests.support.rows import change_rows, read_values
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def export(person: Person) -> Json:
    answer = await person.call("GET", "/users/me/export")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.content)


async def test_everything_of_mine_is_in_it(backend: Backend) -> None:
    anna = await backend.sign_up(first_name="Anna", last_name="Arendt")
    bruno, clara = await backend.people(2)
    await anna.put("/users/me", {"bio": "about me"})
    await anna.put("/users/me/privacy", {"phone": "nobody"})
    await anna.post(
        "/users/contacts", {"contacts": [{"phone": bruno.phone, "first_name": "My Bruno"}]}
    )
    await anna.put(f"/users/blocked/{clara.id}")
    private = await anna.private_chat(bruno)
    group = await bruno.group("The group", [anna])
    left = await bruno.group("The left one", [anna])
    said = [await anna.say(chat, f"mine in {chat['id']}") for chat in (private, group, left)]
    theirs = await bruno.say(group, "theirs, not mine")
    reply = await anna.say(group, "my reply", reply_to_message_id=theirs["id"])
    await anna.post(f"/chats/{left['id']}/leave", expect=204)
    await bruno.put(f"/chats/{left['id']}", {"title": "Named behind me"}, expect=200)
    mine = await export(anna)
    me = await anna.get("/users/me")
    assert mine["format"] == 1
    assert mine["profile"] == me
    assert mine["privacy"]["phone"] == "nobody"
    assert mine["two_step"]["is_on"] is False
    assert [(it["user_id"], it["first_name"]) for it in mine["contacts"]] == [
        (bruno.id, "My Bruno")
    ]
    assert [it["user_id"] for it in mine["blocked"]] == [clara.id]
    assert [it["numbers_count"] for it in mine["lookups"]] == [1]
    assert [it["ended_at"] for it in mine["sessions"]] == [None]
    chats = {it["chat_id"]: it for it in mine["chats"]}
    assert chats[group["id"]]["title"] == "The group"
    assert chats[private["id"]]["peer_id"] == bruno.id
    assert chats[left["id"]]["role"] == "left"
    assert {it["id"]: it["text"] for it in mine["messages"]} == {
        message["id"]: message["text"] for message in (*said, reply)
    }
    assert {"signed_in", "account_exported"} <= {it["name"] for it in mine["events"]}
    whole = json.dumps(mine)
    for foreign in ("theirs, not mine", "Named behind me", bruno.phone, 'Bruno"'):
        assert foreign.removesuffix('"') not in whole.replace("My Bruno", ""), foreign


async def test_it_wants_a_fresh_session_and_is_given_three_times_a_day(backend: Backend) -> None:
    anna = await backend.sign_up()
    for _ in range(3):
        await export(anna)
    refused = await anna.call("GET", "/users/me/export")
    assert refused.status_code == 429
    assert refused.json()["code"] == "exports_exhausted"
    stale = f"UPDATE sessions SET authenticated_at = 1 WHERE user_id = {anna.id}"
    await change_rows(backend.deployment, stale)
    await anna.get("/users/me/export", expect=403, code="fresh_authentication_required")
    await backend.stranger().get("/users/me/export", expect=401)

    async def is_recorded() -> bool:
        query = (
            "SELECT id FROM audit_events WHERE name = 'account_exported'"
            f" AND user_id = {anna.id} AND seq IS NOT NULL"
        )
        return len(await read_values(backend.deployment, query)) == 3

    await eventually(is_recorded, what="the record of the exports")


async def test_many_messages_are_all_there_once(backend: Backend) -> None:
    """More than a page of the walk."""
    anna, bruno = await backend.people(2)
    chat = await bruno.group("Group", [anna])
    ids = await say_many(anna, chat, 600)
    mine = await export(anna)
    assert [it["id"] for it in mine["messages"]] == ids
