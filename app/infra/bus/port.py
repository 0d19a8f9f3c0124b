"""The bus: a messenger between workers that may lose, repeat or reorder anything; the log is the truth."""

from collections.abc import Callable
from typing import Protocol


class Bus(Protocol):
    """Carries small payloads to every worker, this one included.

    `reaches_others`: there may be other workers, so that what this one knows already is worth sending.
    """

    reaches_others: bool

    def publish(self, topic: str, payload: bytes) -> None:
        """Send to all subscribers of a topic. Never blocks and never raises."""
        ...

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        """Hear a topic; call it before `start`."""
        ...

    def on_reconnect(self, handler: Callable[[], None]) -> None:
        """Be told that payloads may have been missed."""
        ...

    async def start(self) -> None:
        """Begin to listen."""
        ...

    async def stop(self) -> None:
        """Send what is queued, then stop."""
        ...
