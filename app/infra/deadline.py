"""One deadline for all that is done for one call: five seconds hold for the caller, not for each thing it waits for.

Whoever waits for something else asks here how long that may take. Where nobody waits (jobs, the command
line) there is no deadline, and each transaction has its own.
"""

import asyncio
import math
from contextvars import ContextVar
from typing import Final

# With what the answer itself takes it is below the five seconds within which every call is answered.
ANSWER_SECONDS: Final = 4.5


class Call:
    """Mutable on purpose: a task that the call has started and that outlives it is bound no longer."""

    __slots__ = ("deadline",)

    def __init__(self, deadline: float) -> None:
        """`deadline` in the time of the loop."""
        self.deadline = deadline

    def postpone(self, seconds: float) -> None:
        """Of time that the caller itself took, or that this kind of call may take longer."""
        self.deadline += seconds

    def end(self) -> None:
        """It is answered, or what follows may take its time."""
        self.deadline = math.inf


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def begin_call(*, seconds: float = ANSWER_SECONDS) -> Call:
    """From now on somebody waits for what this task does, and the tasks that it starts."""
    call = Call(asyncio.get_running_loop().time() + seconds)
    _current.set(call)
    return call


def current_call() -> Call | None:
    return _current.get()


def seconds_left(at_most: float = math.inf) -> float:
    """How long the caller of this moment may still be kept waiting; not positive: no longer."""
    call = _current.get()
    if call is None or call.deadline == math.inf:
        return at_most
    return min(at_most, call.deadline - asyncio.get_running_loop().time())
