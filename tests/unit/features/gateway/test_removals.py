"""Nobody hears a channel behind their removal from it, whatever the bus does with the news of it."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from app.features.chats.add_members import add_members
from app.features.chats.change_member import NewRole, change_member
from app.features.chats.leave import leave_chat
from app.features.chats.policy import ChatType, Role
from app.features.chats.remove_member import remove_member
from app.features.gateway import readers
from app.features.gateway.difference import find_difference
from app.features.gateway.fanout import TOPIC
from app.features.updates.log import read_seqs
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import chat_scope
from tests.support.statements import recorded_statements
from tests.unit.features.gateway.conftest import Client, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
def _no_safety_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would find the removal in two seconds: these tests are about the time before it."""
    monkeypatch.setattr(readers, "SAFETY_SECONDS", 3600.0)


def tells_of_the_removal(payload: bytes) -> bool:
    return b'"chat_removed"' in payload


def posts(client: Client) -> list[int]:
    return [frame["data"]["id"] for frame in client.seen("new_message")]


async def post(cluster: Cluster, owner: UserId, chat: ChatId, text: str = "post") -> int:
    return (await cluster.say(owner, chat, text)).message["id"]


@pytest.mark.usefixtures("_no_safety_check")
@pytest.mark.parametrize("way", ["removed", "left", "banned"])
async def test_a_removal_that_the_bus_loses_is_seen_in_the_next_post(
    cluster: Cluster, way: str
) -> None:
    anna, bruno, clara, dora = [await cluster.settle() for _ in range(4)]
    chat = await cluster.group(anna, bruno, clara, dora, kind=ChatType.CHANNEL)
    # So that the number of members was told a moment ago, and the next removal writes nothing there.
    await leave_chat(cluster.db, cluster.tools, user_id=dora, chat_id=chat)
    removed, stays = await cluster.connect(bruno), await cluster.connect(clara)
    alone = await cluster.connect(bruno, chat_id=chat)
    first = await post(cluster, anna, chat)
    for client in (removed, stays, alone):
        await client.expect(lambda client=client: posts(client) == [first])
    cluster.wire.loses = tells_of_the_removal
    db, tools = cluster.db, cluster.tools
    if way == "removed":
        await remove_member(db, tools, actor_id=anna, chat_id=chat, user_id=bruno)
    elif way == "left":
        await leave_chat(db, tools, user_id=bruno, chat_id=chat)
    else:
        wanted = NewRole(role=Role.BANNED)
        await change_member(db, tools, actor_id=anna, chat_id=chat, user_id=bruno, wanted=wanted)
    hidden = [await post(cluster, anna, chat) for _ in range(3)]
    await stays.expect(lambda: posts(stays) == [first, *hidden])
    await alone.expect(lambda: alone.code == 4403)
    assert posts(removed) == posts(alone) == [first]
    assert removed.seen("chat_removed") == []


@pytest.mark.usefixtures("_no_safety_check")
async def test_a_removal_that_is_heard_of_is_not_read_about(cluster: Cluster) -> None:
    """Also on a worker where nobody follows the scope of the one who was removed."""
    people = [await cluster.settle() for _ in range(4)]
    anna, bruno, clara, dora = people
    chat = await cluster.group(*people, kind=ChatType.CHANNEL)
    clients = [await cluster.connect(bruno), await cluster.connect(clara)]
    first = await post(cluster, anna, chat)
    await clients[1].expect(lambda: posts(clients[1]) == [first])
    with recorded_statements(cluster.db) as statements:
        for person in (bruno, dora):
            await remove_member(
                cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_id=person
            )
        later = await post(cluster, anna, chat)
        await clients[1].expect(lambda: posts(clients[1])[-1] == later)
    assert posts(clients[0]) == [first]
    assert not [it for it in statements if "scopes.removals" in it and "chat_participants" in it]


async def test_the_safety_check_finds_a_lost_removal_though_nothing_is_said(
    cluster: Cluster,
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno, kind=ChatType.CHANNEL)
    removed = await cluster.connect(bruno)
    alone = await cluster.connect(bruno, chat_id=chat)
    cluster.wire.loses = lambda _: True
    await remove_member(cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_id=bruno)
    await removed.expect(lambda: removed.seen("chat_removed"), seconds=6)
    await alone.expect(lambda: alone.code == 4403)


async def test_who_comes_back_hears_what_is_said_from_then_on(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno, kind=ChatType.CHANNEL)
    client = await cluster.connect(bruno)
    cluster.wire.loses = tells_of_the_removal
    db, tools = cluster.db, cluster.tools
    for _ in range(3):
        await remove_member(db, tools, actor_id=anna, chat_id=chat, user_id=bruno)
        hidden = await post(cluster, anna, chat)
        await add_members(db, tools, actor_id=anna, chat_id=chat, user_ids=[bruno])
        count = len(client.seen("chat_created"))
        await client.expect(lambda count=count: len(client.seen("chat_created")) > count)
        seen = await post(cluster, anna, chat)
        await client.expect(lambda seen=seen: seen in posts(client))
        assert hidden not in posts(client)


async def test_a_resume_and_a_difference_show_nothing_of_the_time_outside(
    cluster: Cluster,
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno, kind=ChatType.CHANNEL)
    scope = f"chat:{chat}"
    before = await cluster.connect(bruno)
    state, epoch = dict(before.state), before.epoch
    await remove_member(cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_id=bruno)
    hidden = await post(cluster, anna, chat)
    out = await cluster.connect(bruno)
    out.say("resume", {"epoch": epoch, "state": {scope: state[scope]}})
    await out.expect(lambda: out.seen("resumed"))
    assert out.seen("scope_reset")[0]["data"] == {"scope": scope, "seq": 0}
    await add_members(cluster.db, cluster.tools, actor_id=anna, chat_id=chat, user_ids=[bruno])
    back = await cluster.connect(bruno)
    back.say("resume", {"epoch": epoch, "state": {scope: state[scope]}})
    await back.expect(lambda: back.seen("resumed"))
    found = await find_difference(
        cluster.services[0],
        cluster.gateways[0].kinds,
        user_id=bruno,
        epoch=epoch,
        state={scope: state[scope]},
        limit=100,
    )
    # They were outside in between, so the client reads the channel again.
    assert found.resets[scope] == back.state[scope] == back.seen("scope_reset")[0]["data"]["seq"]
    assert hidden not in posts(back)
    assert b"new_message" not in b"".join(found.updates)


def knows(client: Client, post_id: int, seq: int) -> bool:
    """Told of the post, or that the chat stood behind it when the client came in."""
    created = [frame["data"].get("seq", 0) for frame in client.seen("chat_created")]
    return post_id in posts(client) or max(created, default=0) >= seq


@dataclass
class Channel:
    """A channel, who is in it, and what each may hear: the posts of the time that they are in it."""

    cluster: Cluster
    owner: UserId
    id: ChatId
    inside: set[UserId]
    allowed: dict[UserId, set[int]] = field(default_factory=dict)

    async def say(self) -> int:
        said = await post(self.cluster, self.owner, self.id)
        for member in self.inside:
            self.allowed.setdefault(member, set()).add(said)
        return said

    async def move(self, person: UserId) -> None:
        """Out of it or into it."""
        db, tools = self.cluster.db, self.cluster.tools
        where: dict[str, UserId | ChatId] = {"actor_id": self.owner, "chat_id": self.id}
        if person in self.inside:
            await remove_member(db, tools, user_id=person, **where)
        else:
            await add_members(db, tools, user_ids=[person], **where)
        self.inside ^= {person}


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_hears_what_was_said_while_they_were_out_whatever_the_bus_does(
    cluster: Cluster, seed: int
) -> None:
    rng = cluster.wire.rng = random.Random(seed)
    cluster.wire.lost, cluster.wire.doubled = rng.choice([0.1, 0.5, 0.9]), 0.3
    cluster.wire.delay = rng.choice([0.0, 0.03, 0.2])
    anna, *people = [await cluster.settle() for _ in range(4)]
    chat = await cluster.group(anna, *people, kind=ChatType.CHANNEL)
    channel = Channel(cluster, anna, chat, set(people))
    clients = [(it, await cluster.connect(it, worker)) for it in people for worker in (0, 1, 1)]
    for _ in range(25):
        await rng.choice([channel.say, lambda: channel.move(rng.choice(people))])()
        await asyncio.sleep(rng.choice([0.0, 0.0, 0.01, 0.05]))
    last = await channel.say()
    scope = chat_scope(chat)
    end = (await cluster.db.read(lambda tx: read_seqs(tx, [scope])))[scope]
    for person, client in clients:
        if person in channel.inside:
            await client.expect(lambda client=client: knows(client, last, end))
    for person, client in clients:
        heard = posts(client)
        assert heard == sorted(set(heard))
        assert set(heard) <= channel.allowed.get(person, set())


async def test_a_worker_of_the_version_before_is_understood(cluster: Cluster) -> None:
    """It publishes without a revision, and its removals have none."""
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno, kind=ChatType.CHANNEL)
    client = await cluster.connect(bruno)
    await post(cluster, anna, chat)
    await client.expect(lambda: posts(client))
    seq = client.seqs(f"chat:{chat}")[-1] + 1
    frame = b'{"type":"new_message","scope":"chat:%d","seq":%d,"data":{"id":7}}' % (chat, seq)
    removed = b'{"type":"chat_removed","scope":"user","seq":9,"data":{"chat_id":9,"reason":"left"}}'
    bus = cluster.wire.buses[1]
    bus.hear(TOPIC, b"[2,%d,9,[],[]]\n%s" % (bruno, removed))
    bus.hear(TOPIC, b"[1,%d,%d,[],[]]\n%s" % (chat, seq, frame))
    await client.expect(lambda: posts(client)[-1] == 7)
