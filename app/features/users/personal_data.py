"""What this slice erases and exports of a person."""

from collections.abc import Sequence
from datetime import date, timedelta

from sqlalchemy import delete, func, select, update

from app.features.files.uses import remove_uses
from app.features.updates.log import lock_scopes
from app.features.users.access import load_privacy
from app.features.users.address_book import load_saved, select_saved
from app.features.users.lookups import leave_spent
from app.features.users.me import load_me
from app.features.users.models import (
    BlockRow,
    ContactRow,
    PhoneLookupRow,
    UsernameRow,
    UserNameTokenRow,
    UserRow,
)
from app.features.users.policy import Privacy, render_privacy
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope
from app.transport.personal_data import Leaver, Page, Section, in_pages, one_item

_BATCH = 100
_PAGE = 500
_EPOCH = date(1970, 1, 1)


class UsersPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """The row stays, emptied, so that the id is never given out twice; phone and username are free.
        Nobody reads the photo any more.
        """
        user_id = leaver.user_id
        await remove_uses(tx, "user", [user_id])
        if leaver.phone_index is not None:
            await leave_spent(tx, user_id=user_id, phone_index=leaver.phone_index)
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
            "photo_id": None,
            "last_seen_at": None,
            "deleted_at": tx.now,
        }
        await tx.execute(update(UserRow).where(UserRow.id == user_id).values(values))

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """From the lists of those who had blocked the person."""
        while owners := await services.db.read(
            lambda tx: _list_blockers(tx, leaver.user_id), timeout_seconds=LONG_SECONDS
        ):
            for owner in owners:
                await services.db.write(
                    lambda tx, owner=owner: _unblock(tx, owner, leaver.user_id),
                    timeout_seconds=LONG_SECONDS,
                )

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """Of contacts and blocks what the person saved; of look-ups how many: the numbers are not kept."""
        db, keyring = services.db, services.keyring
        return [
            Section(
                "profile",
                one_item(db, lambda tx: load_me(tx, keyring, user_id=user_id)),
                is_list=False,
            ),
            Section("privacy", one_item(db, lambda tx: _read_privacy(tx, user_id)), is_list=False),
            Section(
                "contacts",
                in_pages(db, lambda tx, after: _page_contacts(tx, keyring, user_id, after)),
            ),
            Section("blocked", in_pages(db, lambda tx, after: _page_blocked(tx, user_id, after))),
            Section("lookups", in_pages(db, lambda tx, after: _page_lookups(tx, user_id, after))),
        ]


async def _read_privacy(tx: Tx, user_id: UserId) -> object:
    return render_privacy((await load_privacy(tx, [user_id])).get(user_id, Privacy()))


async def _page_contacts(tx: Tx, keyring: Keyring, owner: UserId, after: int) -> Page:
    statement = (
        select_saved()
        .where(ContactRow.owner_id == owner, ContactRow.id > after)
        .order_by(ContactRow.id)
        .limit(_PAGE)
    )
    saved = await load_saved(tx, keyring, statement)
    items = [
        {
            "user_id": it.user_id,
            "first_name": it.first_name,
            "last_name": it.last_name,
            "added_at": format_time(it.added_at),
        }
        for it in saved
    ]
    return items, saved[-1].id if len(saved) == _PAGE else None


async def _page_blocked(tx: Tx, owner: UserId, after: int) -> Page:
    statement = (
        select(BlockRow.user_id, BlockRow.created_at)
        .where(BlockRow.owner_id == owner, BlockRow.user_id > after)
        .order_by(BlockRow.user_id)
        .limit(_PAGE)
    )
    rows = await tx.all(statement)
    items = [{"user_id": row.user_id, "blocked_at": format_time(row.created_at)} for row in rows]
    return items, rows[-1].user_id if len(rows) == _PAGE else None


async def _page_lookups(tx: Tx, user_id: UserId, after: int) -> Page:
    """Days that are over are forgotten with the next look-up."""
    statement = (
        select(PhoneLookupRow.day, func.count())
        .where(PhoneLookupRow.user_id == user_id, PhoneLookupRow.day > after)
        .group_by(PhoneLookupRow.day)
        .order_by(PhoneLookupRow.day)
    )
    rows = await tx.all(statement)
    return [
        {"date": (_EPOCH + timedelta(days=day)).isoformat(), "numbers_count": count}
        for day, count in rows
    ], None


async def _list_blockers(tx: Tx, user_id: UserId) -> list[UserId]:
    statement = select(BlockRow.owner_id).where(BlockRow.user_id == user_id).limit(_BATCH)
    return list(await tx.scalars(statement))


async def _unblock(tx: Tx, owner: UserId, user_id: UserId) -> None:
    log = await lock_scopes(tx, [user_scope(owner)])
    statement = delete(BlockRow).where(BlockRow.owner_id == owner, BlockRow.user_id == user_id)
    if await tx.execute(statement):
        log.append(user_scope(owner), "blocked_changed", subject_id=user_id)
