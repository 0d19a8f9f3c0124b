"""Presence of a single process."""

import time
from collections.abc import Callable, Sequence

from app.kernel.ids import UserId


class MemoryPresence:
    """Connections of each person with the moment at which they expire, by a monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._expiries: dict[UserId, dict[str, float]] = {}
        # When the last connection of each person expires; gone once that was told.
        self._ends: dict[UserId, float] = {}

    async def add(self, user_id: UserId, connection_id: str, ttl_seconds: float) -> int:
        connections = self._expiries.setdefault(user_id, {})
        connections[connection_id] = self._monotonic() + ttl_seconds
        self._ends[user_id] = max(connections.values())
        return self._count(user_id)

    async def refresh(self, connections: Sequence[tuple[UserId, str]], ttl_seconds: float) -> None:
        expiry = self._monotonic() + ttl_seconds
        for user_id, connection_id in connections:
            own = self._expiries.setdefault(user_id, {})
            own[connection_id] = expiry
            self._ends[user_id] = max(own.values())

    async def remove(self, user_id: UserId, connection_id: str) -> int:
        self._expiries.get(user_id, {}).pop(connection_id, None)
        count = self._count(user_id)
        if count == 0:
            self._ends.pop(user_id, None)
        return count

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        return {user_id for user_id in user_ids if self._count(user_id)}

    async def take_expired(self) -> list[UserId]:
        now = self._monotonic()
        expired = [user_id for user_id, end in self._ends.items() if end <= now]
        for user_id in expired:
            del self._ends[user_id]
            self._count(user_id)
        return expired

    async def close(self) -> None:
        """Nothing is open."""

    def _count(self, user_id: UserId) -> int:
        connections = self._expiries.get(user_id)
        if connections is None:
            return 0
        now = self._monotonic()
        for connection_id in [key for key, expiry in connections.items() if expiry <= now]:
            del connections[connection_id]
        if not connections:
            del self._expiries[user_id]
        return len(connections)
