"""Time that passes only from one event to the next, chance that comes from the seed, and what happened."""

import heapq
import random
from collections import deque
from collections.abc import Callable

Action = Callable[[], None]
_LINES_KEPT = 400


class Schedule:
    """The events of one run. What is due at the same time happens in a random order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=_LINES_KEPT)
        self._events: list[tuple[float, float, int, Action]] = []

    def after(self, seconds: float, action: Action) -> None:
        self.steps += 1
        event = (self.now + seconds, self.rng.random(), self.steps, action)
        heapq.heappush(self._events, event)

    def within(self, seconds: float, action: Action) -> None:
        """At a moment that chance chooses."""
        self.after(self.rng.random() * seconds, action)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def step(self) -> None:
        """The next event; there is always one, for the loops of the workers never end."""
        self.now, _, _, action = heapq.heappop(self._events)
        action()

    def note(self, what: str, *details: object) -> None:
        self.trace.append((self.now, what, details))

    def story(self, lines: int = 60) -> str:
        """The last things that happened."""
        kept = list(self.trace)[-lines:]
        return "\n".join(f"{at:9.3f} {what} {' '.join(map(str, of))}" for at, what, of in kept)
