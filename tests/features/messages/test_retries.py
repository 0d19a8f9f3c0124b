"""Sends are safe to retry: `client_message_id` is used once for ever."""

import asyncio

import pytest

from tests.support.people import Backend, new_id

pytestmark = pytest.mark.anyio


async def test_a_repeated_send_answers_the_same_message(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    body = {"chat_id": chat["id"], "text": "once", "client_message_id": new_id()}
    first = await anna.post("/messages/", body, expect=201)
    assert await anna.post("/messages/", body, expect=200) == first
    assert first["client_message_id"] == body["client_message_id"]
    assert len(await bruno.history(chat)) == 1


async def test_racing_repeats_make_one_message(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    devices = [anna, *[await backend.sign_in(anna.phone) for _ in range(3)]]
    socket = await bruno.connect()
    body = {"chat_id": chat["id"], "text": "once", "client_message_id": new_id()}
    tries = [devices[n % 4].call("POST", "/messages/", body) for n in range(20)]
    answers = await asyncio.gather(*tries)
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    last = await anna.say(chat, "last")
    await socket.expect_message(last["id"])
    assert len(socket.seen("new_message")) == 2
    seqs = socket.seqs(f"chat:{chat['id']}")
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


async def test_a_repeat_crosses_from_http_to_the_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    body = {"chat_id": chat["id"], "text": "once", "client_message_id": new_id()}
    first = await anna.post("/messages/", body, expect=201)
    ack = await (await anna.connect()).request("send_message", body)
    assert ack == {"message": first, "created": False}


async def test_the_same_id_for_another_message_is_a_conflict(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await anna.private_chat(clara)
    body = {"chat_id": chat["id"], "text": "once", "client_message_id": new_id()}
    message = await anna.post("/messages/", body, expect=201)
    changes = (
        {"text": "twice"},
        {"chat_id": other["id"]},
        {"entities": [{"type": "bold", "offset": 0, "length": 1}]},
        {"reply_to_message_id": message["id"]},
    )
    for change in changes:
        changed = body | change
        await anna.post("/messages/", changed, expect=409, code="client_message_id_reused")
    assert len(await anna.history(chat)) == 1


async def test_two_senders_may_use_the_same_id(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    body = {"chat_id": chat["id"], "text": "same", "client_message_id": new_id()}
    first = await anna.post("/messages/", body, expect=201)
    second = await bruno.post("/messages/", body, expect=201)
    assert first["id"] != second["id"]


async def test_a_repeat_after_an_edit_answers_the_present_state(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    body = {"chat_id": chat["id"], "text": "old", "client_message_id": new_id()}
    message = await anna.post("/messages/", body, expect=201)
    edited = await anna.put(f"/messages/{message['id']}", {"text": "new"})
    assert await anna.post("/messages/", body, expect=200) == edited
    changed = body | {"text": "new"}
    await anna.post("/messages/", changed, expect=409, code="client_message_id_reused")


async def test_a_repeat_after_deletion_answers_the_tombstone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    body = {"chat_id": chat["id"], "text": "gone", "client_message_id": new_id()}
    message = await anna.post("/messages/", body, expect=201)
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
    tombstone = await anna.post("/messages/", body, expect=200)
    assert tombstone == {
        "id": message["id"],
        "chat_id": chat["id"],
        "is_deleted": True,
        "client_message_id": body["client_message_id"],
    }
    assert await bruno.history(chat) == []


async def test_who_left_gets_no_answer_to_a_repeat(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    body = {"chat_id": group["id"], "text": "mine", "client_message_id": new_id()}
    await bruno.post("/messages/", body, expect=201)
    await bruno.post(f"/chats/{group['id']}/leave")
    await bruno.post("/messages/", body, expect=404)


@pytest.mark.parametrize("value", ["", "x", "1" * 32 + "-", 5, "00000000-0000-0000-0000"])
async def test_a_client_message_id_is_a_uuid(backend: Backend, value: object) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    body = {"chat_id": chat["id"], "text": "x", "client_message_id": value}
    await anna.post("/messages/", body, expect=422)


async def test_a_refused_send_takes_no_number(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    before = (await anna.chat(chat))["seq"]
    body = {"chat_id": chat["id"], "text": "x" * 5000}
    await anna.post("/messages/", body, expect=422)
    message = {"chat_id": chat["id"], "text": "x", "client_message_id": new_id()}
    await anna.post("/messages/", message, expect=201)
    await anna.post("/messages/", message, expect=200)
    await anna.post("/messages/", message | {"text": "y"}, expect=409)
    assert (await anna.chat(chat))["seq"] == before + 1


async def test_a_repeat_quotes_nothing_from_before_coming_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    old = await anna.say(group, "old")
    body = {
        "chat_id": group["id"],
        "text": "answer",
        "reply_to_message_id": old["id"],
        "client_message_id": new_id(),
    }
    first = await bruno.post("/messages/", body, expect=201)
    assert first["reply_to"]["text_excerpt"] == "old"
    await bruno.post(f"/chats/{group['id']}/leave")
    await anna.put(f"/messages/{old['id']}", {"text": "said behind their back"})
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [bruno.id]})
    await bruno.get(f"/messages/{old['id']}", expect=404)
    again = await bruno.post("/messages/", body, expect=200)
    assert (again["id"], again["text"]) == (first["id"], "answer")
    assert again["reply_to"] == {"message_id": old["id"]}
