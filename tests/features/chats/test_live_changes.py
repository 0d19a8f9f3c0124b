"""Open sockets follow a chat exactly as long as its member is in it."""

import pytest

from tests.support.people import Backend, new_id

pytestmark = pytest.mark.anyio


async def test_a_private_chat_off_my_list_comes_back_live_with_a_message(
    backend: Backend,
) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await bruno.say(chat, "old")
    socket = await anna.connect()
    await anna.delete(f"/chats/{chat['id']}", expect=204)
    await socket.expect("chat_removed", {"chat_id": chat["id"]}, scope="user")
    message = await bruno.say(chat, "new")
    await socket.expect_message(message["id"])
    assert (await anna.chat(chat))["unread_count"] == 1


async def test_a_channel_is_heard_from_joining_to_leaving(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    channel = await anna.channel("News", username="news_" + new_id()[:8])
    socket, admin = await bruno.connect(), await anna.connect()
    await bruno.post(f"/chats/{channel['id']}/join", expect=200)
    await socket.follow(channel)
    told = await admin.expect("members_changed", {"chat_id": channel["id"]}, scope="user")
    assert [member["user"]["id"] for member in told["data"]["members"]] == [bruno.id]
    heard = await anna.say(channel, "heard")
    await socket.expect_message(heard["id"])
    await bruno.post(f"/chats/{channel['id']}/leave", expect=204)
    await socket.expect("chat_removed", {"chat_id": channel["id"]}, scope="user")
    unheard = await anna.say(channel, "not heard")
    await admin.expect_message(unheard["id"])
    elsewhere = await anna.private_chat(bruno)
    await socket.follow(elsewhere)
    marker = await anna.say(elsewhere, "marker")
    await socket.expect_message(marker["id"])
    assert socket.seen("new_message", {"id": unheard["id"]}) == []


async def test_rights_that_change_are_told_at_once(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    socket = await bruno.connect()
    body = {"role": "restricted", "permissions": []}
    await anna.put(f"/chats/{group['id']}/members/{bruno.id}", body)
    told = await socket.expect("members_changed", scope=f"chat:{group['id']}")
    [member] = told["data"]["members"]
    assert (member["role"], member["permissions"]) == ("restricted", [])
    send = {"chat_id": group["id"], "text": "x"}
    await bruno.post("/messages/", send, expect=403, code="not_allowed")
