"""Who is online: connections counted per person, each with an expiry, so that a dead worker's vanish."""

from collections.abc import Sequence
from typing import Protocol

from app.kernel.ids import UserId


class PresenceStore(Protocol):
    """Bare facts; who may see them is decided elsewhere."""

    async def add(self, user_id: UserId, connection_id: str, ttl_seconds: float) -> int:
        """Note an open connection; gives how many the person has now."""
        ...

    async def refresh(self, connections: Sequence[tuple[UserId, str]], ttl_seconds: float) -> None:
        """Let these connections expire in `ttl_seconds` from now; those that the store forgot are noted again."""
        ...

    async def remove(self, user_id: UserId, connection_id: str) -> int:
        """Forget a closed connection; gives how many the person still has."""
        ...

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        """Those of `user_ids` with at least one connection."""
        ...

    async def take_expired(self) -> list[UserId]:
        """People whose last connection expired (was not removed); each is told once, to one worker."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
