"""Slow hashes: a bounded queue, and a loop that goes on meanwhile."""

import asyncio
import time

import pytest

from app.infra.hashing import HashingBusy, SlowHasher
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_a_full_queue_refuses_at_once(anyio_backend: str) -> None:
    hasher = SlowHasher(rounds=8, threads=1, max_waiting=3)
    outcomes = await asyncio.gather(
        *(hasher.hash(b"digest") for _ in range(5)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, HashingBusy)]
    assert len(refused) == 2
    hashed = await hasher.hash(b"digest")
    assert await hasher.matches(b"digest", hashed)


async def test_whoever_gives_up_leaves_no_place_taken(anyio_backend: str) -> None:
    hasher = SlowHasher(rounds=8, threads=1, max_waiting=2)
    for _ in range(5):
        task = asyncio.create_task(hasher.hash(b"digest"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def is_free() -> bool:
            return hasher._waiting == 0

        await eventually(is_free, what="the end of the work nobody waits for")
    await hasher.hash(b"digest")


async def test_the_loop_goes_on_while_a_password_is_hashed(anyio_backend: str) -> None:
    hasher = SlowHasher(rounds=11, threads=1)
    work = asyncio.create_task(hasher.hash(b"digest"))
    gaps: list[float] = []
    last = time.monotonic()
    while not work.done():
        await asyncio.sleep(0.001)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    # Beside a blocked loop there would be one gap only.
    assert len(gaps) > 5
