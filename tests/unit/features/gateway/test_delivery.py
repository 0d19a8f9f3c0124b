"""Every update of a scope reaches every socket that follows it, once and in order, whatever gets lost."""

import asyncio

import pytest

from app.features.chats.add_members import add_members
from app.features.chats.delete import delete_chat
from app.features.chats.policy import ChatType
from app.features.chats.remove_member import remove_member
from app.features.gateway.difference import find_difference
from app.features.messages.edit import edit_message
from tests.unit.features.gateway.conftest import Client, Cluster

pytestmark = pytest.mark.anyio


def is_whole(client: Client, scope: str, upto: int) -> bool:
    """The numbers above `hello`'s, each once, in order, up to `upto`."""
    first = client.state.get(scope, 0) + 1
    return client.seqs(scope) == list(range(first, upto + 1))


async def test_a_lost_publish_costs_seconds_and_nothing_else(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    client = await cluster.connect(bruno)
    cluster.wire.lost = 1.0
    for n in range(5):
        await cluster.say(anna, chat, str(n))
    upto = client.state[f"chat:{chat}"] + 5
    await client.expect(lambda: is_whole(client, f"chat:{chat}", upto), seconds=6)


@pytest.mark.parametrize("lost", [0.0, 1.0])
async def test_the_end_of_a_chat_is_told_whatever_is_lost(cluster: Cluster, lost: float) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    clients = [await cluster.connect(bruno, worker) for worker in (0, 1)]
    cluster.wire.lost = lost
    await delete_chat(cluster.db, cluster.tools, user_id=anna, chat_id=chat, for_everyone=False)
    gone = {"scope": scope, "seq": 0}
    for client in clients:
        await client.expect(
            lambda client=client: (
                client.seen("chat_deleted")
                or gone in [frame["data"] for frame in client.seen("scope_reset")]
            )
        )


async def test_a_bus_that_loses_doubles_and_reorders_changes_nothing(cluster: Cluster) -> None:
    people = [await cluster.settle() for _ in range(4)]
    chat = await cluster.group(people[0], *people[1:])
    scope = f"chat:{chat}"
    clients = [await cluster.connect(person, worker) for person in people for worker in (0, 1)]
    cluster.wire.lost, cluster.wire.doubled, cluster.wire.delay = 0.3, 0.3, 0.1
    await asyncio.gather(
        *(cluster.say(person, chat, f"{n}") for n in range(15) for person in people)
    )
    upto = clients[0].state[scope] + 60
    for client in clients:
        await client.expect(lambda client=client: is_whole(client, scope, upto))
    assert len({str(client.seen("new_message")) for client in clients}) == 1


async def test_sockets_that_open_while_others_write_miss_and_repeat_nothing(
    cluster: Cluster,
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    before = await cluster.connect(bruno)
    known, epoch = before.state[scope], before.epoch
    writing = asyncio.gather(*(cluster.say(anna, chat, str(n)) for n in range(40)))
    fresh, resumed = [], []
    for _ in range(6):
        fresh.append(await cluster.connect(bruno))
        client = await cluster.connect(bruno)
        client.say("resume", {"epoch": epoch, "state": {scope: known}})
        resumed.append(client)
        await asyncio.sleep(0.01)
    await writing
    upto = known + 40
    for client in [before, *fresh]:
        await client.expect(lambda client=client: is_whole(client, scope, upto))
    for client in resumed:
        await client.expect(lambda client=client: client.seen("resumed"))
        await client.expect(
            lambda client=client: client.seqs(scope) == list(range(known + 1, upto + 1))
        )


async def test_a_resume_that_comes_late_repeats_nothing_that_was_live(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    for n in range(4):
        await cluster.say(anna, chat, str(n))
    client = await cluster.connect(bruno)
    hello = client.state[scope]
    await cluster.say(anna, chat, "live")
    await client.expect(lambda: client.seqs(scope) == [hello + 1])
    client.say("resume", {"epoch": client.epoch, "state": {scope: hello - 3}})
    await client.expect(lambda: client.seen("resumed"))
    await cluster.say(anna, chat, "later")
    await client.expect(lambda: hello + 2 in client.seqs(scope))
    assert sorted(client.seqs(scope)) == list(range(hello - 2, hello + 3))


async def test_a_new_chat_is_followed_from_its_number_on(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    clients = [await cluster.connect(bruno, worker) for worker in (0, 1)]
    cluster.wire.lost, cluster.wire.delay = 0.3, 0.05
    chat = await cluster.group(anna, bruno)
    await asyncio.gather(*(cluster.say(anna, chat, str(n)) for n in range(10)))
    upto = 11  # the service message of the creation, then ten
    for client in clients:
        await client.expect(lambda client=client: client.seen("chat_created"))
        start = client.seen("chat_created")[0]["data"]["seq"]
        await client.expect(
            lambda client=client, start=start: (
                client.seqs(f"chat:{chat}") == list(range(start + 1, upto + 1))
            )
        )


@pytest.mark.parametrize("lost", [0.0, 1.0])
async def test_a_removed_member_hears_nothing_behind_the_removal(
    cluster: Cluster, lost: float
) -> None:
    anna, bruno, clara = [await cluster.settle() for _ in range(3)]
    chat = await cluster.group(anna, bruno, clara)
    scope = f"chat:{chat}"
    removed, stays = await cluster.connect(bruno), await cluster.connect(clara)
    alone = await cluster.connect(bruno, chat_id=chat)
    await cluster.say(anna, chat, "still for all")
    await removed.expect(lambda: removed.seen("new_message"))
    cluster.wire.lost = lost
    tools = cluster.tools
    await remove_member(cluster.db, tools, actor_id=anna, chat_id=chat, user_id=bruno)
    after = await cluster.say(anna, chat, "not for bruno")
    await stays.expect(lambda: after.message["id"] in ids(stays))
    await removed.expect(lambda: removed.seen("chat_removed"))
    await alone.expect(lambda: alone.code == 4403)
    assert after.message["id"] not in ids(removed)
    assert after.message["id"] not in ids(alone)
    cluster.wire.lost = 0.0
    await add_members(cluster.db, tools, actor_id=anna, chat_id=chat, user_ids=[bruno])
    # It tells the chat as it is when it is read: what is said before that, the client has in it.
    await removed.expect(lambda: len(removed.seen("chat_created")) == 1)
    again = await cluster.say(anna, chat, "for bruno again")
    await removed.expect(lambda: again.message["id"] in ids(removed))
    start = removed.seen("chat_created")[-1]["data"]["seq"]
    tail = [seq for seq in removed.seqs(scope) if seq > start]
    assert tail == list(range(start + 1, start + 1 + len(tail)))
    assert after.message["id"] not in ids(removed)


async def test_a_channel_falls_silent_for_whoever_is_removed(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno, kind=ChatType.CHANNEL)
    client = await cluster.connect(bruno)
    await remove_member(cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_id=bruno)
    await client.expect(lambda: client.seen("chat_removed"))
    await cluster.say(anna, chat, "not for bruno")
    marker = await cluster.group(bruno)
    await client.expect(lambda: client.seen("chat_created"))
    assert client.seen("chat_created")[0]["data"]["id"] == marker
    assert client.seen("new_message") == []


async def test_a_newcomer_sees_nothing_of_what_was_before(cluster: Cluster) -> None:
    anna, bruno, clara = [await cluster.settle() for _ in range(3)]
    chat = await cluster.group(anna, clara)
    old = (await cluster.say(anna, chat, "old secret")).message["id"]
    newcomer, witness = await cluster.connect(bruno), await cluster.connect(clara)
    await add_members(cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_ids=[bruno])
    await newcomer.expect(lambda: newcomer.seen("chat_created"))
    keyring = cluster.services[0].keyring
    await edit_message(
        cluster.db, keyring, editor_id=anna, message_id=old, text="edited secret", entities=None
    )
    await cluster.say(anna, chat, "see above", reply_to_id=old)
    for client in (newcomer, witness):
        await client.expect(lambda client=client: ids(client))
    assert "secret" in str(witness.frames)
    assert "secret" not in str(newcomer.frames)
    assert newcomer.seen("message_edited")[0]["data"] == {
        "id": old,
        "chat_id": chat,
        "is_deleted": True,
    }
    assert newcomer.seen("new_message")[-1]["data"]["reply_to"] == {"message_id": old}
    again = await cluster.connect(bruno)
    start = newcomer.seen("chat_created")[0]["data"]["seq"]
    again.say("resume", {"epoch": again.epoch, "state": {f"chat:{chat}": start}})
    await again.expect(lambda: again.seen("resumed"))
    assert "secret" not in str(again.frames)
    found = await find_difference(
        cluster.services[0],
        cluster.gateways[0].kinds,
        user_id=bruno,
        epoch=again.epoch,
        state={f"chat:{chat}": start},
        limit=100,
    )
    assert found.updates
    assert b"secret" not in b"".join(found.updates)


async def test_a_reader_that_stalls_is_closed_and_delays_nobody(cluster: Cluster) -> None:
    anna, bruno, clara = [await cluster.settle() for _ in range(3)]
    chat = await cluster.group(anna, bruno, clara)
    slow, quick = await cluster.connect(bruno), await cluster.connect(clara)
    first = await cluster.say(anna, chat, "live")
    await slow.expect(lambda: first.message["id"] in ids(slow))
    slow.takes.clear()
    text = "x" * 4000
    sent = 1
    while slow.socket.connection.close_code is None:
        await asyncio.gather(*(cluster.say(anna, chat, text) for _ in range(32)))
        sent += 32
        assert slow.socket.connection.waiting_bytes() <= 1_048_576
        assert sent < 600
    await quick.expect(lambda: len(quick.seen("new_message")) == sent)
    slow.takes.set()
    await slow.expect(lambda: slow.code == 4409)


async def test_a_client_that_was_away_for_long_gets_everything_in_pages(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chats = [await cluster.group(anna, bruno) for _ in range(3)]
    before = await cluster.connect(bruno)
    state = dict(before.state)
    before.hang_up()
    for start in range(0, 600, 50):
        await asyncio.gather(
            *(cluster.say(anna, chats[n % 3], str(n)) for n in range(start, start + 50))
        )
    client = await cluster.connect(bruno)
    client.say("resume", {"epoch": client.epoch, "state": state}, "r1")
    await client.expect(lambda: client.seen("resumed"), seconds=20)
    for chat in chats:
        scope = f"chat:{chat}"
        assert client.seqs(scope) == list(range(state[scope] + 1, state[scope] + 201))


async def test_a_long_replay_of_long_messages_closes_no_reader_who_keeps_up(
    cluster: Cluster,
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    before = await cluster.connect(bruno)
    known, epoch = before.state[scope], before.epoch
    before.hang_up()
    for start in range(0, 160, 32):
        texts = ["\u20ac" * 4096 for _ in range(start, start + 32)]
        await asyncio.gather(*(cluster.say(anna, chat, text) for text in texts))
    client = await cluster.connect(bruno)
    client.is_far = True
    client.say("resume", {"epoch": epoch, "state": {scope: known}})
    await client.expect(lambda: client.seen("resumed") or client.code, seconds=20)
    assert client.code is None
    assert client.seqs(scope) == list(range(known + 1, known + 161))


def ids(client: Client) -> list[int]:
    return [frame["data"]["id"] for frame in client.seen("new_message")]
