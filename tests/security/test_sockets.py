"""Hostile sockets from outside (group E).

Elsewhere: `tests/features/gateway/test_sockets.py` (E1 origins, E4 sizes and deflate, E5 rate, E8
malformed frames), `tests/unit/transport/websocket/test_slow_readers.py` (E6), `test_access.py`
(E3) and `test_enumeration.py` (E7).
"""

import asyncio
import json
import random
from contextlib import suppress

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.people import API, Backend
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

_BAD_HANDSHAKES = 300


async def test_refused_handshakes_leave_nothing_behind(backend: Backend) -> None:
    """E2: hundreds of sockets with bad tokens are refused one and all, and hold no descriptor."""
    node = backend.deployment.nodes[0]
    server = psutil.Process(node.pid)
    family = [server, *server.children(recursive=True)]
    anna = await backend.sign_up()
    before = sum(process.num_fds() for process in family)

    async def knock(number: int) -> int | None:
        path = f"/ws/{'x' * 43}" if number % 2 else f"/ws/chat/{number + 1}/{'x' * 43}"
        socket = await Socket.open(node.websocket_url + API + path, hello=False)
        await socket.expect_close(4401, timeout_seconds=30)
        await socket.close()
        return socket.close_code

    for start in range(0, _BAD_HANDSHAKES, 30):
        codes = await asyncio.gather(*(knock(n) for n in range(start, start + 30)))
        assert set(codes) == {4401}

    async def is_back() -> bool:
        return sum(process.num_fds() for process in family) <= before + 10

    await eventually(is_back, timeout_seconds=20, what="the descriptors")
    assert (await anna.connect()).hello["user_id"] == anna.id


async def test_no_frame_ends_more_than_its_own_socket(backend: Backend) -> None:
    """E8: seeded garbage of every known type; the neighbour on each worker talks on."""
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    neighbours = [await bruno.connect() for _ in range(4)]
    chance = random.Random(4)
    kinds = [
        "send_message",
        "read",
        "typing",
        "call",
        "resume",
        "auth",
        "ping",
        "hello",
        "",
        "x" * 99,
    ]
    values: list[object] = [
        *(None, True, -1, 0, 2**53, 2**63, 1e308, "", "\ud7ff", "x" * 9000, [], {}, [[]]),
        *({"user": -1}, {"chat:0": 1}, {"": 1}, {"user": 2**60}, chat["id"]),
    ]
    names = [
        "chat_id",
        "message_id",
        "text",
        "state",
        "epoch",
        "token",
        "action",
        "kind",
        "entities",
    ]
    for _ in range(12):
        socket = await anna.connect()
        for _ in range(25):
            data = {chance.choice(names): chance.choice(values) for _ in range(3)}
            frame = {"type": chance.choice(kinds), "data": data, "request_id": "r"}
            with suppress(ConnectionClosed):
                await socket.send_raw(json.dumps(frame))
        await socket.close()
        assert socket.close_code in {1000, 4400, 4401, 4429}, socket.close_code
    for neighbour in neighbours:
        await neighbour.settle()
        assert neighbour.close_code is None
    message = await anna.say(chat, "still here")
    for neighbour in neighbours:
        await neighbour.expect_message(message["id"])


async def test_a_socket_of_one_chat_acts_in_no_other(backend: Backend) -> None:
    """C2, E3: its frames are refused for every other chat, mine or not."""
    anna, bruno, clara = await backend.people(3)
    here, there = await anna.private_chat(bruno), await anna.private_chat(clara)
    foreign = await bruno.private_chat(clara)
    socket = await anna.connect(chat_id=here["id"])
    for chat in (there, foreign):
        await socket.refused("send_message", {"chat_id": chat["id"], "text": "x"}, "other_chat")
        await socket.refused("typing", {"chat_id": chat["id"], "action": "typing"}, "other_chat")
        epoch, scope = socket.hello["epoch"], f"chat:{chat['id']}"
        await socket.send_frame("resume", {"epoch": epoch, "state": {scope: 0}})
        await socket.expect("scope_reset", {"scope": scope, "seq": 0})
        await socket.expect("resumed")
    assert await clara.history(there) == []
