"""Pinning, archiving and muting a chat, for me alone."""

from datetime import datetime
from typing import TypedDict

from app.features.chats.access import get_membership
from app.features.chats.errors import ChatNotFound
from app.features.chats.limits import MAX_PINNED
from app.features.inbox.errors import TooManyPinned
from app.features.inbox.queries import change_settings, count_pinned, find_settings
from app.features.updates.log import lock_scopes
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import user_scope


class SettingsChanges(TypedDict, total=False):
    """What is absent stays as it is."""

    is_pinned: bool
    is_archived: bool
    muted_until: datetime | None


async def change_chat_settings(
    db: Database, *, user_id: UserId, chat_id: ChatId, changes: SettingsChanges
) -> None:
    """A newly pinned chat comes first in the order of pins.

    Raises:
        chat_not_found, too_many_pinned
    """

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(user_id)])
        membership = await get_membership(tx, user_id, chat_id)
        settings = (await find_settings(tx, [(user_id, chat_id)])).get((user_id, chat_id))
        if membership.is_closed or settings is None:
            raise ChatNotFound
        before = settings._asdict()
        values = {name: value for name, value in changes.items() if value != before[name]}
        if not values:
            return
        if values.get("is_pinned"):
            count, highest = await count_pinned(tx, user_id)
            if count >= MAX_PINNED:
                raise TooManyPinned
            values["pin_order"] = highest + 1
        await change_settings(tx, user_id, chat_id, values)
        log.append(user_scope(user_id), "chat_settings", subject_id=chat_id)

    await db.write(work)
