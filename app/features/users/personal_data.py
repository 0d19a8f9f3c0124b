"""What this slice erases and exports of a person."""

from sqlalchemy import delete, select, update

from app.features.updates.log import lock_scopes
from app.features.users.models import (
    BlockRow,
    ContactRow,
    PhoneLookupRow,
    UsernameRow,
    UserNameTokenRow,
    UserRow,
)
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope
from app.transport.personal_data import Leaver

_BATCH = 100


class UsersPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """The row stays, emptied, so that the id is never given out twice; phone and username are free."""
        user_id = leaver.user_id
        for row, column in (
            (UsernameRow, UsernameRow.user_id),
            (UserNameTokenRow, UserNameTokenRow.user_id),
            (ContactRow, ContactRow.owner_id),
            (BlockRow, BlockRow.owner_id),
            (PhoneLookupRow, PhoneLookupRow.user_id),
        ):
            await tx.execute(delete(row).where(column == user_id))
        values: dict[str, object] = {
            "phone": None,
            "phone_index": None,
            "username": None,
            "first_name": b"",
            "last_name": None,
            "bio": None,
            "language": None,
            "privacy": {},
            "last_seen_at": None,
            "deleted_at": tx.now,
        }
        await tx.execute(update(UserRow).where(UserRow.id == user_id).values(values))

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """From the lists of those who had blocked the person."""
        while owners := await services.db.read(lambda tx: _list_blockers(tx, leaver.user_id)):
            for owner in owners:
                await services.db.write(lambda tx, owner=owner: _unblock(tx, owner, leaver.user_id))


async def _list_blockers(tx: Tx, user_id: UserId) -> list[UserId]:
    statement = select(BlockRow.owner_id).where(BlockRow.user_id == user_id).limit(_BATCH)
    return list(await tx.scalars(statement))


async def _unblock(tx: Tx, owner: UserId, user_id: UserId) -> None:
    log = await lock_scopes(tx, [user_scope(owner)])
    statement = delete(BlockRow).where(BlockRow.owner_id == owner, BlockRow.user_id == user_id)
    if await tx.execute(statement):
        log.append(user_scope(owner), "blocked_changed", subject_id=user_id)
