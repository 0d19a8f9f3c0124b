"""How long work waits that was hindered by what is full or away."""

from datetime import timedelta
from typing import Final

_FIRST: Final = timedelta(seconds=5)
_LONGEST: Final = timedelta(minutes=5)
_MOST_DOUBLINGS: Final = 6


def pause_after(setbacks: int) -> timedelta:
    """Of so many before this one: twice as long each time. What was tried in vain has read and written much, and has
    taken the last room of a full disk from everybody else meanwhile.
    """
    return min(_FIRST * 2 ** min(setbacks, _MOST_DOUBLINGS), _LONGEST)
