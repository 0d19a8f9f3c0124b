"""Editing: one's own words, by today's right; the earlier text is nowhere."""

import pytest

from tests.support.people import Backend, is_time

pytestmark = pytest.mark.anyio


async def test_an_edit_reaches_everybody(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "old words")
    socket = await bruno.connect()
    bold = [{"type": "bold", "offset": 0, "length": 3}]
    edited = await anna.put(f"/messages/{message['id']}", {"text": "new words", "entities": bold})
    assert (edited["id"], edited["text"], edited["entities"]) == (message["id"], "new words", bold)
    assert is_time(edited["edited_at"])
    assert edited["created_at"] == message["created_at"]
    frame = await socket.expect("message_edited", scope=f"chat:{chat['id']}")
    assert frame["data"] == edited
    assert await bruno.history(chat) == [edited]


async def test_the_earlier_text_leaves_the_api(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    hello = (await bruno.connect()).hello
    message = await anna.say(chat, "old words")
    await anna.put(f"/messages/{message['id']}", {"text": "new words"})
    missed = await bruno.post(
        "/updates/difference", {"epoch": hello["epoch"], "state": hello["state"]}
    )
    assert "old words" not in str(missed)
    assert "old words" not in str(await bruno.history(chat))
    assert "old words" not in str(await bruno.get("/chats/"))


async def test_others_do_not_edit_my_message(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    group = await anna.group("Group", [bruno])
    message = await bruno.say(group, "mine")
    await anna.put(f"/messages/{message['id']}", {"text": "x"}, expect=403, code="not_allowed")
    await eve.put(f"/messages/{message['id']}", {"text": "x"}, expect=404)
    await eve.put(f"/messages/{2**53 - 1}", {"text": "x"}, expect=404)
    assert (await anna.get(f"/messages/{message['id']}"))["text"] == "mine"


async def test_who_lost_the_right_to_write_edits_no_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    message = await bruno.say(group, "mine")
    await anna.put(f"/chats/{group['id']}", {"permissions": []})
    await bruno.put(f"/messages/{message['id']}", {"text": "x"}, expect=403, code="not_allowed")
    await anna.delete(f"/chats/{group['id']}/members/{bruno.id}")
    await bruno.put(f"/messages/{message['id']}", {"text": "x"}, expect=404)


async def test_an_edit_is_held_to_the_rules_of_sending(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await anna.say(chat, "text")
    path = f"/messages/{message['id']}"
    await anna.put(path, {"text": ""}, expect=422)
    await anna.put(path, {"text": "x" * 4097}, expect=422, code="message_too_long")
    outside = [{"type": "bold", "offset": 3, "length": 3}]
    await anna.put(path, {"text": "new", "entities": outside}, expect=422)
    await anna.put(path, {"text": "x", "sender": 5}, expect=422)
    assert await anna.get(path) == message


async def test_a_deleted_message_is_not_edited(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await anna.say(chat, "text")
    await anna.delete(f"/messages/{message['id']}", for_everyone=True)
    await anna.put(f"/messages/{message['id']}", {"text": "x"}, expect=404)


async def test_an_edited_mention_counts_anew(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    mention = [{"type": "text_mention", "offset": 0, "length": 5, "user_id": bruno.id}]
    message = await anna.say(group, "Bruno", entities=mention)
    assert (await bruno.chat(group))["unread_mentions_count"] == 1
    await anna.put(f"/messages/{message['id']}", {"text": "Bruno"})
    assert (await bruno.chat(group))["unread_mentions_count"] == 0
