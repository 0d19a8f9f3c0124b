"""Reads for sockets that are brought up to date: a few at once, the others in order, and nobody starves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.features.gateway import queries, readers
from app.features.gateway.course import AwaitRoom, Course, Read, ReadFollowings, ReadStanding
from app.features.gateway.queries import Standing
from app.features.gateway.readers import CONCURRENT_READS, CourseLeader
from app.features.gateway.turns import Turns
from app.infra.database.database import Database
from app.infra.database.errors import DatabaseUnavailable
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.scopes import chat_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.outgoing import OutFrame
from tests.support.waiting import eventually
from tests.unit.features.gateway.conftest import Cluster

pytestmark = pytest.mark.anyio


class Queue:
    """What happens at `turns`, by name."""

    def __init__(self, at_once: int) -> None:
        self.turns: Turns[str] = Turns(at_once)
        self.events: list[str] = []

    def ask(self, owner: str) -> int:
        return self.turns.ask(
            owner,
            owner,
            lambda: self.events.append(owner),
            lambda: self.events.append(f"{owner} gave up"),
        )


def test_a_few_have_their_turn_and_the_others_wait_in_order() -> None:
    queue = Queue(2)
    for owner in "abcd":
        queue.ask(owner)
    assert queue.events == ["a", "b"]
    queue.turns.end()
    assert queue.events == ["a", "b", "c"]
    queue.turns.end()
    queue.turns.end()
    queue.turns.end()
    queue.ask("e")
    assert queue.events == ["a", "b", "c", "d", "e"]


def test_who_has_much_to_read_lets_the_others_go_between_two_pages() -> None:
    queue = Queue(1)
    queue.ask("much")
    queue.ask("little")
    queue.ask("also little")
    for _ in range(2):
        queue.ask("much")
        queue.turns.end()
    queue.turns.end()
    assert queue.events == ["much", "little", "also little", "much"]


def test_who_leaves_frees_all_its_places() -> None:
    queue = Queue(1)
    for owner in ["first", "gone", "stays", "gone"]:
        queue.ask(owner)
    queue.turns.leave("gone")
    queue.turns.leave("never came")
    assert queue.turns.waiting == 1
    queue.turns.end()
    queue.turns.end()
    assert queue.events == ["first", "gone gave up", "gone gave up", "stays"]
    queue.ask("next")
    assert queue.events[-1] == "next"


def test_a_place_that_is_withdrawn_is_passed_over_without_a_word() -> None:
    queue = Queue(1)
    running = queue.ask("a")
    queue.turns.withdraw(queue.ask("b"))
    queue.turns.withdraw(running)
    queue.ask("c")
    queue.turns.end()
    assert queue.events == ["a", "c"]


@dataclass
class Gate:
    """In front of a real database: reads wait until they are let through, one by one."""

    db: Database
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    is_down: bool = False

    async def read(self, work: Callable[[Tx], Awaitable[Any]]) -> Any:
        if self.is_down:
            raise DatabaseUnavailable(retry_after=1)
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(passed)
        await passed
        return await self.db.read(work)

    def let_through(self) -> None:
        self.waiting.pop(0).set_result(None)


class Reader:
    """The far end of a socket: takes at once, or nothing."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.takes.set()
        self.messages: list[dict[str, Any]] = []
        self.connection = Connection(
            {},
            self.receive,
            self.send,
            user_id=UserId(1),
            session_id=SessionId(1),
            chat_id=None,
            queue_bytes=65_536,
            expires_at=0,
        )

    async def receive(self) -> dict[str, Any]:
        raise NotImplementedError

    async def send(self, message: Any) -> None:
        await self.takes.wait()
        self.messages.append(message)


BAD = UserId(1_000_000)
MANY_CHATS = tuple(chat_scope(ChatId(number)) for number in range(1, 1001))


@dataclass
class Crowd:
    """Sockets that are led through reads by one leader."""

    gate: Gate
    leader: CourseLeader
    user_id: UserId
    # Names of sockets, in the order in which they were answered.
    answered: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def read(self, name: str, times: int, need: Read) -> Course:
        try:
            for _ in range(times):
                yield need
                self.answered.append(name)
        finally:
            self.ended.append(name)

    def begin(self, name: str, times: int = 1, *, need: Read | None = None) -> Reader:
        """Without a need of its own it reads so much that nobody is taken along."""
        reader = Reader()
        much = ReadFollowings(self.user_id, MANY_CHATS)
        self.leader.begin(reader.connection, self.read(name, times, need or much))
        return reader

    async def until(self, met: Callable[[], object]) -> None:
        async def holds() -> bool:
            return bool(met())

        await eventually(holds)

    async def finish(self) -> None:
        """Let everything through."""
        while self.gate.waiting:
            count = len(self.answered)
            self.gate.let_through()
            await self.until(lambda count=count: len(self.answered) > count)
            await asyncio.sleep(0)


@asynccontextmanager
async def crowd_at(cluster: Cluster) -> AsyncIterator[Crowd]:
    gate = Gate(cluster.db)
    services = replace(cluster.services[0], db=gate)
    gateway = cluster.gateways[0]
    leader = CourseLeader(services, gateway.kinds, gateway._is_of_epoch)
    yield Crowd(gate, leader, await cluster.settle())
    leader.stop()


@pytest.fixture
async def crowd(cluster: Cluster) -> AsyncIterator[Crowd]:
    async with crowd_at(cluster) as made:
        yield made


def names(count: int) -> Iterator[str]:
    return (f"socket {number}" for number in range(count))


async def test_a_few_reads_run_at_once_and_the_rest_come_in_order(crowd: Crowd) -> None:
    for name in names(20):
        crowd.begin(name)
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    assert crowd.leader._turns.waiting == 20 - CONCURRENT_READS
    await crowd.finish()
    assert crowd.answered == list(names(20))


async def test_a_huge_replay_does_not_keep_small_ones_waiting(crowd: Crowd) -> None:
    for number in range(CONCURRENT_READS):
        crowd.begin(f"huge {number}", times=50)
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    for name in names(10):
        crowd.begin(name)
    await crowd.until(lambda: crowd.leader._turns.waiting == 10)
    for _ in range(40):
        count = len(crowd.answered)
        crowd.gate.let_through()
        await crowd.until(lambda count=count: len(crowd.answered) > count)
    assert set(names(10)) <= set(crowd.answered)


async def test_a_socket_that_closes_while_it_waits_gives_its_place_up(crowd: Crowd) -> None:
    for number in range(CONCURRENT_READS):
        crowd.begin(f"first {number}")
    gone, stays = crowd.begin("gone"), crowd.begin("stays")
    await crowd.until(lambda: crowd.leader._turns.waiting == 2)
    gone.connection.mark_lost()
    crowd.leader.forget(gone.connection)
    await crowd.until(lambda: "gone" in crowd.ended)
    assert crowd.leader._turns.waiting == 1
    await crowd.finish()
    assert crowd.answered[-1] == "stays"
    assert "gone" not in crowd.answered
    assert stays.connection.close_code is None


async def test_a_socket_that_is_closed_when_its_turn_comes_reads_nothing(crowd: Crowd) -> None:
    for number in range(CONCURRENT_READS):
        crowd.begin(f"first {number}")
    closed = crowd.begin("closed")
    await crowd.until(lambda: crowd.leader._turns.waiting == 1)
    closed.connection.mark_lost()
    await crowd.finish()
    await crowd.until(lambda: "closed" in crowd.ended)
    assert "closed" not in crowd.answered
    assert crowd.leader._turns.waiting == 0


async def test_who_waits_for_a_slow_reader_holds_no_turn(crowd: Crowd) -> None:
    def send_and_wait(reader: Reader) -> Course:
        yield ReadFollowings(crowd.user_id, MANY_CHATS)
        crowd.answered.append("slow")
        for _ in range(3):
            reader.connection.send(OutFrame(b"x" * 20_000))
        yield AwaitRoom()
        crowd.answered.append("slow had room")

    slow = [Reader() for _ in range(CONCURRENT_READS)]
    for reader in slow:
        reader.takes.clear()
        crowd.leader.begin(reader.connection, send_and_wait(reader))
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    await crowd.finish()
    crowd.begin("quick")
    await crowd.until(lambda: crowd.gate.waiting)
    await crowd.finish()
    assert crowd.answered == ["slow"] * CONCURRENT_READS + ["quick"]
    for reader in slow:
        reader.takes.set()
    await crowd.until(lambda: crowd.answered.count("slow had room") == CONCURRENT_READS)


async def test_a_read_that_fails_closes_the_socket_and_ends_its_turn(crowd: Crowd) -> None:
    crowd.gate.is_down = True
    readers = [crowd.begin(name) for name in names(10)]
    await crowd.until(lambda: len(crowd.ended) == 10)
    assert {reader.connection.close_code for reader in readers} == {1012}
    crowd.gate.is_down = False
    crowd.begin("later")
    await crowd.until(lambda: crowd.gate.waiting)
    await crowd.finish()
    assert crowd.answered == ["later"]


async def test_who_waits_is_taken_along_by_one_read(crowd: Crowd) -> None:
    for number in range(CONCURRENT_READS):
        crowd.begin(f"first {number}")
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    standing = ReadStanding(crowd.user_id, None)
    for name in names(10):
        crowd.begin(name, need=standing)
    gone = crowd.begin("gone", need=standing)
    await crowd.until(lambda: crowd.leader._turns.waiting == 11)
    gone.connection.mark_lost()
    crowd.gate.let_through()
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    assert crowd.leader._turns.waiting == 0
    await crowd.finish()
    assert crowd.answered[-10:] == list(names(10))
    assert "gone" not in crowd.answered


async def test_what_cannot_be_read_for_one_is_read_for_the_others(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_standings(tx: Tx, user_ids: list[UserId]) -> dict[UserId, Standing]:
        if BAD in user_ids:
            raise ValueError
        return await queries.read_standings(tx, user_ids)

    monkeypatch.setattr(readers, "read_standings", read_standings)
    for number in range(CONCURRENT_READS):
        crowd.begin(f"first {number}")
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    good = [crowd.begin(name, need=ReadStanding(crowd.user_id, None)) for name in names(2)]
    bad = crowd.begin("bad", need=ReadStanding(BAD, None))
    good.append(crowd.begin("last", need=ReadStanding(crowd.user_id, None)))
    await crowd.until(lambda: crowd.leader._turns.waiting == 4)
    while len(crowd.ended) < CONCURRENT_READS + 4:
        if crowd.gate.waiting:
            crowd.gate.let_through()
        await asyncio.sleep(0.01)
    assert {*names(2), "last"} <= set(crowd.answered)
    assert "bad" not in crowd.answered
    assert bad.connection.close_code == CloseCode.SERVICE_RESTART
    assert {reader.connection.close_code for reader in good} == {None}


async def test_a_leader_that_stops_ends_what_runs_and_what_waits(crowd: Crowd) -> None:
    for name in names(10):
        crowd.begin(name)
    await crowd.until(lambda: len(crowd.gate.waiting) == CONCURRENT_READS)
    crowd.leader.stop()
    await crowd.until(lambda: len(crowd.ended) == 10)
    assert crowd.answered == []
    assert crowd.leader._turns.waiting == 0
