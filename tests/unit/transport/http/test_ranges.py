"""Ranges: as a table, against a plain model, and in linear time."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.problems import RangeNotSatisfiable
from app.transport.http.ranges import MAX_RANGES, parse_ranges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-4", [(0, 5)]),
        ("bytes=95-", [(95, 100)]),
        ("bytes=95-200", [(95, 100)]),
        ("bytes=-5", [(95, 100)]),
        ("bytes=-500", [(0, 100)]),
        ("bytes=0-4, 10-14", [(0, 5), (10, 15)]),
        ("bytes=10-14,0-4", [(0, 5), (10, 15)]),
        ("bytes=0-4,5-9", [(0, 10)]),
        ("bytes=0-9,5-7", [(0, 10)]),
        ("bytes=0-4,200-300", [(0, 5)]),
        ("BYTES=0-0", [(0, 1)]),
        ("items=0-4", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=4-0", None),
        ("bytes=0-4,x", None),
        ("bytes=0x1-0x2", None),
        ("bytes=\u0661-\u0662", None),
        ("bytes=--5", None),
        ("bytes=1-2-3", None),
        ("bytes=9999999999999999999-", None),
    ],
)
def test_a_header_means_these_ranges(header: str, expected: list[tuple[int, int]] | None) -> None:
    found = parse_ranges(header, 100)
    assert (None if found is None else [tuple(it) for it in found]) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,200-"])
def test_what_lies_outside_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refusal:
        parse_ranges(header, 100)
    assert refusal.value.headers == {"Content-Range": "bytes */100"}


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), min_size=1, max_size=MAX_RANGES),
)
def test_joined_ranges_hold_the_same_bytes(pairs: list[tuple[int, int]]) -> None:
    pairs = [(min(pair), max(pair)) for pair in pairs]
    wanted = {place for first, last in pairs for place in range(first, min(last + 1, 100))}
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in pairs)
    if not wanted:
        with pytest.raises(RangeNotSatisfiable):
            parse_ranges(header, 100)
        return
    found = parse_ranges(header, 100) or []
    assert {place for it in found for place in range(it.start, it.end)} == wanted
    assert sum(it.length for it in found) == len(wanted)
    assert all(one.end < other.start for one, other in itertools.pairwise(found))


def test_five_thousand_ranges_cost_no_time() -> None:
    """F7: at most 50 ms of CPU."""
    headers = [
        "bytes=" + ",".join(f"{i}-{i}" for i in range(5_000)),
        "bytes=" + "0-," * 5_000,
        "bytes=" + "," * 32_000,
        "bytes=" + "1" * 32_000 + "-",
        "bytes=" + " " * 32_000 + "1-",
        "bytes=-" + "1" * 32_000,
    ]
    began = time.process_time()
    for header in headers:
        try:
            parse_ranges(header, 10**9)
        except RangeNotSatisfiable:
            continue
    assert time.process_time() - began < 0.05
