"""Who is online: connections counted per person, each with an expiry, so that a dead worker's vanish."""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.kernel.ids import UserId

Opened = Sequence[tuple[UserId, str]]
"""Connections: whose each is, and its id."""

# Nobody took the expired for this long: the store or every worker stood still, and those who expired
# meanwhile are likely as connected as before. Refreshes come first, for as long as the hold.
GAP_SECONDS = 5.0
HOLD_SECONDS = 10.0
# Whoever took an expired person has this long to tell; then it is somebody else's turn.
LEASE_SECONDS = 10.0
# A worker that stood still for longer has lost its clients long ago: nobody comes back with it.
GONE_SECONDS = 3600.0


class PresenceStore(Protocol):
    """Bare facts; who may see them is decided elsewhere."""

    async def add(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        """Note open connections; gives the people who had none before and are online now."""
        ...

    async def refresh(self, connections: Opened, ttl_seconds: float) -> list[UserId]:
        """Let these connections expire in `ttl_seconds` from now; those that the store forgot are noted again.

        Gives the people who are online while others were told, or may believe, that they are not.
        """
        ...

    async def linger(self, connections: Opened, seconds: float) -> None:
        """These connections are closed: let them expire soon. Nobody comes back by that."""
        ...

    async def online(self, user_ids: Sequence[UserId]) -> set[UserId]:
        """Those of `user_ids` with at least one connection."""
        ...

    async def take_expired(self) -> list[UserId]:
        """People whose last connection expired, each for one worker, which tells and then calls `forget`.

        Whoever is not forgotten is taken again after `LEASE_SECONDS`.
        """
        ...

    async def forget(self, user_ids: Sequence[UserId]) -> None:
        """It was told that these expired; those who came back stay."""
        ...

    def on_doubt(self, handler: Callable[[], None]) -> None:
        """`handler` is called when the store may have lost what it knew: refresh everything at once."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
