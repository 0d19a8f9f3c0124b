"""Deleting: for everyone, then nothing of the text is left anywhere; or for oneself alone."""

from typing import cast

from app.features.messages.access import get_message
from app.features.messages.attachments import empty_messages
from app.features.messages.errors import MessageNotFound
from app.features.messages.policy import may_delete_for_everyone
from app.features.messages.queries import (
    delete_mentions,
    find_chats_of,
    insert_hidden,
)
from app.features.messages.render import render_tombstone
from app.features.updates.log import lock_scopes
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import MessageId, UserId
from app.kernel.problems import Forbidden
from app.kernel.scopes import chat_scope, user_scope

MESSAGE_DELETED = "message_deleted"
MESSAGE_HIDDEN = "message_hidden"


async def delete_for_everyone(db: Database, *, user_id: UserId, message_id: MessageId) -> None:
    """Leave a tombstone that holds no text and shows no file.

    Raises:
        message_not_found: it is not visible to the user, or was deleted before.
        not_allowed: it is another's and the user lacks `delete_messages`; or a post of a channel in
            which they may no longer post.
    """

    async def work(tx: Tx) -> None:
        chat_id = (await find_chats_of(tx, [message_id])).get(message_id)
        if chat_id is None:
            raise MessageNotFound
        log = await lock_scopes(tx, [chat_scope(chat_id)])
        record, membership = await get_message(tx, user_id, message_id)
        if record.deleted_at is not None:
            raise MessageNotFound
        if not may_delete_for_everyone(
            membership, sender_id=record.sender_id, message_type=record.type
        ):
            raise Forbidden("You may not delete this message for everyone")
        await empty_messages(tx, [record])
        await delete_mentions(tx, message_id)
        content = cast("dict[str, object]", render_tombstone(record))
        log.append(chat_scope(chat_id), MESSAGE_DELETED, subject_id=message_id, content=content)

    await db.write(work)


async def delete_for_me(db: Database, *, user_id: UserId, message_id: MessageId) -> None:
    """Hide it from one's own eyes, on all of one's devices.

    Raises:
        message_not_found: it is not visible to the user, or deleted or hidden already.
    """

    async def work(tx: Tx) -> None:
        scope = user_scope(user_id)
        log = await lock_scopes(tx, [scope])
        record, _ = await get_message(tx, user_id, message_id)
        if record.deleted_at is not None:
            raise MessageNotFound
        await insert_hidden(tx, user_id=user_id, chat_id=record.chat_id, message_id=message_id)
        await delete_mentions(tx, message_id, of_user=user_id)
        data = {"chat_id": record.chat_id, "message_id": message_id}
        log.append(scope, MESSAGE_HIDDEN, subject_id=message_id, data=data, content=data)

    await db.write(work)
