"""Lifting a block."""

from sqlalchemy import delete

from app.features.updates.log import lock_scopes
from app.features.users.errors import BlockNotFound
from app.features.users.models import BlockRow
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope


async def unblock_user(db: Database, *, blocker: UserId, user_id: UserId) -> None:
    """Raises:
    block_not_found
    """

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(blocker)])
        statement = delete(BlockRow).where(
            BlockRow.owner_id == blocker, BlockRow.user_id == user_id
        )
        if not await tx.execute(statement):
            raise BlockNotFound
        log.append(user_scope(blocker), "blocked_changed", subject_id=user_id)

    await db.write(work)
