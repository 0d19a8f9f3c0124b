"""The library's sliding window, in our words.

A sliding window, because a fixed one lets through twice its limit around its edge, and because in
Redis it goes by Redis's own clock: those of the workers may differ. What is told of it we work out
ourselves: the library's `reset_time` is a guess, 0 in the very millisecond in which a window begins.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import floor
from typing import cast

from limits import RateLimitItemPerSecond
from limits.aio.storage import SlidingWindowCounterSupport
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.infra.limits.port import Draw, Quota, Standing


@dataclass(frozen=True, slots=True)
class Window:
    """What was drawn in the last whole window and in the one that runs; seconds until each is forgotten.

    The last one counts in proportion to how much of it lies less than a window back.
    """

    last: int
    last_ends_in: float
    running: int
    running_ends_in: float


async def draw(limiter: SlidingWindowCounterRateLimiter, wanted: Draw) -> Standing:
    """Draw, and look at what is left."""
    quota = wanted.quota
    item = _item(quota)
    is_allowed = await limiter.hit(item, wanted.whose, cost=wanted.cost)
    storage = cast("SlidingWindowCounterSupport", limiter.storage)
    window = Window(
        *await storage.get_sliding_window(item.key_for(wanted.whose), quota.window_seconds)
    )
    remaining = count_remaining(quota, window)
    # Of an allowed draw: when there is one unit more than now.
    cost = remaining + 1 if is_allowed else wanted.cost
    return Standing(quota, is_allowed, remaining, seconds_until(quota, window, cost))


def count_remaining(quota: Quota, window: Window) -> int:
    counted = floor(window.last * window.last_ends_in / quota.window_seconds) + window.running
    return max(0, quota.limit - counted)


def seconds_until(quota: Quota, window: Window, cost: int) -> float:
    """When a draw of `cost` succeeds, if nobody draws meanwhile; never more than two windows."""
    length = quota.window_seconds
    room = quota.limit - cost + 1  # what is counted must be less than this
    wait = _seconds_to_fade(window.last, window.last_ends_in, room - window.running, length)
    runs_for = max(0.0, window.running_ends_in - length)
    if wait <= runs_for or not window.running:
        return min(wait, 2.0 * length)
    # Not before it is the last one itself.
    return min(runs_for + _seconds_to_fade(window.running, length, room, length), 2.0 * length)


def _seconds_to_fade(count: int, ends_in: float, room: int, length: int) -> float:
    """Until a window that ends counts for less than `room`."""
    if count == 0:
        return 0.0 if room > 0 else float("inf")
    if room <= 0:
        return float("inf")
    return max(0.0, ends_in - length * room / count)


@lru_cache(maxsize=256)
def _item(quota: Quota) -> RateLimitItemPerSecond:
    """There are as many as there are settings."""
    return RateLimitItemPerSecond(quota.limit, quota.window_seconds, quota.name)
