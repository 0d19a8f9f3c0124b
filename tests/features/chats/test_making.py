"""Making, finding, changing and deleting chats."""

import asyncio

import pytest

from tests.support.people import Backend, is_time, new_id
from tests.support.rows import read_values

pytestmark = pytest.mark.anyio

SHARED = {
    "id",
    "type",
    "title",
    "description",
    "username",
    "photo",
    "permissions",
    "history_visible",
    "members_count",
    "created_at",
    "seq",
}
MINE = {
    "my",
    "unread_count",
    "unread_mentions_count",
    "others_read_message_id",
    "last_message",
}


async def test_a_private_chat_is_made_once_for_both(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    body = {"type": "private", "user_id": bruno.id}
    chat = await anna.post("/chats/", body, expect=201)
    assert (await anna.post("/chats/", body, expect=200))["id"] == chat["id"]
    theirs = await bruno.post("/chats/", {"type": "private", "user_id": anna.id}, expect=200)
    assert theirs["id"] == chat["id"]
    assert chat.keys() >= SHARED | MINE | {"peer"}
    assert (chat["peer"]["id"], theirs["peer"]["id"]) == (bruno.id, anna.id)
    assert (chat["type"], chat["title"], chat["members_count"]) == ("private", None, 2)


async def test_both_asking_at_once_get_the_same_private_chat(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    asks = [anna.private_chat(bruno), bruno.private_chat(anna)] * 4
    assert len({chat["id"] for chat in await asyncio.gather(*asks)}) == 1


async def test_a_chat_with_myself_is_saved_messages(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    assert chat["peer"]["id"] == anna.id
    message = await anna.say(chat, "note")
    item = await anna.chat(chat)
    assert (item["unread_count"], item["last_message"]) == (0, message)


async def test_nobody_talks_to_an_unknown_user(backend: Backend) -> None:
    anna = await backend.sign_up()
    await anna.post("/chats/", {"type": "private", "user_id": 2**53 - 1}, expect=404)


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_a_group_or_channel_is_made_with_its_members(backend: Backend, kind: str) -> None:
    anna, bruno = await backend.people(2)
    body = {"type": kind, "title": "Title 👋", "description": "About", "member_ids": [bruno.id]}
    socket = await bruno.connect()
    chat = await anna.post("/chats/", body, expect=201)
    assert chat.keys() >= SHARED | MINE
    assert (chat["title"], chat["description"], chat["members_count"]) == ("Title 👋", "About", 2)
    assert chat["my"]["role"] == "owner"
    assert is_time(chat["created_at"])
    assert (await bruno.chat(chat))["my"]["role"] == "member"
    created = await socket.expect("chat_created", scope="user")
    told = created["data"].get("chat", created["data"])
    assert (told["id"], told["title"]) == (chat["id"], "Title 👋")
    assert told["seq"] >= 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "group"},
        {"type": "group", "title": ""},
        {"type": "group", "title": None},
        {"type": "group", "title": "x" * 1000},
        {"type": "group", "title": "a\u202eb"},
        {"type": "club", "title": "x"},
        {"type": "private"},
        {"type": "private", "user_id": 0},
        {"type": "private", "user_id": 5, "title": "x"},
        {"type": "group", "title": "x", "user_id": 5},
        {"type": "group", "title": "x", "member_ids": "5"},
        {"type": "group", "title": "x", "member_ids": [True]},
        {"type": "group", "title": "x", "username": "a b"},
        {"type": "group", "title": "x", "owner_id": 5},
    ],
)
async def test_a_chat_that_fits_no_type_is_not_made(
    backend: Backend, body: dict[str, object]
) -> None:
    anna = await backend.sign_up()
    await anna.post("/chats/", body, expect=422)
    assert await anna.walk("/chats/") == []


async def test_a_chat_is_not_made_with_unknown_members(backend: Backend) -> None:
    anna = await backend.sign_up()
    body = {"type": "group", "title": "x", "member_ids": [2**53 - 1]}
    await anna.post("/chats/", body, expect=404)
    assert await anna.walk("/chats/") == []


async def test_a_public_chat_is_found_by_its_username(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    name = "public_" + new_id()[:8]
    chat = await anna.group("Public", username=name)
    assert chat["history_visible"] is True
    found = await eve.get("/chats/resolve", username=name.upper())
    assert (found["id"], found["title"], found["members_count"]) == (chat["id"], "Public", 1)
    await eve.get("/chats/resolve", username="nobody_" + new_id()[:8], expect=404)
    await eve.get("/chats/resolve", username="x", expect=422)
    await eve.get("/chats/resolve", expect=422)


async def test_a_username_of_a_person_resolves_to_no_chat(backend: Backend) -> None:
    anna = await backend.sign_up()
    name = "person_" + new_id()[:8]
    await anna.put("/users/me", {"username": name})
    await anna.get("/chats/resolve", username=name, expect=404)


async def test_title_and_description_are_changed_for_everybody(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Old", [bruno])
    socket = await bruno.connect()
    changed = await anna.put(f"/chats/{group['id']}", {"title": "New", "description": "About"})
    assert (changed["title"], changed["description"]) == ("New", "About")
    frame = await socket.expect("chat_updated", scope=f"chat:{group['id']}")
    assert frame["data"].get("chat", frame["data"])["title"] == "New"
    assert (await bruno.chat(group))["title"] == "New"


async def test_a_member_changes_the_chat_only_if_members_may(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Old", [bruno])
    path = f"/chats/{group['id']}"
    await anna.put(path, {"permissions": ["send_messages"]})
    await bruno.put(path, {"title": "Mine"}, expect=403, code="not_allowed")
    await anna.put(path, {"permissions": ["send_messages", "change_info"]})
    assert (await bruno.put(path, {"title": "Mine"}))["title"] == "Mine"
    everything = ["send_messages", "change_info", "add_members"]
    await bruno.put(path, {"permissions": everything}, expect=403)


@pytest.mark.parametrize(
    "change",
    [
        {"title": ""},
        {"title": None},
        {"permissions": ["fly"]},
        {"permissions": ["delete_messages"]},
        {"permissions": "send_messages"},
        {"type": "channel"},
        {"members_count": 5},
        {"seq": 5},
    ],
)
async def test_a_wrong_change_changes_nothing(backend: Backend, change: dict[str, object]) -> None:
    anna = await backend.sign_up()
    group = await anna.group("Title")
    before = await anna.chat(group)
    await anna.put(f"/chats/{group['id']}", {"description": "new", **change}, expect=422)
    assert await anna.chat(group) == before


async def test_a_private_chat_has_no_title_to_change(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    refused = await anna.call("PUT", f"/chats/{chat['id']}", {"title": "x"})
    assert refused.status_code in {403, 422}


async def test_the_owner_alone_deletes_a_group(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    group = await anna.group("Group", [bruno])
    message = await anna.say(group, "text")
    await anna.put(f"/chats/{group['id']}/members/{bruno.id}", {"role": "admin"})
    path = f"/chats/{group['id']}"
    await bruno.delete(path, expect=403, code="not_allowed")
    await eve.delete(path, expect=404)
    socket = await bruno.connect()
    await anna.delete(path, expect=204)
    await socket.expect("chat_deleted", scope=f"chat:{group['id']}")
    for person in (anna, bruno):
        await person.get(path, expect=404)
        await person.get(f"/messages/{message['id']}", expect=404)
        assert group["id"] not in [chat["id"] for chat in await person.walk("/chats/")]
    await anna.delete(path, expect=404)


async def test_a_private_chat_is_cleared_for_me_alone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "old")
    await anna.delete(f"/chats/{chat['id']}", expect=204)
    assert await anna.walk("/chats/") == []
    assert [item["id"] for item in await bruno.history(chat)] == [message["id"]]
    new = await bruno.say(chat, "new")
    assert [item["id"] for item in await anna.walk("/chats/")] == [chat["id"]]
    assert [item["id"] for item in await anna.history(chat)] == [new["id"]]
    await anna.get(f"/messages/{message['id']}", expect=404)


async def test_what_both_have_cleared_is_stored_no_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "first")
    bodies = f"SELECT body FROM messages WHERE chat_id = {chat['id']} AND body IS NOT NULL"
    await anna.delete(f"/chats/{chat['id']}", expect=204)
    await bruno.say(chat, "second")
    assert len(await read_values(backend.deployment, bodies)) == 2
    await bruno.delete(f"/chats/{chat['id']}", expect=204)
    assert len(await read_values(backend.deployment, bodies)) == 1
    assert [item["text"] for item in await anna.history(chat)] == ["second"]


async def test_a_private_chat_is_cleared_for_both(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "old")
    await anna.delete(f"/chats/{chat['id']}", for_everyone=True, expect=204)
    for person in (anna, bruno):
        assert await person.walk("/chats/") == []
        await person.get(f"/messages/{message['id']}", expect=404)


async def test_chats_of_others_are_as_if_they_were_not(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat, group = await anna.private_chat(bruno), await anna.group("Group", [bruno])
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", {"title": "x"}),
        ("DELETE", "", None),
        ("GET", "/members", None),
        ("POST", "/members", {"user_ids": [eve.id]}),
        ("PUT", f"/members/{anna.id}", {"role": "member"}),
        ("DELETE", f"/members/{anna.id}", None),
        ("POST", "/join", None),
        ("POST", "/leave", None),
        ("POST", "/invites", {}),
        ("GET", "/invites", None),
        ("POST", "/read", {"message_id": 1}),
        ("PUT", "/settings", {"is_pinned": True}),
    ):
        answers = [
            await eve.call(method, f"/chats/{chat_id}{path}", body)
            for chat_id in (chat["id"], group["id"], 2**53 - 1)
        ]
        assert [answer.status_code for answer in answers] == [404] * 3, (method, path)
        assert len({answer.content for answer in answers}) == 1, (method, path)


async def test_a_taken_username_is_not_given_to_a_chat(backend: Backend) -> None:
    anna = await backend.sign_up()
    name = "taken_" + new_id()[:8]
    await anna.group("First", username=name)
    second = await anna.group("Second")
    await anna.put(f"/chats/{second['id']}", {"username": name}, expect=409)
