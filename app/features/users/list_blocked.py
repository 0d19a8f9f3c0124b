"""Whom I have blocked, the latest first."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, or_, select

from app.features.users.block import Blocked
from app.features.users.models import BlockRow
from app.features.users.views import load_profiles
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId


class BlockedPosition(NamedTuple):
    """The sort key of the list: descending by both."""

    blocked_at: datetime
    user_id: UserId


async def list_blocked(
    db: Database,
    keyring: Keyring,
    *,
    blocker: UserId,
    before: BlockedPosition | None,
    limit: int,
) -> tuple[list[Blocked], BlockedPosition | None]:
    """The blocks made before `before`.

    Returns:
        At most `limit` of them, and the `before` of the next page if there is one.
    """

    async def work(tx: Tx) -> tuple[list[Blocked], BlockedPosition | None]:
        statement = (
            select(BlockRow.user_id, BlockRow.created_at)
            .where(BlockRow.owner_id == blocker)
            .order_by(BlockRow.created_at.desc(), BlockRow.user_id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            statement = statement.where(
                or_(
                    BlockRow.created_at < before.blocked_at,
                    and_(
                        BlockRow.created_at == before.blocked_at,
                        BlockRow.user_id < before.user_id,
                    ),
                )
            )
        rows = await tx.all(statement)
        page = rows[:limit]
        ids = [row.user_id for row in page]
        profiles = await load_profiles(tx, keyring, viewer=blocker, user_ids=ids)
        blocked = [
            Blocked(profile=profiles[row.user_id], blocked_at=row.created_at) for row in page
        ]
        last = page[-1] if len(rows) > limit else None
        return blocked, BlockedPosition(last.created_at, last.user_id) if last else None

    return await db.read(work)
