"""The bus of a single process: a function call."""

from collections.abc import Callable

import structlog

log = structlog.stdlib.get_logger("app.bus")


class MemoryBus:
    """Hands each payload to the subscribers of its topic, at once and in order."""

    reaches_others = False

    def __init__(self) -> None:
        self._handlers: dict[str, list[Callable[[bytes], None]]] = {}

    def publish(self, topic: str, payload: bytes) -> None:
        for handler in self._handlers.get(topic, ()):
            try:
                handler(payload)
            except Exception:  # an edge: the publisher has committed and must not hear of it
                log.exception("bus_handler_failed", topic=topic)

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        self._handlers.setdefault(topic, []).append(handler)

    def on_reconnect(self, handler: Callable[[], None]) -> None:
        """A function call is never disconnected."""

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is queued."""
