"""How much is done: `quick` in seconds within `make test`, `full` by `make promises` (PROMISES=full)."""

import os
from typing import Literal, TypeVar

import pytest

T = TypeVar("T")

SCALE: Literal["quick", "full"] = "full" if os.environ.get("PROMISES") == "full" else "quick"


def scaled(*, quick: T, full: T) -> T:
    """One of two numbers, lists or names."""
    return full if SCALE == "full" else quick


# The fork server saves two seconds a start; what is promised is shown on processes from their first line on.
FORKED = SCALE == "quick"

full_only = pytest.mark.skipif(SCALE != "full", reason="takes long: make promises")
