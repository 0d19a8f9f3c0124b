"""How much of the machine was ours: bars in seconds are for a machine that does nothing else.

Where other work took half of the processors, a second of waiting counts for half a second.
"""

import os
import resource
import time
from contextlib import suppress

import psutil

# A machine that leaves us less than this measures nothing.
_LEAST_SHARE = 0.1


class Machine:
    """From its making on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def share(self) -> float:
        """What was left to us of all processors, between 0.1 and 1; time that nobody used is ours."""
        capacity = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        if capacity <= 0:
            return 1.0
        return min(1.0, max(_LEAST_SHARE, 1.0 - max(0.0, others) / capacity))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guests are counted within user already.
    return sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _own_seconds() -> float:
    """Of this process, of everything it has started, and of what has ended of that."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
