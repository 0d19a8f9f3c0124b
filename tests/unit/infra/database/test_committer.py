"""Group commit: every item has its own outcome, whatever its neighbours do."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infra.database.committer import BUSY, Busy, GroupCommitter
from app.infra.database.tx import Tx
from app.kernel.problems import Forbidden, Problem

pytestmark = pytest.mark.anyio


class Commits:
    """Stands for Database.write: counts transactions and yields to others as a real one does."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    async def __call__(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        outcomes = await work(None)
        self.groups.append(len(outcomes))
        return outcomes


async def judge(_tx: Tx, items: Sequence[str], *, may_wait: bool) -> Sequence[str | Problem | Busy]:
    """`ok` is done, `no` refused, `busy` has to wait, `poison` breaks the group it is in."""
    assert not may_wait or len(items) == 1
    if "poison" in [item.split()[0] for item in items]:
        raise RuntimeError("poison")
    outcomes: list[str | Problem | Busy] = []
    for item in items:
        word = item.split()[0]
        if word == "busy" and not may_wait:
            outcomes.append(BUSY)
        else:
            outcomes.append(Forbidden(item) if word == "no" else f"done {item}")
    return outcomes


def make(
    write: Any, work: Any = judge, *, places: int = 2, max_group: int = 64
) -> GroupCommitter[str, str]:
    return GroupCommitter[str, str](
        write, work, places_to_wait=asyncio.Semaphore(places), max_group=max_group
    )


@given(words=st.lists(st.sampled_from(["ok", "no", "busy", "poison"]), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_each_item_gets_the_outcome_it_would_get_alone(words: list[str]) -> None:
    async def run() -> list[object]:
        committer = make(Commits(), max_group=8)
        futures = [committer.submit(f"{word} {number}") for number, word in enumerate(words)]
        return await asyncio.gather(*futures, return_exceptions=True)

    outcomes = asyncio.run(run())
    assert len(outcomes) == len(words)
    for number, (word, outcome) in enumerate(zip(words, outcomes, strict=True)):
        if word == "no":
            assert isinstance(outcome, Forbidden)
            assert outcome.detail == f"no {number}"
        elif word == "poison":
            assert isinstance(outcome, RuntimeError)
        else:
            assert outcome == f"done {word} {number}"


async def test_items_that_wait_share_a_transaction() -> None:
    commits = Commits()
    committer = make(commits, max_group=64)
    await asyncio.gather(*(committer.submit(f"ok {number}") for number in range(200)))
    assert sum(commits.groups) == 200
    assert max(commits.groups) == 64
    assert len(commits.groups) <= 6


async def test_a_group_whose_database_is_down_fails_as_a_whole() -> None:
    async def refuse(_work: Callable[[Any], Awaitable[Any]]) -> Any:
        raise Forbidden("down")

    committer = make(refuse)
    outcomes = await asyncio.gather(
        *(committer.submit(f"ok {number}") for number in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, Forbidden) for outcome in outcomes)


async def test_a_caller_who_goes_away_takes_nobody_along() -> None:
    committer = make(Commits())
    gone, stays = committer.submit("ok gone"), committer.submit("ok stays")
    gone.cancel()
    assert await stays == "done ok stays"


async def test_a_refusal_whose_caller_went_away_is_no_unexpected_error() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    may_commit = asyncio.Event()

    async def commit_late(work: Callable[[Any], Awaitable[Any]]) -> Any:
        await may_commit.wait()
        return await work(None)

    committer = make(commit_late)
    caller = asyncio.create_task(_wait_shielded(committer.submit("no")))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    may_commit.set()
    assert await committer.submit("ok stays") == "done ok stays"
    del caller
    gc.collect()
    assert told == []


async def _wait_shielded(future: "asyncio.Future[str]") -> str:
    """As a request does, whose cancellation must not reach the transaction."""
    return await asyncio.shield(future)


async def test_what_is_stuck_delays_only_itself() -> None:
    """Also when it came first and alone, and when there is no place to wait any more."""
    may_end = asyncio.Event()
    waiting = 0

    async def work(tx: Tx, items: Sequence[str], *, may_wait: bool) -> Sequence[str | Busy]:
        nonlocal waiting
        if may_wait and items[0].startswith("stuck"):
            waiting += 1
            await may_end.wait()
            return [f"done {items[0]}"]
        return [BUSY if item.startswith("stuck") else f"done {item}" for item in items]

    committer = make(Commits(), work, places=2)
    stuck = [committer.submit("stuck 0")]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        for number in range(1, 6):
            assert await committer.submit(f"ok {number}") == f"done ok {number}"
            stuck.append(committer.submit(f"stuck {number}"))
    assert waiting == 2
    assert not any(future.done() for future in stuck)
    may_end.set()
    assert await asyncio.gather(*stuck) == [f"done stuck {number}" for number in range(6)]
