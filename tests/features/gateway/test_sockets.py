"""Opening a socket, its first frame, and why it is closed."""

import json
import os
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.people import Backend, is_time
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio


async def test_hello_says_who_where_and_when(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "text")
    hello = (await anna.connect()).hello
    documented = {"user_id", "session_id", "server_time", "heartbeat_seconds", "epoch", "state"}
    assert hello.keys() - {"more"} == documented
    assert hello["user_id"] == anna.id
    assert is_time(hello["server_time"])
    assert 1 <= hello["heartbeat_seconds"] <= 30
    assert hello["state"].keys() == {"user", f"chat:{chat['id']}"}
    assert hello["state"][f"chat:{chat['id']}"] == (await anna.chat(chat))["seq"]
    session_ids = [item["id"] for item in (await anna.get("/auth/sessions"))["items"]]
    assert hello["session_id"] in session_ids


async def test_an_access_token_opens_a_socket_too(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect(token=anna.access_token)
    assert socket.hello["user_id"] == anna.id


@pytest.mark.parametrize("token", ["x", "a.b.c", "%00", "x" * 3000])
async def test_what_is_no_token_is_closed_as_not_signed_in(backend: Backend, token: str) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect(token=token, hello=False)
    await socket.expect_close(4401)
    assert socket.frames == []


async def test_a_refresh_token_opens_no_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect(token=anna.tokens["refresh_token"], hello=False)
    await socket.expect_close(4401)


async def test_the_socket_of_a_chat_carries_that_chat_alone(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await anna.private_chat(clara)
    socket = await anna.connect(chat_id=chat["id"])
    assert f"chat:{other['id']}" not in socket.hello["state"]
    hidden = await clara.say(other, "elsewhere")
    message = await bruno.say(chat, "here")
    await socket.expect_message(message["id"])
    second = await bruno.say(chat, "here again")
    await socket.expect_message(second["id"])
    assert socket.seen("new_message", {"id": hidden["id"]}) == []


async def test_a_foreign_and_an_unknown_chat_are_closed_alike(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    for chat_id in (chat["id"], 2**53 - 1):
        socket = await eve.connect(token=eve.access_token, chat_id=chat_id, hello=False)
        await socket.expect_close(4403)
        assert socket.frames == []


async def test_a_foreign_origin_is_refused_before_accept(backend: Backend) -> None:
    anna = await backend.sign_up()
    with pytest.raises(InvalidStatus) as refusal:
        await anna.connect(origin="https://evil.example", hello=False)
    assert refusal.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refusal:
        await anna.connect(origin="null", hello=False)
    assert refusal.value.response.status_code == 403


async def test_our_own_origin_is_welcome(backend: Backend) -> None:
    anna = await backend.sign_up()
    node = backend.deployment.nodes[0]
    url = f"{node.websocket_url}/api/v1/ws/{await anna.ticket()}"
    socket = await Socket.open(url, origin=node.base_url)
    backend.stack.push_async_callback(socket.close)


async def test_a_ping_is_answered(backend: Backend) -> None:
    socket = await (await backend.sign_up()).connect()
    await socket.send_frame("ping", {}, "r1")
    frame = await socket.expect("pong")
    assert frame.get("request_id") in {None, "r1"}


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "x",
        "[]",
        "5",
        "null",
        "{}",
        '{"type": 5, "data": {}}',
        '{"type": "ping", "data": []}',
        '{"type": "ping", "type": "ping", "data": {}}',
        '{"type": "ping", "data": {"x": NaN}}',
        '{"type": "ping", "data": {"x": "\\ud800"}}',
        '{"type": "ping", "data": {"x": "\\u0000"}}',
        '{"type": "ping", "data": ' + '{"a":' * 50 + "1" + "}" * 51,
        b"\x00\x01",
        b'{"type": "ping", "data": {}}',
    ],
)
async def test_a_malformed_frame_closes_that_socket_alone(
    backend: Backend, raw: str | bytes
) -> None:
    anna = await backend.sign_up()
    socket, other = await anna.connect(), await anna.connect()
    await socket.send_raw(raw)
    await socket.expect_close(4400)
    await other.settle()


async def test_an_unknown_type_is_an_error_not_a_fault(backend: Backend) -> None:
    socket = await (await backend.sign_up()).connect()
    await socket.send_raw(json.dumps({"type": "dance", "data": {}, "request_id": "r1"}))
    frame = await socket.expect("error", lambda frame: frame.get("request_id") == "r1")
    assert frame["error"]["status"] in {400, 404, 422}
    await socket.settle()


async def test_a_frame_over_64_kib_closes_the_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket, other = await anna.connect(), await anna.connect()
    await socket.send_frame("ping", {"x": "y" * 70_000})
    await socket.expect_close(4413)
    await other.settle()


async def test_a_frame_of_many_megabytes_is_not_read(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect()
    with suppress(ConnectionClosed):  # while we still send
        await socket.send_raw("x" * 8_000_000)
    await socket.expect_close(4413)


async def test_too_many_frames_close_the_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket, other = await anna.connect(), await anna.connect()
    frame = json.dumps({"type": "ping", "data": {}})
    for _ in range(20_000):
        if socket.close_code:
            break
        with suppress(ConnectionClosed):
            await socket.send_raw(frame)
    await socket.expect_close(4429)
    await other.settle()


async def test_compression_is_not_negotiated(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect(compression="deflate")
    assert socket.response_headers.get("Sec-WebSocket-Extensions") is None


async def test_random_frames_never_harm_others(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    witness = await bruno.connect()
    for size in (1, 10, 100, 1000):
        socket = await anna.connect()
        await socket.send_raw(os.urandom(size).decode("latin-1"))
        await socket.expect_close(4400)
    message = await anna.say(chat, "still here")
    await witness.expect_message(message["id"])


async def test_a_socket_outlives_its_token_by_a_new_one(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    socket = await anna.connect()
    await socket.request("auth", {"token": anna.access_token})
    await socket.request("auth", {"token": await anna.ticket()})
    for token in (eve.access_token, "x", anna.tokens["refresh_token"]):
        await socket.refused("auth", {"token": token}, "token_invalid")
    await socket.settle()


async def test_sockets_of_a_removed_member_s_chat_are_closed(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    socket = await bruno.connect(chat_id=group["id"])
    await anna.delete(f"/chats/{group['id']}/members/{bruno.id}")
    await socket.expect_close(4403)
