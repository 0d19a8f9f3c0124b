"""Works of several people in one transaction, each under the lock of its person's scope."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from app.features.files.errors import UploadRefused
from app.features.updates.log import lock_scopes, try_lock_scopes
from app.infra.database.committer import BUSY, Busy
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.problems import Problem
from app.kernel.scopes import user_scope

T = TypeVar("T")

# A group holds the scopes of so many people at most: some 20 ms.
GROUP: Final = 16


async def run_in_turn(
    tx: Tx,
    owners: Sequence[UserId],
    works: Sequence[Callable[[], Awaitable[T]]],
    *,
    may_wait: bool,
) -> "Sequence[T | Problem | Busy]":
    """Each under the lock of its person's scope, so that no two count the same. One that refuses has changed
    nothing but notes of its own.
    """
    lock = lock_scopes if may_wait else try_lock_scopes
    locked = await lock(tx, {user_scope(owner_id) for owner_id in owners})
    outcomes: list[T | Problem | Busy] = []
    for owner_id, work in zip(owners, works, strict=True):
        if not locked.is_locked(user_scope(owner_id)):
            outcomes.append(UploadRefused() if may_wait else BUSY)
            continue
        try:
            outcomes.append(await work())
        except Problem as problem:
            outcomes.append(problem)
    return outcomes
