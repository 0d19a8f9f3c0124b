"""The library's sliding window, in our words.

A sliding window, because a fixed one lets through twice its limit around its edge, and because in
Redis it goes by Redis's own clock: those of the workers may differ.
"""

import time
from functools import lru_cache

from limits import RateLimitItemPerSecond
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.util import WindowStats

from app.infra.limits.port import Draw, Quota, Standing


async def draw(limiter: SlidingWindowCounterRateLimiter, wanted: Draw) -> Standing:
    """Draw, and look at what is left."""
    item = _item(wanted.quota)
    is_allowed = await limiter.hit(item, wanted.whose, cost=wanted.cost)
    return _judge(wanted, is_allowed, await limiter.get_window_stats(item, wanted.whose))


@lru_cache(maxsize=256)
def _item(quota: Quota) -> RateLimitItemPerSecond:
    """There are as many as there are settings."""
    return RateLimitItemPerSecond(quota.limit, quota.window_seconds, quota.name)


def _judge(draw: Draw, is_allowed: bool, stats: WindowStats) -> Standing:  # noqa: FBT001 - one caller a line
    quota = draw.quota
    # `reset_time` is of this clock.
    seconds = stats.reset_time - time.time()  # noqa: TID251
    if seconds <= 0 and is_allowed and stats.remaining == quota.limit - draw.cost:
        # In the very millisecond in which a window begins the library says 0 for all of it.
        seconds = quota.window_seconds
    if not is_allowed:
        # The library tells when the next unit comes free; a costly draw waits for several.
        missing = max(0, draw.cost - stats.remaining - 1)
        seconds += missing * quota.window_seconds / quota.limit
    return Standing(
        quota, is_allowed, stats.remaining, min(max(0.0, seconds), 2.0 * quota.window_seconds)
    )
