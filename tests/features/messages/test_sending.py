"""Sending: what a message holds, and who may send where."""

import pytest

from tests.support.people import Backend, is_time, new_id

pytestmark = pytest.mark.anyio

MESSAGE = {
    "id",
    "chat_id",
    "sender",
    "type",
    "text",
    "entities",
    "attachments",
    "reply_to",
    "forward_from",
    "client_message_id",
    "created_at",
    "edited_at",
    "is_pinned",
    "reactions",
}


async def test_a_message_has_the_documented_members(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "Hello")
    assert message.keys() == MESSAGE
    assert message["sender"].keys() == {"id", "first_name", "last_name", "username", "is_deleted"}
    assert (message["sender"]["id"], message["sender"]["is_deleted"]) == (anna.id, False)
    assert (message["type"], message["text"], message["entities"]) == ("text", "Hello", [])
    assert (message["reactions"], message["is_pinned"]) == ([], False)
    assert (message["attachments"], message["reply_to"], message["forward_from"]) == (
        [],
        None,
        None,
    )
    assert is_time(message["created_at"])
    assert message["edited_at"] is None


async def test_a_message_is_the_same_for_every_viewer(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sockets = [await anna.connect(), await bruno.connect()]
    message = await anna.say(chat, "Hello", client_message_id=new_id())
    frames = [await socket.expect_message(message["id"]) for socket in sockets]
    assert frames[0] == frames[1]
    assert frames[0]["data"] == message
    assert await bruno.get(f"/messages/{message['id']}") == message
    assert await bruno.history(chat) == [message]


@pytest.mark.parametrize(
    "text",
    [
        "e\u0301",
        "é",
        "  spaces  ",
        "line\nline\ttab",
        "\u202eabc",
        "👩‍👩‍👧",
        "日本",
        "<b>&amp;",
        "\u200b",
    ],
)
async def test_text_is_stored_exactly_as_sent(backend: Backend, text: str) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await anna.say(chat, text)
    assert (message["text"], (await anna.history(chat))[0]["text"]) == (text, text)


async def test_text_is_limited_in_utf16_units(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    for text in ("x" * 4096, "👋" * 2048, "日" * 4096):
        assert (await anna.say(chat, text))["text"] == text
    for text in ("x" * 4097, "👋" * 2049, "👋" * 2048 + "x"):
        body = {"chat_id": chat["id"], "text": text}
        await anna.post("/messages/", body, expect=422, code="message_too_long")


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": None}, {"entities": []}])
async def test_an_empty_message_is_refused(backend: Backend, body: dict[str, object]) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    await anna.post("/messages/", {"chat_id": chat["id"], **body}, expect=422)
    assert await anna.history(chat) == []


async def test_entities_count_utf16_units(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    entities = [
        {"type": "bold", "offset": 0, "length": 2},
        {"type": "text_link", "offset": 3, "length": 4, "url": "https://example.org/"},
        {"type": "text_mention", "offset": 8, "length": 5, "user_id": bruno.id},
        {"type": "pre", "offset": 14, "length": 2, "language": "python"},
    ]
    message = await anna.say(chat, "👋 link bruno if", entities=entities)
    assert message["entities"] == entities
    assert (await bruno.history(chat))[0]["entities"] == entities


@pytest.mark.parametrize(
    "entity",
    [
        {"type": "bold", "offset": 0, "length": 0},
        {"type": "bold", "offset": -1, "length": 2},
        {"type": "bold", "offset": 0, "length": 7},
        {"type": "bold", "offset": 2**31, "length": 1},
        {"type": "bold", "offset": 0},
        {"type": "blink", "offset": 0, "length": 2},
        {"type": "text_link", "offset": 0, "length": 2},
        {"type": "text_link", "offset": 0, "length": 2, "url": "javascript:alert(1)"},
        {"type": "text_link", "offset": 0, "length": 2, "url": "data:text/html,x"},
        {"type": "bold", "offset": 0, "length": 2, "color": "red"},
        {"type": "bold", "offset": "0", "length": 2},
        {"type": "bold", "offset": True, "length": 2},
        "bold",
    ],
)
async def test_a_wrong_entity_is_refused(backend: Backend, entity: object) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    body = {"chat_id": chat["id"], "text": "👋 abc", "entities": [entity]}
    await anna.post("/messages/", body, expect=422)


async def test_a_reply_shows_what_it_answers(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    question = await anna.say(chat, "How are you?")
    answer = await bruno.say(chat, "Fine", reply_to_message_id=question["id"])
    assert answer["reply_to"]["message_id"] == question["id"]
    assert answer["reply_to"]["text_excerpt"] == "How are you?"
    assert answer["reply_to"]["sender"]["id"] == anna.id
    await anna.put(f"/messages/{question['id']}", {"text": "Where are you?"})
    again = await bruno.get(f"/messages/{answer['id']}")
    assert again["reply_to"]["text_excerpt"] == "Where are you?"
    await anna.delete(f"/messages/{question['id']}", for_everyone=True)
    again = await bruno.get(f"/messages/{answer['id']}")
    assert "Where" not in str(again["reply_to"])


async def test_a_reply_to_a_message_of_another_chat_is_not_found(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await bruno.private_chat(clara)
    foreign = await clara.say(other, "secret")
    for message_id in (foreign["id"], 2**53 - 1):
        body = {"chat_id": chat["id"], "text": "x", "reply_to_message_id": message_id}
        await anna.post("/messages/", body, expect=404)
        await bruno.post("/messages/", body, expect=404)


async def test_strangers_find_no_chat_to_write_to(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    answers = [
        await eve.post("/messages/", {"chat_id": chat_id, "text": "x"}, expect=404)
        for chat_id in (chat["id"], 2**53 - 1)
    ]
    assert answers[0] == answers[1]
    assert await anna.history(chat) == []


async def test_in_a_channel_only_admins_post(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    channel = await anna.channel("News", [bruno])
    body = {"chat_id": channel["id"], "text": "x"}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    post = await anna.say(channel, "News of the day")
    assert post["sender"] == {"chat_id": channel["id"], "title": "News"}
    assert (await bruno.history(channel))[0] == post


async def test_a_member_without_the_right_does_not_write(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Quiet", [bruno])
    await anna.put(f"/chats/{group['id']}", {"permissions": []})
    body = {"chat_id": group["id"], "text": "x"}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    await anna.say(group, "I may")


async def test_ids_grow_with_time_inside_a_chat(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    ids = [(await sender.say(chat, "x"))["id"] for sender in (anna, bruno) * 4]
    assert ids == sorted(set(ids))


async def test_a_message_is_sent_by_the_socket(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sockets = [await anna.connect(), await bruno.connect()]
    ack = await sockets[0].request("send_message", {"chat_id": chat["id"], "text": "Hello"})
    assert ack["created"] is True
    for socket in sockets:
        frame = await socket.expect_message(ack["message"]["id"])
        assert frame["data"] == ack["message"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"text": ""}, None),
        ({"text": "x" * 4097}, "message_too_long"),
        ({"chat_id": 2**53 - 1}, "chat_not_found"),
        ({"colour": "red"}, "validation_error"),
    ],
)
async def test_a_wrong_send_by_the_socket_is_answered_by_an_error(
    backend: Backend, change: dict[str, object], code: str | None
) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    socket = await anna.connect()
    body = {"chat_id": chat["id"], "text": "x", **change}
    over_http = await anna.call("POST", "/messages/", body)
    problem = await socket.refused("send_message", body, over_http.json()["code"])
    assert problem == over_http.json()
    assert code in {None, problem["code"]}
    await socket.settle()


async def test_receivers_are_told_that_a_message_is_silent(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await bruno.connect()
    message = await anna.say(chat, "good night", silent=True)
    assert message["silent"] is True
    assert (await socket.expect_message(message["id"]))["data"] == message
    assert await bruno.history(chat) == [message]
