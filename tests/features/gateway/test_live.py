"""What is delivered live: every update once, in order, to everyone concerned and to nobody else."""

import asyncio

import pytest

from tests.support.people import Backend
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio


def gapless(socket: Socket, scope: str, first: int) -> None:
    seqs = socket.seqs(scope)
    assert seqs == list(range(first + 1, first + 1 + len(seqs))), seqs


async def test_a_message_reaches_all_devices_of_all_members(backend: Backend) -> None:
    anna, *others = await backend.people(5)
    group = await anna.group("Group", others)
    scope = f"chat:{group['id']}"
    sockets = [await person.connect() for person in (anna, *others) * 2]
    messages = [await anna.say(group, str(n)) for n in range(5)]
    for socket in sockets:
        first = socket.state[scope]
        for message in messages:
            frame = await socket.expect_message(message["id"])
            assert frame["scope"] == scope
        gapless(socket, scope, first)


async def test_everybody_sees_one_order_under_parallel_sends(backend: Backend) -> None:
    people = await backend.people(6)
    group = await people[0].group("Busy", people[1:])
    scope = f"chat:{group['id']}"
    sockets = [await person.connect() for person in people]
    sends = [person.say(group, f"{n}") for n in range(10) for person in people]
    messages = await asyncio.gather(*sends)
    for socket in sockets:
        for message in messages:
            await socket.expect_message(message["id"])
        gapless(socket, scope, socket.state[scope])
    orders = {tuple(f["data"]["id"] for f in socket.seen("new_message")) for socket in sockets}
    assert len(orders) == 1
    order = list(orders.pop())
    assert order == sorted(order)
    history = await people[0].history(group, limit=100)
    newest = [message["id"] for message in history if message["type"] == "text"]
    assert newest == order[::-1]


async def test_people_on_different_nodes_talk(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sockets = [await bruno.connect() for _ in range(2 * len(backend.deployment.nodes) + 2)]
    for node in backend.deployment.nodes:
        anna.client.base_url = node.base_url
        message = await anna.say(chat, "hello")
        for socket in sockets:
            await socket.expect_message(message["id"])


async def test_what_is_pushed_can_be_read_at_once_on_every_node(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await bruno.connect()
    for _ in range(10):
        message = await anna.say(chat, "text")
        await socket.expect_message(message["id"])
        for node in backend.deployment.nodes:
            bruno.client.base_url = node.base_url
            await bruno.get(f"/messages/{message['id']}", expect=200)


async def test_strangers_hear_nothing(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat, own = await anna.private_chat(bruno), await eve.private_chat(eve)
    socket = await eve.connect()
    message = await anna.say(chat, "secret")
    await anna.put(f"/messages/{message['id']}", {"text": "still secret"})
    await anna.delete(f"/messages/{message['id']}", for_everyone=True)
    marker = await eve.say(own, "marker")
    await socket.expect_message(marker["id"])
    assert {frame.get("scope") for frame in socket.frames} <= {"user", f"chat:{own['id']}"}


async def test_a_chat_made_while_connected_is_followed_from_its_seq(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    socket = await bruno.connect()
    chat = await anna.private_chat(bruno)
    created = await socket.expect("chat_created", scope="user")
    told = created["data"].get("chat", created["data"])
    assert told["id"] == chat["id"]
    for n in range(3):
        message = await anna.say(chat, str(n))
        await socket.expect_message(message["id"])
    gapless(socket, f"chat:{chat['id']}", told["seq"])


async def test_typing_is_shown_to_the_others_and_kept_nowhere(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await bruno.private_chat(eve)
    writer, reader, stranger = [await person.connect() for person in (anna, bruno, eve)]
    await writer.send_frame("typing", {"chat_id": chat["id"], "action": "typing"})
    frame = await reader.expect("typing", {"chat_id": chat["id"], "user_id": anna.id})
    assert frame["data"]["action"] == "typing"
    assert "seq" not in frame
    marker = await bruno.say(other, "marker")
    await stranger.expect_message(marker["id"])
    assert stranger.seen("typing") == []
    assert writer.seen("typing") == []


@pytest.mark.parametrize("data", [{}, {"chat_id": "1"}, {"chat_id": 1, "action": "x" * 100}])
async def test_wrong_typing_is_an_error(backend: Backend, data: dict[str, object]) -> None:
    socket = await (await backend.sign_up()).connect()
    await socket.refused("typing", data, "validation_error")


async def test_typing_in_a_chat_of_others_is_not_found(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    socket, reader = await eve.connect(), await bruno.connect()
    await socket.refused("typing", {"chat_id": chat["id"], "action": "typing"}, "chat_not_found")
    marker = await anna.say(chat, "marker")
    await reader.expect_message(marker["id"])
    assert reader.seen("typing") == []
