"""A crowd is let in one by one, in order, and few at a time; whoever is no part of it is not asked to wait."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.infra.deadline import ANSWER_SECONDS
from app.transport import openings
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
        self.reads = False
        self.bodies: dict[str, list[Message]] = {}
        self._turns = 0

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.append((self._turns, scope["name"]))
        if self.reads:
            self.bodies[scope["name"]] = [await receive()]
        await self.may_leave.wait()

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.came]

    def ask(self, name: str, *, body: Receive | None = None, **scope: str) -> "asyncio.Task[None]":
        asked: Scope = {"type": "http", "path": "/", "method": "POST", "name": name, **scope}
        return asyncio.create_task(self.door(asked, body or _receive, _send))

    def ask_for_tickets(self, count: int) -> "list[asyncio.Task[None]]":
        return [self.ask(str(number), path=TICKETS) for number in range(count)]

    async def turn(self, count: int) -> None:
        for _ in range(count):
            self._turns += 1
            await asyncio.sleep(0)


_WHOLE: Message = {"type": "http.request", "body": b"{}", "more_body": False}


async def _receive() -> Message:
    return dict(_WHOLE)


class Dripping:
    """A body whose end does not come before it may."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self._is_begun = False

    async def __call__(self) -> Message:
        if not self._is_begun:
            self._is_begun = True
            return {"type": "http.request", "body": b"{", "more_body": True}
        await self.may_end.wait()
        return {"type": "http.request", "body": b"}", "more_body": False}


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
    assert STALL_SECONDS + ANSWER_SECONDS < 5


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


async def test_who_does_not_send_the_rest_of_a_request_holds_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd(most_inside=2)
    crowd.reads = True
    bodies = [Dripping() for _ in range(5)]
    dripping = [
        crowd.ask(f"drip {number}", path=TICKETS, body=body) for number, body in enumerate(bodies)
    ]
    asked = crowd.ask_for_tickets(6)
    await crowd.turn(30)
    assert crowd.names == [str(number) for number in range(6)]
    assert crowd.bodies["0"] == [_WHOLE]
    # Who comes with the rest in time is let in like everybody.
    bodies[0].may_end.set()
    await crowd.turn(5)
    assert crowd.names[6:] == ["drip 0"]
    assert crowd.bodies["drip 0"] == [{"type": "http.request", "body": b"{", "more_body": True}]
    for task in dripping:
        task.cancel()
    await asyncio.gather(*asked, *dripping, return_exceptions=True)
    monkeypatch.setattr(openings, "_AHEAD_SECONDS", 0.05)
    late = crowd.ask("late", path=TICKETS, body=Dripping())
    await asyncio.wait_for(late, 30)
    assert crowd.names[7:] == ["late"]


@pytest.mark.parametrize("scope", [{"method": "GET"}, {"path": "/other"}])
async def test_only_what_asks_for_a_ticket_waits(scope: dict[str, str]) -> None:
    crowd = Crowd(most_inside=1)
    crowd.may_leave.clear()
    asked = crowd.ask_for_tickets(3)
    await crowd.turn(5)
    passing = [crowd.ask(f"pass {n}", **({"path": TICKETS} | scope)) for n in range(3)]
    await crowd.turn(2)
    assert crowd.names == ["0", "pass 0", "pass 1", "pass 2"]
    crowd.may_leave.set()
    await asyncio.gather(*asked, *passing)


async def test_a_long_body_is_nothing_to_wait_for() -> None:
    async def long() -> Message:
        return {"type": "http.request", "body": b"x" * 5000, "more_body": True}

    crowd = Crowd(most_inside=1)
    crowd.may_leave.clear()
    asked = [*crowd.ask_for_tickets(1), crowd.ask("long", path=TICKETS, body=long)]
    await crowd.turn(5)
    assert sorted(crowd.names) == ["0", "long"]
    crowd.may_leave.set()
    await asyncio.gather(*asked)
