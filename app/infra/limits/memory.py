"""Limits of a single process, and of a worker whose Redis is away."""

import time
from collections.abc import Callable, Sequence
from math import floor

from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.infra.limits.port import Draw, Standing
from app.infra.limits.refusals import Refusals
from app.infra.limits.windows import draw

# An address costs an attacker nothing: past this many counters the oldest are forgotten.
_MAX_COUNTERS = 200_000
_SWEEP_SECONDS = 5.0
# A monotonic clock begins with the machine. Where it reads less than a window, the library's key of the last
# window is that of the running one, and everything would count twice.
_AHEAD_SECONDS = 1_000_000_000.0


class MemoryLimiter:
    """Counts what this process sees."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(CounterStorage())
        self._refusals = Refusals()

    async def take(self, draws: Sequence[Draw]) -> list[Standing]:
        refused = self._refusals.find(draws)
        if refused:
            return refused
        standings = [await draw(self._limiter, it) for it in draws]
        self._refusals.note(draws, standings)
        return standings

    def find_refusals(self, draws: Sequence[Draw]) -> list[Standing]:
        return self._refusals.find(draws)

    async def close(self) -> None:
        """Nothing is open."""


class CounterStorage(MemoryStorage):
    """The library's, with other housekeeping.

    Its own looks at every counter after every hit: with 10,000 callers that would cost more than
    their requests. Here all are looked at every few seconds, and there are only so many.
    """

    STORAGE_SCHEME = None  # pyright: ignore[reportAssignmentType] - not found by address

    def __init__(
        self,
        *,
        max_counters: int = _MAX_COUNTERS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._max_counters = max_counters
        self._monotonic = lambda: monotonic() + _AHEAD_SECONDS
        self._swept_at = self._monotonic()
        # The library wraps what a class defines, once a level: measured, half of the cost of a draw.
        self.get, self.incr, self.decr = self._get, self._incr, self._decr

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """As the library's, by a clock that does not jump: else a step of the machine's would open a new
        window, or keep an old one. Nothing in between waits, so nobody races for the last unit.
        """
        last, last_ends_in, running, _ = await self.get_sliding_window(key, expiry)
        if floor(last * last_ends_in / expiry) + running + amount > limit:
            return False
        _, running_key = self.sliding_window_keys(key, expiry, self._monotonic())
        await self._incr(running_key, 2 * expiry, amount)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """As the library's: the last whole window and the running one, and when each is forgotten."""
        now = self._monotonic()
        last_key, running_key = self.sliding_window_keys(key, expiry, now)
        left = expiry - now % expiry
        last = await self._get(last_key)
        return last, left if last else 0.0, await self._get(running_key), left + expiry

    async def _get(self, key: str) -> int:
        if self.expirations.get(key, 0.0) <= self._monotonic():
            self._forget(key)
        return self.storage.get(key, 0)

    async def _incr(self, key: str, expiry: float, amount: int = 1) -> int:
        count = await self._get(key) + amount
        if count == amount:
            now = self._monotonic()
            self._make_room(now)
            self.expirations[key] = now + expiry
        self.storage[key] = count
        return count

    async def _decr(self, key: str, amount: int = 1) -> int:
        count = max(0, await self._get(key) - amount)
        if key in self.storage:
            self.storage[key] = count
        return count

    def _make_room(self, now: float) -> None:
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            for key in [key for key, end in self.expirations.items() if end <= now]:
                self._forget(key)
        while len(self.expirations) >= self._max_counters:
            self._forget(next(iter(self.expirations)))

    def _forget(self, key: str) -> None:
        self.storage.pop(key, None)
        self.expirations.pop(key, None)
