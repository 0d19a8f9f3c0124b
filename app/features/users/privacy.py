"""My privacy: who sees and reaches me. It holds from the next read or call on."""

from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import select, update

from app.features.updates.log import lock_scopes
from app.features.users.errors import UserNotFound
from app.features.users.models import UserRow
from app.features.users.policy import Audience, Privacy, parse_privacy, render_privacy
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope


async def get_privacy(db: Database, *, user_id: UserId) -> Privacy:
    """Raises:
    user_not_found: the account was deleted a moment ago.
    """
    return await db.read(lambda tx: _load(tx, user_id))


async def update_privacy(
    db: Database, *, user_id: UserId, changes: Mapping[str, Audience]
) -> Privacy:
    """What is not in `changes` (field of `Privacy` -> audience) stays."""

    async def work(tx: Tx) -> Privacy:
        log = await lock_scopes(tx, [user_scope(user_id)])
        before = await _load(tx, user_id)
        after = replace(before, **changes)
        if after != before:
            await tx.execute(
                update(UserRow).where(UserRow.id == user_id).values(privacy=render_privacy(after))
            )
            log.append(user_scope(user_id), "privacy_changed")
        return after

    return await db.write(work)


async def _load(tx: Tx, user_id: UserId) -> Privacy:
    statement = select(UserRow.privacy).where(UserRow.id == user_id, UserRow.deleted_at.is_(None))
    stored = await tx.scalar(statement)
    if stored is None:
        raise UserNotFound
    return parse_privacy(stored)
