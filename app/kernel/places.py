"""So many at once of one account, and so many in all of this process; who comes too many waits a moment first."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.kernel.ids import UserId
from app.kernel.problems import Problem

# A page of pictures asks for a hundred at once; each of them is over in less.
_PATIENCE_SECONDS: Final = 2.0


@dataclass(slots=True)
class _Owner:
    """`users`: who holds one of its places or waits for one."""

    places: asyncio.Semaphore
    users: int = 0


class Places:
    """`refuse_owner` and `refuse_all` make what is raised where an account, or the process, has no place left."""

    def __init__(
        self,
        *,
        per_owner: int,
        in_all: int,
        refuse_owner: Callable[[], Problem],
        refuse_all: Callable[[], Problem],
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._per_owner = per_owner
        self._all = asyncio.Semaphore(in_all)
        self._owners: dict[UserId, _Owner] = {}
        self._refuse_owner = refuse_owner
        self._refuse_all = refuse_all
        self._patience_seconds = patience_seconds

    @asynccontextmanager
    async def take(self, owner_id: UserId) -> AsyncGenerator[None]:
        """Raises:
        Problem: as made by `refuse_owner` or `refuse_all`
        """
        owner = self._owners.setdefault(owner_id, _Owner(asyncio.Semaphore(self._per_owner)))
        owner.users += 1
        try:
            # The account's own first: who waits for one of those holds none of everybody's.
            async with (
                self._hold(owner.places, self._refuse_owner),
                self._hold(self._all, self._refuse_all),
            ):
                yield
        finally:
            owner.users -= 1
            if not owner.users:
                del self._owners[owner_id]

    @asynccontextmanager
    async def _hold(
        self, places: asyncio.Semaphore, refuse: Callable[[], Problem]
    ) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await places.acquire()
        except TimeoutError:
            raise refuse() from None
        try:
            yield
        finally:
            places.release()
