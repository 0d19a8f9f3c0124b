"""Presence of a single process."""

import time
from collections.abc import Callable, Sequence

from app.infra.presence.port import (
    GAP_SECONDS,
    GONE_SECONDS,
    HOLD_SECONDS,
    LEASE_SECONDS,
    Opened,
)
from app.kernel.ids import UserId


class MemoryPresence:
    """Connections of each person with the moment at which they expire, by a monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._expiries: dict[UserId, dict[str, float]] = {}
        # When the last connection of each person expires, or the lease of who tells; gone once told.
        self._ends: dict[UserId, float] = {}
        # Taken as expired, and when, oldest first; people who connect again leave it.
        self._gone: dict[UserId, float] = {}
        self._taken_at = monotonic()
        self._held_until = 0.0

    async def add(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        came = dict.fromkeys(user_id for user_id, _ in connections if not self._is_online(user_id))
        self._note(connections, ttl_seconds)
        return list(came)

    async def refresh(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        back = dict.fromkeys(user_id for user_id, _ in connections if user_id in self._gone)
        self._note(connections, ttl_seconds)
        return list(back)

    async def linger(self, connections: Opened, seconds: float) -> None:
        self._note([it for it in connections if it[0] not in self._gone], seconds)

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        return {user_id for user_id in user_ids if self._is_online(user_id)}

    async def take_expired(self) -> list[UserId]:
        now = self._monotonic()
        if now - self._taken_at > GAP_SECONDS:
            self._held_until = now + HOLD_SECONDS
        self._taken_at = now
        if now < self._held_until:
            return []
        expired = [user_id for user_id, end in self._ends.items() if end <= now]
        for user_id in expired:
            self._ends[user_id] = now + LEASE_SECONDS
            self._expiries.pop(user_id, None)
            self._gone.pop(user_id, None)
            self._gone[user_id] = now
        self._forget_long_gone(now)
        return expired

    async def forget(self, user_ids: Sequence[UserId]) -> None:
        for user_id in user_ids:
            if not self._is_online(user_id):
                self._ends.pop(user_id, None)

    def on_doubt(self, handler: Callable[[], None]) -> None:
        """What is in memory is never lost without its process."""

    async def close(self) -> None:
        """Nothing is open."""

    def _note(self, connections: Opened, ttl_seconds: float) -> None:
        expiry = self._monotonic() + ttl_seconds
        for user_id, connection_id in connections:
            self._gone.pop(user_id, None)
            own = self._expiries.setdefault(user_id, {})
            own[connection_id] = expiry
            self._ends[user_id] = max(own.values())

    def _forget_long_gone(self, now: float) -> None:
        while self._gone and now - next(iter(self._gone.values())) > GONE_SECONDS:
            del self._gone[next(iter(self._gone))]

    def _is_online(self, user_id: UserId) -> bool:
        connections = self._expiries.get(user_id)
        if connections is None:
            return False
        now = self._monotonic()
        for connection_id in [key for key, expiry in connections.items() if expiry <= now]:
            del connections[connection_id]
        if not connections:
            del self._expiries[user_id]
        return bool(connections)
