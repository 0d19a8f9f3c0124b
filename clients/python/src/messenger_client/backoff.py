"""How long to wait between attempts, so that many clients do not come back at the same moment."""

import secrets

_random = secrets.SystemRandom()


class Backoff:
    """Exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._failures = 0

    def reset(self) -> None:
        """It went well."""
        self._failures = 0

    def next(self, *, at_least: float = 0.0) -> float:
        """Seconds to wait after one more failure."""
        limit = min(self._most, self._first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return max(at_least, _random.uniform(limit / 4, limit))
