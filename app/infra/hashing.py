"""Slow hashes of low-entropy secrets, on a few threads of their own and with a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from app.infra.deadline import seconds_left
from app.kernel.problems import Unavailable

R = TypeVar("R")

# bcrypt lets go of the interpreter's lock, so a thread is a core; the rest is for the others.
_THREADS = 2
_MAX_WAITING = 200


class HashingBusy(Unavailable):
    code = "hashing_busy"
    title = "Too many sign-ins at this moment, try again"


class SlowHasher:
    """bcrypt. The input is at most 72 bytes without zero bytes: a digest in base64, never a
    password.
    """

    def __init__(
        self, *, rounds: int, threads: int = _THREADS, max_waiting: int = _MAX_WAITING
    ) -> None:
        """`rounds`: the base-2 logarithm of the cost."""
        self._rounds = rounds
        self._max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hashing")
        self._waiting = 0

    async def hash(self, digest: bytes) -> bytes:
        """Raises:
        HashingBusy: too many wait already, or the caller has waited long enough.
        """
        return await self._run(lambda: bcrypt.hashpw(digest, bcrypt.gensalt(self._rounds)))

    async def matches(self, digest: bytes, hashed: bytes) -> bool:
        """Whether `hash` made `hashed` of it, in constant time. Raises as above."""
        return await self._run(lambda: bcrypt.checkpw(digest, hashed))

    async def _run(self, work: Callable[[], R]) -> R:
        if self._waiting >= self._max_waiting:
            raise HashingBusy(retry_after=1)
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(seconds_left()):
                return await future
        except TimeoutError:
            raise HashingBusy(retry_after=1) from None

    def _done(self, _: object) -> None:
        self._waiting -= 1
