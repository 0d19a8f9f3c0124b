"""The content of updates about messages, as it is true when they are read: deleted text is never replayed."""

from collections.abc import Sequence
from typing import cast

from app.features.messages.queries import load_marks
from app.features.messages.read import render_read
from app.features.messages.render import load_messages
from app.features.messages.unread import NOTHING_UNREAD, count_unread
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, MessageId, UserId
from app.transport.feature import Content, LoggedUpdate


async def fill_message(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """The Message, or its tombstone: of `new_message`, `message_edited` and `message_deleted`."""
    ids = [MessageId(update.subject_id or 0) for update in updates]
    views = await load_messages(tx, services.keyring, set(ids))
    return [
        cast("Content", views[message_id])
        if message_id in views
        # Its row went with its chat.
        else {"id": message_id, "chat_id": update.scope.id, "is_deleted": True}
        for message_id, update in zip(ids, updates, strict=True)
    ]


async def fill_references(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """What the log holds is all there is: of `message_hidden` and `read_by`."""
    return [dict(update.data) for update in updates]


async def fill_read(tx: Tx, services: Services, updates: Sequence[LoggedUpdate]) -> list[Content]:
    """`{chat_id, message_id, unread_count, unread_mentions_count}`: the mark and the counts of now."""
    pairs = [(ChatId(u.data["chat_id"]), UserId(u.scope.id)) for u in updates]
    marks = await load_marks(tx, set(pairs))
    unread = await count_unread(tx, set(pairs))
    return [
        render_read(
            pair[0],
            marks.get(pair, MessageId(update.data["message_id"])),
            unread.get(pair, NOTHING_UNREAD),
        )
        for pair, update in zip(pairs, updates, strict=True)
    ]
