"""Deleting for me and for everyone."""

import pytest

from tests.support.people import Backend

pytestmark = pytest.mark.anyio


async def test_deleting_for_me_leaves_it_to_the_others(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "text")
    mine, theirs = await bruno.connect(), await anna.connect()
    await bruno.delete(f"/messages/{message['id']}", expect=204)
    await mine.expect("message_hidden", scope="user")
    assert await bruno.history(chat) == []
    await bruno.get(f"/messages/{message['id']}", expect=404)
    await bruno.delete(f"/messages/{message['id']}", expect=404)
    assert len(await anna.history(chat)) == 1
    marker = await anna.say(chat, "marker")
    await theirs.expect_message(marker["id"])
    assert theirs.seen("message_hidden") == theirs.seen("message_deleted") == []


async def test_deleting_for_everyone_leaves_no_text_behind(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    hello = (await bruno.connect()).hello
    socket = await bruno.connect()
    message = await anna.say(chat, "gone words")
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
    frame = await socket.expect("message_deleted", scope=f"chat:{chat['id']}")
    assert frame["data"]["id"] == message["id"]
    assert "gone words" not in str(frame)
    tombstone = {"id": message["id"], "chat_id": chat["id"], "is_deleted": True}
    for person in (anna, bruno):
        assert await person.history(chat) == []
        assert await person.get(f"/messages/{message['id']}") == tombstone
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=404)
    state = {"epoch": hello["epoch"], "state": hello["state"]}
    missed = await bruno.post("/updates/difference", state)
    assert "gone words" not in str(missed)
    replayed = [u["data"] for u in missed["updates"] if u["type"] == "new_message"]
    assert replayed == [tombstone]
    assert "gone words" not in str(await bruno.get("/chats/"))


async def test_both_sides_of_a_private_chat_delete_their_own(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "mine")
    path = f"/messages/{message['id']}"
    await bruno.delete(path, for_everyone=True, expect=403, code="not_allowed")
    await anna.delete(path, for_everyone=True, expect=204)


async def test_others_messages_go_only_with_the_right(backend: Backend) -> None:
    anna, bruno, clara, eve = await backend.people(4)
    group = await anna.group("Group", [bruno, clara])
    message = await bruno.say(group, "mine")
    path = f"/messages/{message['id']}"
    await clara.delete(path, for_everyone=True, expect=403, code="not_allowed")
    await eve.delete(path, for_everyone=True, expect=404)
    rights = {"role": "admin", "permissions": ["delete_messages"]}
    await anna.put(f"/chats/{group['id']}/members/{clara.id}", rights)
    await clara.delete(path, for_everyone=True, expect=204)


async def test_who_was_demoted_deletes_others_messages_no_more(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    message = await bruno.say(group, "mine")
    member = f"/chats/{group['id']}/members/{clara.id}"
    await anna.put(member, {"role": "admin", "permissions": ["delete_messages"]})
    await anna.put(member, {"role": "member"})
    path = f"/messages/{message['id']}"
    await clara.delete(path, for_everyone=True, expect=403, code="not_allowed")


async def test_a_deleted_message_is_not_unread(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    messages = [await anna.say(chat, str(n)) for n in range(3)]
    assert (await bruno.chat(chat))["unread_count"] == 3
    await anna.delete(f"/messages/{messages[0]['id']}", for_everyone=True)
    assert (await bruno.chat(chat))["unread_count"] == 2
    await bruno.delete(f"/messages/{messages[1]['id']}")
    assert (await bruno.chat(chat))["unread_count"] == 1
    assert (await anna.chat(chat))["unread_count"] == 0


async def test_the_last_message_goes_back_when_deleted(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first, second = await anna.say(chat, "first"), await anna.say(chat, "second")
    assert (await bruno.chat(chat))["last_message"]["id"] == second["id"]
    await anna.delete(f"/messages/{second['id']}", for_everyone=True)
    assert (await bruno.chat(chat))["last_message"]["id"] == first["id"]
