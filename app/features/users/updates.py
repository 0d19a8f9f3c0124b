"""The content of updates in a user's own scope, as it is true when they are read."""

from collections.abc import Sequence

from sqlalchemy import select

from app.features.users.access import load_privacy
from app.features.users.address_book import SavedContact, load_saved, select_saved
from app.features.users.contacts import render_saved_name
from app.features.users.me import load_many_me
from app.features.users.models import BlockRow, ContactRow
from app.features.users.policy import Privacy, render_privacy
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.feature import Content, LoggedUpdate

_IDS_A_STATEMENT = 10_000


async def fill_profile_updated(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"user": me}`."""
    owners = [_owner(update) for update in updates]
    people = await load_many_me(tx, services.keyring, owners)
    return [{"user": people.get(owner)} for owner in owners]


async def fill_privacy_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"privacy": {...}}`, in full."""
    owners = [_owner(update) for update in updates]
    choices = await load_privacy(tx, owners)
    return [{"privacy": render_privacy(choices.get(owner, Privacy()))} for owner in owners]


async def fill_contacts_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"contacts": [{"user_id", "first_name", "last_name", "added_at"}], "removed_user_ids"}`."""
    saved = await _load_saved(tx, services, updates)
    contents: list[Content] = []
    for update in updates:
        keys = [(_owner(update), UserId(it)) for it in update.data["user_ids"]]
        present = [saved[key] for key in keys if key in saved]
        contents.append(
            {
                "contacts": [{"user_id": it.user_id, **render_saved_name(it)} for it in present],
                "removed_user_ids": [
                    user_id for owner, user_id in keys if (owner, user_id) not in saved
                ],
            }
        )
    return contents


async def fill_blocked_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"user_id", "is_blocked"}`."""
    statement = select(BlockRow.owner_id, BlockRow.user_id).where(
        BlockRow.owner_id.in_({_owner(update) for update in updates}),
        BlockRow.user_id.in_({update.subject_id for update in updates}),
    )
    blocks = {(row.owner_id, row.user_id) for row in await tx.all(statement)}
    return [
        {
            "user_id": update.subject_id,
            "is_blocked": (_owner(update), update.subject_id) in blocks,
        }
        for update in updates
    ]


def _owner(update: LoggedUpdate) -> UserId:
    return UserId(update.scope.id)


async def _load_saved(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> dict[tuple[UserId, UserId], SavedContact]:
    """By (owner, user)."""
    owners = {_owner(update) for update in updates}
    users = sorted({UserId(it) for update in updates for it in update.data["user_ids"]})
    saved: dict[tuple[UserId, UserId], SavedContact] = {}
    for start in range(0, len(users), _IDS_A_STATEMENT):
        chunk = users[start : start + _IDS_A_STATEMENT]
        statement = select_saved().where(
            ContactRow.owner_id.in_(owners), ContactRow.user_id.in_(chunk)
        )
        for contact in await load_saved(tx, services.keyring, statement):
            saved[contact.owner_id, contact.user_id] = contact
    return saved
