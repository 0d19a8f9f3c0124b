"""Forwarding one or several messages."""

import pytest

from tests.support.people import Backend, new_id

pytestmark = pytest.mark.anyio


async def test_several_messages_are_forwarded_in_order(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    source, target = await anna.private_chat(bruno), await anna.private_chat(clara)
    bold = [{"type": "bold", "offset": 0, "length": 1}]
    originals = [await bruno.say(source, str(n), entities=bold) for n in range(3)]
    ids = [message["id"] for message in originals]
    body = {
        "chat_id": target["id"],
        "forward_from": {"chat_id": source["id"], "message_ids": ids},
    }
    socket = await clara.connect()
    answer = await anna.post("/messages/", body, expect=201)
    assert [item["text"] for item in answer["items"]] == ["0", "1", "2"]
    assert [item["entities"] for item in answer["items"]] == [bold] * 3
    for item in answer["items"]:
        assert item["sender"]["id"] == anna.id
        assert item["forward_from"] is not None
        await socket.expect_message(item["id"])


async def test_a_forward_is_safe_to_retry(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    ids = [(await bruno.say(chat, str(n)))["id"] for n in range(2)]
    client_ids = [new_id(), new_id()]
    forward = {"chat_id": chat["id"], "message_ids": ids, "client_message_ids": client_ids}
    body = {"chat_id": chat["id"], "forward_from": forward}
    first = await anna.post("/messages/", body, expect=201)
    again = await anna.post("/messages/", body, expect=200)
    assert again == first
    assert [item["client_message_id"] for item in first["items"]] == client_ids


async def test_what_i_cannot_read_i_cannot_forward(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "secret")
    mine = await eve.private_chat(eve)
    own = await eve.say(mine, "own")
    for source, ids in (
        (chat["id"], [message["id"]]),
        (mine["id"], [message["id"]]),
        (mine["id"], [own["id"], message["id"]]),
        (mine["id"], [2**53 - 1]),
    ):
        forward = {"chat_id": source, "message_ids": ids}
        await eve.post("/messages/", {"chat_id": mine["id"], "forward_from": forward}, expect=404)
    assert len(await eve.history(mine)) == 1


@pytest.mark.parametrize("count", [0, 101])
async def test_one_to_a_hundred_messages(backend: Backend, count: int) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    forward = {"chat_id": chat["id"], "message_ids": list(range(1, count + 1))}
    await anna.post("/messages/", {"chat_id": chat["id"], "forward_from": forward}, expect=422)


async def test_client_ids_are_one_for_each_message(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await anna.say(chat, "x")
    for client_ids in ([], [new_id(), new_id()]):
        forward = {
            "chat_id": chat["id"],
            "message_ids": [message["id"]],
            "client_message_ids": client_ids,
        }
        body = {"chat_id": chat["id"], "forward_from": forward}
        await anna.post("/messages/", body, expect=422)


async def test_a_forward_outlives_the_original(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, saved = await anna.private_chat(bruno), await anna.private_chat(anna)
    message = await bruno.say(chat, "keep")
    forward = {"chat_id": chat["id"], "message_ids": [message["id"]]}
    await anna.post("/messages/", {"chat_id": saved["id"], "forward_from": forward}, expect=201)
    await bruno.delete(f"/messages/{message['id']}", for_everyone=True)
    assert [item["text"] for item in await anna.history(saved)] == ["keep"]


async def test_a_repeat_is_answered_after_leaving_the_source(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    message = await anna.say(group, "worth keeping")
    mine = await bruno.private_chat(bruno)
    forward = {"chat_id": group["id"], "message_ids": [message["id"]]}
    body = {"chat_id": mine["id"], "forward_from": forward, "client_message_id": new_id()}
    first = await bruno.post("/messages/", body, expect=201)
    await bruno.post(f"/chats/{group['id']}/leave")
    assert await bruno.post("/messages/", body, expect=200) == first
    await bruno.post("/messages/", body | {"client_message_id": new_id()}, expect=404)
