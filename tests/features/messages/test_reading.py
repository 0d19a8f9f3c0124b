"""Read marks, unread counts and mentions."""

import pytest

from tests.support.people import Backend
from tests.support.rows import change_rows

pytestmark = pytest.mark.anyio


async def test_unread_counts_what_others_wrote_above_my_mark(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    messages = [await anna.say(chat, str(n)) for n in range(4)]
    assert (await bruno.chat(chat))["unread_count"] == 4
    assert (await anna.chat(chat))["unread_count"] == 0
    path = f"/chats/{chat['id']}/read"
    await bruno.post(path, {"message_id": messages[1]["id"]}, expect=204)
    item = await bruno.chat(chat)
    assert (item["unread_count"], item["my"]["last_read_message_id"]) == (2, messages[1]["id"])


async def test_a_mark_never_goes_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    messages = [await anna.say(chat, str(n)) for n in range(3)]
    path = f"/chats/{chat['id']}/read"
    await bruno.post(path, {"message_id": messages[2]["id"]}, expect=204)
    await bruno.post(path, {"message_id": messages[0]["id"]}, expect=204)
    assert (await bruno.chat(chat))["unread_count"] == 0


async def test_sending_moves_my_own_mark(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "hello")
    answer = await bruno.say(chat, "hi")
    item = await bruno.chat(chat)
    assert (item["unread_count"], item["my"]["last_read_message_id"]) == (0, answer["id"])


async def test_the_others_see_how_far_i_read(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "hello")
    watcher, own = await anna.connect(), await bruno.connect()
    await bruno.post(f"/chats/{chat['id']}/read", {"message_id": message["id"]})
    seen = {"user_id": bruno.id, "message_id": message["id"]}
    assert (await watcher.expect("read_by", seen, scope=f"chat:{chat['id']}"))["data"] == seen
    read = (await own.expect("read", {"chat_id": chat["id"]}, scope="user"))["data"]
    assert read == {
        "chat_id": chat["id"],
        "message_id": message["id"],
        "unread_count": 0,
        "unread_mentions_count": 0,
    }
    assert (await anna.chat(chat))["others_read_message_id"] == message["id"]


async def test_a_mark_is_moved_by_the_socket(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "hello")
    watcher, socket = await anna.connect(), await bruno.connect()
    await socket.request("read", {"chat_id": chat["id"], "message_id": message["id"]})
    await watcher.expect("read_by", {"user_id": bruno.id})
    assert (await bruno.chat(chat))["unread_count"] == 0


async def test_only_messages_of_the_chat_are_read(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await anna.private_chat(eve)
    await anna.say(chat, "hello")
    foreign = await anna.say(other, "elsewhere")
    path = f"/chats/{chat['id']}/read"
    for message_id in (foreign["id"], 2**53 - 1):
        await bruno.post(path, {"message_id": message_id}, expect=404)
    assert (await bruno.chat(chat))["unread_count"] == 1
    await eve.post(path, {"message_id": 1}, expect=404)


async def test_mentions_are_counted_until_read(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    mention = [{"type": "text_mention", "offset": 0, "length": 5, "user_id": bruno.id}]
    await anna.say(group, "Bruno", entities=mention)
    last = await anna.say(group, "Bruno", entities=mention)
    assert (await bruno.chat(group))["unread_mentions_count"] == 2
    assert (await clara.chat(group))["unread_mentions_count"] == 0
    await bruno.post(f"/chats/{group['id']}/read", {"message_id": last["id"]})
    assert (await bruno.chat(group))["unread_mentions_count"] == 0


async def test_a_username_in_the_text_is_a_mention(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    name = f"mention{bruno.id}"
    await bruno.put("/users/me", {"username": name})
    group = await anna.group("Group", [bruno])
    mention = [{"type": "mention", "offset": 3, "length": len(name) + 1}]
    await anna.say(group, f"Hi @{name}", entities=mention)
    assert (await bruno.chat(group))["unread_mentions_count"] == 1


async def test_a_mention_of_a_stranger_is_no_way_in(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    group = await anna.group("Group")
    socket = await eve.connect()
    mention = [{"type": "text_mention", "offset": 0, "length": 3, "user_id": eve.id}]
    await anna.call(
        "POST", "/messages/", {"chat_id": group["id"], "text": "Eve", "entities": mention}
    )
    await eve.get(f"/chats/{group['id']}", expect=404)
    await socket.settle()
    assert socket.frames == [] or {frame["type"] for frame in socket.frames} == {"pong"}


async def test_service_messages_are_not_unread(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [clara.id]})
    assert (await bruno.chat(group))["unread_count"] == 0


@pytest.mark.slow
async def test_a_thousand_unread_are_counted_and_no_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first = await anna.say(chat, "x")
    # Rows as sends would leave them: a thousand sends take long, a thousand rows do not.
    copied = "chat_id, sender_id, type, body, silent, created_at"
    numbers = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5"
    tens = f"({numbers} UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9"
    tens += " UNION ALL SELECT 10)"
    many = (
        f"INSERT INTO messages (seq, {copied})"
        f" SELECT seq + 1000 + ROW_NUMBER() OVER (), {copied} FROM messages"
        f" CROSS JOIN {tens} a CROSS JOIN {tens} b CROSS JOIN {tens} c WHERE id = {first['id']}"
    )
    assert await change_rows(backend.deployment, many) == 1000
    await anna.say(chat, "the last of all")
    item = await bruno.chat(chat)
    assert (item["unread_count"], item["unread_capped"]) == (1000, True)


async def test_a_newcomer_has_not_read_what_was_before(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno], history_visible=True)
    first = await anna.say(group, "nobody has read this")
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [clara.id]})
    assert (await anna.chat(group))["others_read_message_id"] < first["id"]
    second = await anna.say(group, "nor this")
    await clara.post(f"/chats/{group['id']}/read", {"message_id": second["id"]})
    assert (await anna.chat(group))["others_read_message_id"] == second["id"]


async def test_a_message_i_deleted_mentions_me_no_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    entities = [{"type": "text_mention", "offset": 0, "length": 5, "user_id": bruno.id}]
    message = await anna.say(chat, "Bruno", entities=entities)
    assert (await bruno.chat(chat))["unread_mentions_count"] == 1
    await bruno.delete(f"/messages/{message['id']}")
    body = {"text": "Bruno!", "entities": entities}
    await anna.put(f"/messages/{message['id']}", body, expect=200)
    item = await bruno.chat(chat)
    assert (item["unread_count"], item["unread_mentions_count"]) == (0, 0)
