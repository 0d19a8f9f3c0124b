"""`python -m app` on a machine whose clock is wrong by what a file says, in seconds, read anew at every look.

What libfaketime does with DONT_FAKE_MONOTONIC, on machines that have no libfaketime: the program asks
the machine at one place, and libraries by `time.time`.
"""

import runpy
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from app.kernel.clock import SystemClock


def launcher(file: Path) -> tuple[str, ...]:
    """The command that starts such a server."""
    return (sys.executable, "-m", "tests.support.other_clock", str(file))


def main(file: Path) -> None:
    system_now, system_time = SystemClock.now, time.time

    def wrong_by() -> float:
        return float(file.read_text() or 0)

    def now(self: SystemClock) -> datetime:
        return system_now(self) + timedelta(seconds=wrong_by())

    SystemClock.now = now  # type: ignore[method-assign]
    time.time = lambda: system_time() + wrong_by()
    del sys.argv[1:]
    runpy.run_module("app", run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
