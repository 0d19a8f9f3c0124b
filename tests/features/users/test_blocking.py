"""Blocking: who is blocked keeps the past and gets nothing new."""

import pytest

from tests.support.people import Backend, new_id

pytestmark = pytest.mark.anyio


async def test_who_is_blocked_is_listed_until_unblocked(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await anna.put(f"/users/blocked/{bruno.id}", expect=200)
    assert [item["id"] for item in await anna.walk("/users/blocked")] == [bruno.id]
    assert (await anna.get(f"/users/{bruno.id}"))["is_blocked"]
    assert not (await bruno.get(f"/users/{anna.id}"))["is_blocked"]
    await anna.put(f"/users/blocked/{bruno.id}", expect=200)
    await anna.delete(f"/users/blocked/{bruno.id}", expect=204)
    await anna.delete(f"/users/blocked/{bruno.id}", expect=404)
    assert await anna.walk("/users/blocked") == []


async def test_nobody_blocks_an_unknown_user_or_himself(backend: Backend) -> None:
    anna = await backend.sign_up()
    await anna.put(f"/users/blocked/{2**53 - 1}", expect=404)
    refused = await anna.call("PUT", f"/users/blocked/{anna.id}")
    assert 400 <= refused.status_code < 500


async def test_a_blocked_user_reads_the_old_chat_but_writes_no_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    old = await anna.say(chat, "before")
    await anna.put(f"/users/blocked/{bruno.id}")
    body = {"chat_id": chat["id"], "text": "after"}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    assert [message["id"] for message in await bruno.history(chat)] == [old["id"]]
    await anna.delete(f"/users/blocked/{bruno.id}")
    await bruno.say(chat, "again")


async def test_a_blocked_user_cannot_write_by_the_socket_either(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.put(f"/users/blocked/{bruno.id}")
    socket = await bruno.connect()
    await socket.refused("send_message", {"chat_id": chat["id"], "text": "x"}, "not_allowed")


async def test_a_blocked_user_cannot_call(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.put(f"/users/blocked/{bruno.id}")
    socket = await bruno.connect()
    call = {"call_id": new_id(), "chat_id": chat["id"], "kind": "audio", "action": "offer"}
    await socket.refused("call", {**call, "sdp": "v=0"}, "call_not_allowed")


async def test_a_blocked_user_cannot_add_me_to_a_group(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await bruno.group("Friends")
    await anna.put(f"/users/blocked/{bruno.id}")
    path = f"/chats/{group['id']}/members"
    await bruno.post(path, {"user_ids": [anna.id]}, expect=403, code="not_allowed")


async def test_a_blocked_user_sees_no_presence(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await anna.private_chat(bruno)
    await anna.connect()
    assert (await bruno.get(f"/users/{anna.id}"))["presence"]["online"]
    await anna.put(f"/users/blocked/{bruno.id}")
    presence = (await bruno.get(f"/users/{anna.id}"))["presence"]
    assert presence["online"] is False
    assert presence.get("last_seen_at") is None


async def test_my_other_devices_learn_of_the_block(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    socket, foreign = await anna.connect(), await bruno.connect()
    await anna.put(f"/users/blocked/{bruno.id}")
    await socket.expect("blocked_changed", scope="user")
    await foreign.settle()
    assert foreign.seen("blocked_changed") == []
