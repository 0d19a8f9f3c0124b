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


async def judge(_tx: Tx, items: Sequence[str]) -> Sequence[str | Problem | Busy]:
    """`ok` is done, `no` refused, `busy` has to run alone, `poison` breaks the group it is in."""
    if "poison" in [item.split()[0] for item in items]:
        raise RuntimeError("poison")
    outcomes: list[str | Problem | Busy] = []
    for item in items:
        word = item.split()[0]
        if word == "busy" and len(items) > 1:
            outcomes.append(BUSY)
        else:
            outcomes.append(Forbidden(item) if word == "no" else f"done {item}")
    return outcomes


@given(words=st.lists(st.sampled_from(["ok", "no", "busy", "poison"]), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_each_item_gets_the_outcome_it_would_get_alone(words: list[str]) -> None:
    async def run() -> list[object]:
        committer = GroupCommitter[str, str](Commits(), judge, max_group=8)
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
    committer = GroupCommitter[str, str](commits, judge, max_group=64)
    await asyncio.gather(*(committer.submit(f"ok {number}") for number in range(200)))
    assert sum(commits.groups) == 200
    assert max(commits.groups) == 64
    assert len(commits.groups) <= 6


async def test_a_group_whose_database_is_down_fails_as_a_whole() -> None:
    async def refuse(_work: Callable[[Any], Awaitable[Any]]) -> Any:
        raise Forbidden("down")

    committer = GroupCommitter[str, str](refuse, judge)
    outcomes = await asyncio.gather(
        *(committer.submit(f"ok {number}") for number in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, Forbidden) for outcome in outcomes)


async def test_a_caller_who_goes_away_takes_nobody_along() -> None:
    committer = GroupCommitter[str, str](Commits(), judge)
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

    committer = GroupCommitter[str, str](commit_late, judge)
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
