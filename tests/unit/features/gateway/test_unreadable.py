"""What cannot be had of the log (pruned, or not to be filled in) costs its scope a reset, and others nothing."""

import logging
from collections.abc import Sequence

import pytest

from app.features.gateway import fanout, readers
from app.features.gateway.difference import Found, find_difference
from app.features.messages.edit import edit_message
from app.features.updates.jobs import prune
from app.features.updates.log import lock_scopes
from app.infra.database.database import open_database
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import SystemClock
from app.kernel.ids import UserId
from app.kernel.scopes import Scope, ScopeKind, chat_scope, user_scope
from app.transport.feature import Content, LoggedUpdate, UpdateKind
from tests.support.databases import SetClock
from tests.unit.features.gateway.conftest import Client, Cluster

pytestmark = pytest.mark.anyio


class Broken:
    """A filler with a fault: it fails for any batch with a row of these subjects."""

    def __init__(self, *subjects: int) -> None:
        self.subjects = set(subjects)
        self.calls = 0

    async def __call__(
        self, tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
    ) -> Sequence[Content]:
        self.calls += 1
        if any(update.subject_id in self.subjects for update in updates):
            raise LookupError("a fault of this filler")
        return [{"id": update.subject_id} for update in updates]


def break_kind(cluster: Cluster, *subjects: int, scope: ScopeKind = ScopeKind.CHAT) -> Broken:
    """`noted` becomes a kind of update whose filler is broken for these subjects."""
    broken = Broken(*subjects)
    for gateway in cluster.gateways:
        gateway.kinds._kinds[scope, "noted"] = UpdateKind("noted", scope, broken)
    return broken


async def note(cluster: Cluster, scope: Scope, *subjects: int) -> None:
    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [scope])
        for subject in subjects:
            log.append(scope, "noted", subject_id=subject)

    await cluster.db.write(work)


async def difference(cluster: Cluster, user_id: UserId, epoch: str, state: dict[str, int]) -> Found:
    services, kinds = cluster.services[0], cluster.gateways[0].kinds
    return await find_difference(
        services, kinds, user_id=user_id, epoch=epoch, state=state, limit=100
    )


def told(client: Client, scope: str) -> list[object]:
    """What the client got of a scope, in order: numbers, and resets with theirs."""
    frames: list[object] = []
    for frame in client.frames:
        if frame["type"] == "scope_reset" and frame["data"]["scope"] == scope:
            frames.append(("reset", frame["data"]["seq"]))
        elif frame.get("scope") == scope:
            frames.append(frame["seq"])
    return frames


def ids(client: Client) -> list[int]:
    return [frame["data"]["id"] for frame in client.seen("new_message")]


async def resumed(cluster: Cluster, person: UserId, state: dict[str, int]) -> Client:
    client = await cluster.connect(person)
    client.say("resume", {"epoch": client.epoch, "state": state})
    await client.expect(lambda: client.seen("resumed"))
    return client


async def test_a_row_that_cannot_be_filled_in_is_skipped_by_a_reset_and_logged_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    clients = [await cluster.connect(bruno, worker) for worker in (0, 1)]
    seq = clients[0].state[scope]
    break_kind(cluster, 13)
    with caplog.at_level(logging.ERROR):
        await note(cluster, chat_scope(chat), 11, 12, 13, 14)
        await cluster.say(anna, chat, "behind it")
        expected = [seq + 1, seq + 2, ("reset", seq + 3), seq + 4, seq + 5]
        for client in clients:
            await client.expect(lambda client=client: told(client, scope) == expected)
    reports = [it for it in caplog.records if it.message == "update_not_filled"]
    assert len(reports) == 1
    assert reports[0].exc_info is not None
    # What comes then is not delayed by it.
    live = await cluster.say(anna, chat, "live")
    for client in clients:
        await client.expect(lambda client=client: ids(client)[-1] == live.message["id"])


async def test_it_delays_no_other_scope(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "_MAX_TRIES", 1000)
    monkeypatch.setattr(fanout, "_RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(readers, "_RETRY_SECONDS", 3600.0)
    anna, bruno = await cluster.settle(), await cluster.settle()
    bad, *others = [await cluster.group(anna, bruno) for _ in range(4)]
    client = await cluster.connect(bruno)
    break_kind(cluster, 13)
    await note(cluster, chat_scope(bad), 13)
    for n in range(10):
        for chat in others:
            await note(cluster, chat_scope(chat), n)
    for chat in others:
        first = client.state[f"chat:{chat}"]
        await client.expect(
            lambda chat=chat, first=first: (
                told(client, f"chat:{chat}") == list(range(first + 1, first + 11))
            )
        )
    assert told(client, f"chat:{bad}") == []


async def test_a_read_that_fails_as_a_whole_is_tried_for_each_scope_alone(
    cluster: Cluster,
) -> None:
    """For instance for a row with references that nobody understands."""
    anna, bruno = await cluster.settle(), await cluster.settle()
    bad, good = [await cluster.group(anna, bruno) for _ in range(2)]
    client = await cluster.connect(bruno)
    break_kind(cluster)
    first = client.state[f"chat:{good}"]

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [chat_scope(bad), chat_scope(good)])
        log.append(chat_scope(bad), "noted", subject_id=1, data={"_joined": 5})
        log.append(chat_scope(good), "noted", subject_id=2)

    await cluster.db.write(work)
    await client.expect(lambda: told(client, f"chat:{good}") == [first + 1])
    # The other one is given up after some tries: a new socket reads its chats again.
    await client.expect(lambda: client.code == 1012)


async def test_a_resume_and_a_difference_are_not_ended_by_it(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    before = await cluster.connect(bruno)
    state = dict(before.state)
    before.hang_up()
    break_kind(cluster, 13)
    await note(cluster, chat_scope(chat), 11, 13, 14)
    seq = state[scope]
    client = await resumed(cluster, bruno, {scope: seq})
    assert told(client, scope) == [seq + 1, ("reset", seq + 3)]
    found = await difference(cluster, bruno, client.epoch, state)
    assert (found.resets, found.state[scope], found.has_more) == ({scope: seq + 3}, seq + 3, False)


async def test_in_a_user_scope_it_costs_a_new_connection(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was skipped may have told of a new chat."""
    monkeypatch.setattr(fanout, "_RETRY_SECONDS", 0.05)
    bruno = await cluster.settle()
    client = await cluster.connect(bruno)
    state = dict(client.state)
    break_kind(cluster, 13, scope=ScopeKind.USER)
    await note(cluster, user_scope(bruno), 13)
    await client.expect(lambda: client.code == 1012)
    again = await resumed(cluster, bruno, state)
    assert told(again, "user") == [("reset", state["user"] + 1)]


async def test_cursors_from_before_the_retention_are_reset_everywhere(
    cluster: Cluster, clock: SetClock
) -> None:
    clock.advance(days=-31)
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    before = await cluster.connect(bruno)
    state = dict(before.state)
    before.hang_up()
    for n in range(5):
        await cluster.say(anna, chat, str(n))
    await cluster.group(anna, bruno)
    clock.advance(days=31)
    await prune(cluster.services[0])
    kept = await cluster.say(anna, chat, "kept")
    client = await resumed(cluster, bruno, state)
    heads = client.state
    assert told(client, scope) == [("reset", heads[scope])]
    assert told(client, "user") == [("reset", heads["user"])]
    found = await difference(cluster, bruno, client.epoch, state)
    assert found.resets[scope] == found.state[scope] == heads[scope]
    assert found.resets["user"] == found.state["user"] == heads["user"]
    # One that is behind by no more than what is kept gets it.
    near = {scope: heads[scope] - 1}
    client = await resumed(cluster, bruno, near)
    assert ids(client) == [kept.message["id"]]
    assert told(client, scope) == [heads[scope]]
    found = await difference(cluster, bruno, client.epoch, near)
    assert len(found.updates) == 1


async def test_a_worker_that_missed_what_is_pruned_resets_its_sockets_as_far_as_that(
    cluster: Cluster, clock: SetClock
) -> None:
    clock.advance(days=-31)
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    client = await cluster.connect(bruno)
    seq = client.state[scope]
    cluster.wire.lost = 1.0
    for n in range(4):
        await cluster.say(anna, chat, str(n))
    clock.advance(days=31)
    await prune(cluster.services[0])
    kept = [await cluster.say(anna, chat, f"kept {n}") for n in range(2)]
    await client.expect(lambda: len(told(client, scope)) == 3)
    assert told(client, scope) == [("reset", seq + 4), seq + 5, seq + 6]
    assert ids(client) == [sent.message["id"] for sent in kept]


async def test_a_commit_that_nobody_announced_arrives_within_seconds(cluster: Cluster) -> None:
    """As of a worker that died between its commit and its publish, or whose COMMIT had no answer."""
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    clients = [await cluster.connect(bruno, worker) for worker in (0, 1)]
    sent = await cluster.say(anna, chat, "text")
    silent = open_database(cluster.services[0].settings, SystemClock())
    try:
        await edit_message(
            silent,
            cluster.services[0].keyring,
            editor_id=anna,
            message_id=sent.message["id"],
            text="edited by a worker that died",
            entities=None,
        )
    finally:
        await silent.close()
    for client in clients:
        await client.expect(lambda client=client: client.seen("message_edited"), seconds=6)
