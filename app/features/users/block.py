"""Blocking: the blocked read what is there already, and see of me what nobody sees."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from app.features.updates.log import lock_scopes
from app.features.users.access import require_user
from app.features.users.errors import CannotBlockYourself, TooManyBlocked
from app.features.users.models import BlockRow
from app.features.users.views import Profile, load_profiles
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.ids import UserId
from app.kernel.problems import FieldError
from app.kernel.scopes import user_scope

MAX_BLOCKED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Somebody whom I have blocked, and since when."""

    profile: Profile
    blocked_at: datetime


async def block_user(
    db: Database, keyring: Keyring, *, blocker: UserId, user_id: UserId
) -> Blocked:
    """Blocking again changes nothing.

    Raises:
        user_not_found, cannot_block_yourself, too_many_blocked
    """
    if blocker == user_id:
        raise CannotBlockYourself(errors=[FieldError("user_id", "is your own")])

    async def work(tx: Tx) -> Blocked:
        log = await lock_scopes(tx, [user_scope(blocker)])
        await require_user(tx, user_id)
        row = {"owner_id": blocker, "user_id": user_id, "created_at": tx.now}
        if await insert_ignore(tx, BlockRow, [row], index=["owner_id", "user_id"]):
            await _require_room(tx, blocker)
            log.append(user_scope(blocker), "blocked_changed", subject_id=user_id)
        blocked_at = await tx.scalar(
            select(BlockRow.created_at).where(
                BlockRow.owner_id == blocker, BlockRow.user_id == user_id
            )
        )
        profiles = await load_profiles(tx, keyring, viewer=blocker, user_ids=[user_id])
        return Blocked(profile=profiles[user_id], blocked_at=blocked_at or tx.now)

    return await db.write(work)


async def _require_room(tx: Tx, blocker: UserId) -> None:
    """The new row counts: raising takes it back."""
    statement = select(func.count()).select_from(BlockRow).where(BlockRow.owner_id == blocker)
    if (await tx.scalar(statement) or 0) > MAX_BLOCKED:
        raise TooManyBlocked(f"At most {MAX_BLOCKED} blocked users")
