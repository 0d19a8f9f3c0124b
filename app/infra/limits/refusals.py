"""What a worker remembers of refusals: whoever goes on all the same costs no counting and no round trip."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from app.infra.limits.port import Draw, Standing

_MAX_REMEMBERED = 10_000
_Key = tuple[str, str]


class Refusals:
    """Who has used up which quota, and until when. Never longer than the counters said."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ends: OrderedDict[_Key, float] = OrderedDict()

    def find(self, draws: Sequence[Draw]) -> list[Standing]:
        """Of these draws, those that are refused anyway."""
        if not self._ends:
            return []
        now = self._monotonic()
        refused: list[Standing] = []
        for draw in draws:
            key = (draw.quota.name, draw.whose)
            end = self._ends.get(key)
            if end is None:
                continue
            if end <= now:
                del self._ends[key]
            else:
                refused.append(
                    Standing(draw.quota, is_allowed=False, remaining=0, reset_seconds=end - now)
                )
        return refused

    def note(self, draws: Sequence[Draw], standings: Sequence[Standing]) -> None:
        """Remember what is used up. Where something is left, a cheaper draw may still succeed."""
        for draw, standing in zip(draws, standings, strict=True):
            if not standing.is_allowed and standing.remaining == 0:
                self._ends[draw.quota.name, draw.whose] = self._monotonic() + standing.reset_seconds
        while len(self._ends) > _MAX_REMEMBERED:
            self._ends.popitem(last=False)
