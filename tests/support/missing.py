"""What the tests did not find on the machine: named at the end, a failure under CI=true."""

import os

import pytest

REASONS: dict[str, str] = {}


class Missing(Exception):  # noqa: N818 - a state of the machine, not an error of the code
    """A program that the tests want is not here; the text says what was looked for."""


def skip(what: str, reason: str) -> None:
    """Skip the present test because `what` is missing; with CI=true fail it."""
    REASONS[what] = reason
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what} could not run: {reason}", pytrace=False)
    pytest.skip(f"{what} could not run: {reason}")
