"""Waiting for a condition that no frame announces."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_STEP_SECONDS = 0.03
# What holds ends the wait; a machine may stand still for seconds beside other work.
PATIENCE_SECONDS = 30.0


async def eventually(
    holds: Callable[[], Awaitable[bool]],
    *,
    timeout_seconds: float = PATIENCE_SECONDS,
    what: str = "the condition",
) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + timeout_seconds
    while not await holds():
        assert time.monotonic() < deadline, f"{what} did not hold within {timeout_seconds} s"
        await asyncio.sleep(_STEP_SECONDS)
