"""What a refused caller is told: neither too early nor longer than needed."""

from math import floor

from hypothesis import given
from hypothesis import strategies as st

from app.infra.limits.port import Quota
from app.infra.limits.windows import Window, count_remaining, seconds_until

LENGTH = 10


@st.composite
def windows(draw: st.DrawFn) -> tuple[Quota, Window, int]:
    quota = Quota("some", draw(st.integers(1, 20)), LENGTH)
    rest = draw(st.floats(0, LENGTH))
    running = draw(st.integers(0, quota.limit))
    window = Window(draw(st.integers(0, quota.limit)), rest, running, rest + LENGTH)
    return quota, window, draw(st.integers(1, quota.limit))


def later(window: Window, seconds: float) -> Window:
    """As the library's scripts shift it; nothing is drawn meanwhile."""
    if seconds < window.last_ends_in:
        rest = window.last_ends_in - seconds
        return Window(window.last, rest, window.running, rest + LENGTH)
    rest = window.running_ends_in - seconds
    if rest > 0:
        return Window(window.running, rest, 0, rest + LENGTH)
    return Window(0, 0, 0, 0)


def is_allowed(quota: Quota, window: Window, cost: int) -> bool:
    counted = floor(window.last * window.last_ends_in / LENGTH) + window.running
    return counted + cost <= quota.limit


@given(windows())
def test_the_draw_succeeds_just_after_the_moment_told_and_not_before(
    case: tuple[Quota, Window, int],
) -> None:
    quota, window, cost = case
    seconds = seconds_until(quota, window, cost)
    assert is_allowed(quota, later(window, seconds + 1e-6), cost)
    if seconds > 1e-6:
        assert not is_allowed(quota, later(window, seconds - 1e-6), cost)


@given(windows())
def test_what_remains_is_what_may_be_drawn_at_once(case: tuple[Quota, Window, int]) -> None:
    quota, window, cost = case
    assert is_allowed(quota, window, cost) == (cost <= count_remaining(quota, window))


def test_a_window_of_this_very_millisecond_lasts_whole() -> None:
    quota = Quota("three", 3, LENGTH)
    # All three will count until the window is the last one, and a first unit of it fades.
    assert seconds_until(quota, Window(0, 0.0, 3, 2.0 * LENGTH), 1) == LENGTH


def test_what_is_dearer_than_the_quota_is_told_a_bounded_time() -> None:
    quota = Quota("three", 3, LENGTH)
    assert seconds_until(quota, Window(0, 0.0, 1, 1.5 * LENGTH), 4) == 2 * LENGTH
