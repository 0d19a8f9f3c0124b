"""A caller that waits for what a test does, and for no longer than it is told to."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.infra.deadline import Call, begin_call


@contextmanager
def a_call(*, seconds: float) -> Iterator[Call]:
    """Tests share one context: a call that did not end would bind those that follow."""
    call = begin_call(seconds=seconds)
    try:
        yield call
    finally:
        call.end()
