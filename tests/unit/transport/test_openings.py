"""A crowd is let in two by two, in order; whoever is no part of it is not asked to wait."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from app.transport.openings import OpeningsMiddleware

pytestmark = pytest.mark.anyio

TICKETS = "/tickets"


class Crowd:
    """Who came in, in which turn of the loop."""

    def __init__(self) -> None:
        self.came: list[tuple[int, str]] = []
        self.door = OpeningsMiddleware(self._enter, paths=[TICKETS])
        self._turns = 0

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.append((self._turns, scope["name"]))

    def ask(self, name: str, **scope: str) -> "asyncio.Task[None]":
        asked: Scope = {"type": "http", "path": "/", "name": name, **scope}
        return asyncio.create_task(self.door(asked, _receive, _send))

    async def turn(self, count: int) -> None:
        for _ in range(count):
            self._turns += 1
            await asyncio.sleep(0)


async def _receive() -> dict[str, str]:
    raise NotImplementedError


async def _send(message: object) -> None:
    raise NotImplementedError


async def test_a_crowd_comes_in_two_by_two_and_in_order() -> None:
    crowd = Crowd()
    asked = [crowd.ask(str(number), path=TICKETS) for number in range(20)]
    asked += [crowd.ask(str(number), type="websocket") for number in range(20, 40)]
    await crowd.turn(60)
    await asyncio.gather(*asked)
    assert [name for _, name in crowd.came] == [str(number) for number in range(40)]
    turns = [turn for turn, _ in crowd.came]
    assert max(turns.count(turn) for turn in turns) == 2
    alone = crowd.ask("late", path=TICKETS)
    await crowd.turn(3)
    assert alone.done()


async def test_other_requests_pass_by_the_crowd() -> None:
    crowd = Crowd()
    asked = [crowd.ask(str(number), path=TICKETS) for number in range(100)]
    await crowd.turn(2)
    other = crowd.ask("other")
    await crowd.turn(1)
    assert other.done()
    assert len(crowd.came) < 20
    await asyncio.gather(*asked)


async def test_who_gives_up_leaves_no_hole() -> None:
    crowd = Crowd()
    asked = [crowd.ask(str(number), path=TICKETS) for number in range(6)]
    await crowd.turn(1)
    asked[3].cancel()
    await crowd.turn(10)
    assert sorted(name for _, name in crowd.came) == ["0", "1", "2", "4", "5"]
    assert all(task.done() for task in asked)
