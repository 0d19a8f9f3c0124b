"""What higher slices ask about people: do they exist, do they block each other, may one add or call another."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import select

from app.features.users import policy
from app.features.users.errors import UserNotFound
from app.features.users.models import BlockRow, UserRow
from app.features.users.relations import load_relations
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

_IDS_A_STATEMENT = 10_000


async def require_user(tx: Tx, user_id: UserId) -> None:
    """An account that exists and is not deleted.

    Raises:
        user_not_found
    """
    statement = select(UserRow.id).where(UserRow.id == user_id, UserRow.deleted_at.is_(None))
    if await tx.scalar(statement) is None:
        raise UserNotFound


async def find_existing(tx: Tx, user_ids: Collection[UserId]) -> set[UserId]:
    """Those of `user_ids` that are accounts and not deleted."""
    return set(await load_privacy(tx, user_ids))


async def is_blocked(tx: Tx, by: UserId, whom: UserId) -> bool:
    """Whether `by` has blocked `whom`."""
    statement = select(BlockRow.user_id).where(BlockRow.owner_id == by, BlockRow.user_id == whom)
    return await tx.scalar(statement) is not None


async def may_add_to_groups(tx: Tx, adder: UserId, user_ids: Collection[UserId]) -> set[UserId]:
    """Those of `user_ids` whom `adder` may put into a group: they exist, allow it, and have not blocked."""
    privacy = await load_privacy(tx, user_ids)
    relations = await load_relations(tx, adder, privacy)
    return {
        user_id
        for user_id, choices in privacy.items()
        if policy.may_add_to_groups(choices, relations[user_id])
    }


async def may_call(tx: Tx, caller: UserId, callee: UserId) -> bool:
    """Whether `callee` exists and lets `caller` ring."""
    privacy = await load_privacy(tx, [callee])
    relations = await load_relations(tx, caller, [callee])
    return callee in privacy and policy.may_call(privacy[callee], relations[callee])


async def list_photos_seen(tx: Tx, viewer: UserId, user_ids: Collection[UserId]) -> list[UserId]:
    """Those of `user_ids` whose photo the viewer may see."""
    privacy = await load_privacy(tx, user_ids)
    relations = await load_relations(tx, viewer, privacy)
    return [
        user_id
        for user_id, choices in privacy.items()
        if policy.may_see_photo(choices, relations[user_id])
    ]


async def load_privacy(tx: Tx, user_ids: Collection[UserId]) -> dict[UserId, policy.Privacy]:
    """Of those who exist and are not deleted."""
    ids = sorted(set(user_ids))
    privacy: dict[UserId, policy.Privacy] = {}
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        statement = select(UserRow.id, UserRow.privacy).where(
            UserRow.id.in_(ids[start : start + _IDS_A_STATEMENT]), UserRow.deleted_at.is_(None)
        )
        for row in await tx.all(statement):
            privacy[row.id] = policy.parse_privacy(row.privacy)
    return privacy


async def is_newcomer(tx: Tx, user_id: UserId, *, newer_than: timedelta) -> bool:
    """Whether the account was made in the last `newer_than`."""
    created_at = await tx.scalar(select(UserRow.created_at).where(UserRow.id == user_id))
    return created_at is None or created_at > tx.now - newer_than
