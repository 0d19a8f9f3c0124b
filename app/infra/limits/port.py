"""Limits of how often: quotas, who draws on them, and where they stand afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quota:
    """So many in so long, whenever one begins to count. `name` is told to the caller."""

    name: str
    limit: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Draw:
    """`cost` units of a quota. `whose`: an account or a client, never readable as an address.

    A strict quota guards secrets: where the shared counters are away it is cut, not merely kept
    apart by worker.
    """

    quota: Quota
    whose: str
    cost: int = 1
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A quota after a draw. `reset_seconds`: until more of it comes free, or if refused, until
    the same draw may succeed.
    """

    quota: Quota
    is_allowed: bool
    remaining: int
    reset_seconds: float


class Limiter(Protocol):
    """Counts, over all workers where it can. Never raises and never waits for long."""

    async def take(self, draws: Sequence[Draw]) -> list[Standing]:
        """Draw on all of these at once; each that is not exhausted counts, whatever becomes of the others."""
        ...

    def find_refusals(self, draws: Sequence[Draw]) -> list[Standing]:
        """Those of `draws` that are known to be exhausted, without asking or counting anything."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
