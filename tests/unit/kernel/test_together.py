"""Several things at once: their results, or the failure of the first."""

import asyncio

import pytest

from app.kernel.problems import Unavailable
from app.kernel.together import run_apart, run_together


async def test_results_come_in_the_order_of_the_works() -> None:
    async def work(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number

    assert await run_together(work(number) for number in range(5)) == [0, 1, 2, 3, 4]


async def test_a_failure_is_raised_as_it_is_and_ends_the_others() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Unavailable

    with pytest.raises(Unavailable):
        await run_together([endless(), fail()])
    assert ended == ["other"]


async def test_those_that_run_apart_end_each_by_itself() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise Unavailable

    async def go_on() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append("other")

    with pytest.raises(Unavailable):
        await run_apart([fail(), go_on()])
    assert ended == ["other"]
