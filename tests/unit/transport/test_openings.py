"""A crowd is let in one by one, in order, and few at a time; whoever is no part of it is not asked to wait."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from app.infra.database.database import QUEUE_SECONDS
from app.transport.openings import STALL_SECONDS, OpeningsMiddleware
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

TICKETS = "/tickets"


class Crowd:
    """Who came in, in which turn of the loop; those of `stays` come out when they are let go."""

    def __init__(self, *, most_inside: int = 1000, stall_seconds: float = 60) -> None:
        self.came: list[tuple[int, str]] = []
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self.door = OpeningsMiddleware(
            self._enter, paths=[TICKETS], most_inside=most_inside, stall_seconds=stall_seconds
        )
        self._turns = 0

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.append((self._turns, scope["name"]))
        await self.may_leave.wait()

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.came]

    def ask(self, name: str, **scope: str) -> "asyncio.Task[None]":
        asked: Scope = {"type": "http", "path": "/", "name": name, **scope}
        return asyncio.create_task(self.door(asked, _receive, _send))

    def ask_for_tickets(self, count: int) -> "list[asyncio.Task[None]]":
        return [self.ask(str(number), path=TICKETS) for number in range(count)]

    async def turn(self, count: int) -> None:
        for _ in range(count):
            self._turns += 1
            await asyncio.sleep(0)


async def _receive() -> dict[str, str]:
    raise NotImplementedError


async def _send(message: object) -> None:
    raise NotImplementedError


async def test_a_crowd_comes_in_one_by_one_and_in_order() -> None:
    crowd = Crowd()
    asked = crowd.ask_for_tickets(20)
    await crowd.turn(60)
    await asyncio.gather(*asked)
    assert crowd.names == [str(number) for number in range(20)]
    turns = [turn for turn, _ in crowd.came]
    assert max(turns.count(turn) for turn in turns) == 1
    alone = crowd.ask("late", path=TICKETS)
    await crowd.turn(3)
    assert alone.done()


async def test_who_has_a_ticket_does_not_wait_for_all_who_want_one() -> None:
    crowd = Crowd()
    asked = crowd.ask_for_tickets(100)
    await crowd.turn(5)
    asked += [crowd.ask("socket", type="websocket")]
    await crowd.turn(3)
    assert "socket" in crowd.names
    assert len(crowd.came) < 15
    await asyncio.gather(*asked)


async def test_other_requests_pass_by_the_crowd() -> None:
    crowd = Crowd()
    asked = crowd.ask_for_tickets(100)
    await crowd.turn(2)
    other = crowd.ask("other")
    await crowd.turn(1)
    assert other.done()
    assert len(crowd.came) < 20
    await asyncio.gather(*asked)


async def test_few_are_inside_at_once() -> None:
    crowd = Crowd(most_inside=4)
    crowd.may_leave.clear()
    asked = crowd.ask_for_tickets(10)
    await crowd.turn(50)
    assert crowd.names == ["0", "1", "2", "3"]
    asked[2].cancel()
    await crowd.turn(5)
    assert crowd.names[4:] == ["4"]
    crowd.may_leave.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert len(crowd.came) == 10


async def test_where_nobody_comes_out_everybody_is_let_in_to_hear_why() -> None:
    crowd = Crowd(most_inside=4, stall_seconds=0.2)
    crowd.may_leave.clear()
    asked = crowd.ask_for_tickets(10)
    await crowd.turn(50)
    assert len(crowd.came) == 4

    async def are_all_in() -> bool:
        return len(crowd.came) == 10

    await eventually(are_all_in, what="everybody to be let in")
    crowd.may_leave.set()
    await asyncio.gather(*asked)


def test_who_waited_here_and_then_for_the_database_is_answered_within_five_seconds() -> None:
    assert STALL_SECONDS + QUEUE_SECONDS < 5


async def test_who_gives_up_leaves_no_hole() -> None:
    crowd = Crowd(most_inside=2)
    crowd.may_leave.clear()
    asked = crowd.ask_for_tickets(6)
    await crowd.turn(10)
    asked[3].cancel()
    await crowd.turn(5)
    crowd.may_leave.set()
    await crowd.turn(40)
    assert sorted(crowd.names) == ["0", "1", "2", "4", "5"]
    assert all(task.done() for task in asked)
