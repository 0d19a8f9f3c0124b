"""Ranges of a representation (RFC 9110, section 14): read in linear time, and never more of them than help."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from app.kernel.problems import RangeNotSatisfiable

# A player that seeks asks for one, a download manager for a few.
MAX_RANGES: Final = 16

_RANGE = re.compile(r"[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*", re.ASCII)


class ByteRange(NamedTuple):
    """From `start` up to and without `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def parse_ranges(header: str, size: int) -> Sequence[ByteRange] | None:
    """What `Range` asks for, overlapping and adjacent ones joined, by position; None: nothing that is understood,
    so that the whole is to be sent.

    Raises:
        RangeNotSatisfiable: range_not_satisfiable, none of them is inside, or there are too many.
    """
    unit, is_given, listed = header.partition("=")
    if not is_given or unit.strip().lower() != "bytes":
        return None
    refusal = RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    if listed.count(",") >= MAX_RANGES:
        raise refusal
    asked = [_parse_one(text, size) for text in listed.split(",")]
    found = [each for each in asked if each is not None and each.start < each.end]
    if None in asked:
        return None
    if not found:
        raise refusal
    return _join(found)


def _parse_one(text: str, size: int) -> ByteRange | None:
    """An empty range lies outside; None: it is none at all."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return ByteRange(max(0, size - int(suffix)), size)
    if last and int(last) < int(first):
        return None
    return ByteRange(int(first), min(size, int(last) + 1) if last else size)


def _join(ranges: list[ByteRange]) -> list[ByteRange]:
    if len(ranges) == 1:
        return ranges
    ranges.sort()
    joined = [ranges[0]]
    for following in ranges[1:]:
        last = joined[-1]
        if following.start <= last.end:
            joined[-1] = ByteRange(last.start, max(last.end, following.end))
        else:
            joined.append(following)
    return joined
