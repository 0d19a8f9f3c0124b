"""Several things at once: where the failure of one is the failure of all, and where each has its own fate."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in their order. The first to fail ends the others, and what it raised is raised as it is.

    A `TaskGroup` alone would raise a group, in which nobody looks for a problem.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def run_apart(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Each to its end, whatever becomes of the others; then the first failure is raised as it is."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    failures = [outcome for outcome in outcomes if outcome is not None]
    if failures:
        raise failures[0]
