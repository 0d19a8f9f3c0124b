"""Deleting chats: a group or channel for all by its owner, a private chat for oneself or for both."""

from app.features.audit.record import record
from app.features.chats.access import get_membership, require
from app.features.chats.changes import Tools, lock_chat, lock_people
from app.features.chats.errors import ChatNotFound
from app.features.chats.policy import ChatType, Membership, may_delete_chat
from app.features.chats.queries import (
    change_chat,
    clear_private_chat,
    find_lowest_cleared,
    free_username,
    list_participant_ids,
)
from app.features.chats.rules import erase_messages, erase_plain
from app.features.files.uses import remove_uses
from app.features.updates.log import ScopeLog
from app.infra.cipher.keyring import chat_key
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import chat_scope, user_scope


async def delete_chat(
    db: Database, tools: Tools, *, user_id: UserId, chat_id: ChatId, for_everyone: bool
) -> None:
    """A group or channel is gone for all, and so is the key of what was written in it.

    A private chat is emptied and off the list until something is written in it again; only
    `for_everyone` also for the other, and then nothing of it stays. That flag changes nothing elsewhere.

    Raises:
        chat_not_found: also where it was deleted before.
        not_allowed
    """

    async def work(tx: Tx) -> None:
        log = await lock_chat(tx, chat_id)
        membership = await get_membership(tx, user_id, chat_id)
        require(may_delete_chat(membership))
        is_private = membership.chat.type is ChatType.PRIVATE
        if is_private:
            await _clear(tx, tools, membership, for_everyone=for_everyone)
        else:
            await dissolve(tx, tools, log, chat_id)
        if for_everyone or not is_private:
            record(tx, SecurityEvent("chat_deleted", user_id, details={"chat_id": chat_id}))

    await db.write(work)


async def dissolve(tx: Tx, tools: Tools, log: ScopeLog, chat_id: ChatId) -> None:
    """A group or channel is gone for all; `log` holds its scope."""
    await change_chat(
        tx,
        chat_id,
        {
            "deleted_at": tx.now,
            "username": None,
            "title": None,
            "description": None,
            "photo_id": None,
        },
    )
    await remove_uses(tx, "chat", [chat_id])
    await free_username(tx, chat_id)
    await tools.keyring.destroy(tx, [chat_key(chat_id)])
    await erase_plain(tools.rules, tx, chat_id=chat_id)
    # With its content at hand: whoever would fill it in later finds no chat and no members.
    content = {"chat_id": chat_id}
    log.append(chat_scope(chat_id), "chat_deleted", subject_id=chat_id, content=content)


async def _clear(tx: Tx, tools: Tools, membership: Membership, *, for_everyone: bool) -> None:
    chat = membership.chat
    if membership.is_closed:
        raise ChatNotFound
    people = [membership.user_id]
    if for_everyone:
        people = await list_participant_ids(tx, chat.id)
    log = await lock_people(tx, chat, people)
    upto = MessageId(chat.last_message_id)
    await clear_private_chat(tx, chat.id, people, upto=upto)
    # What both have cleared, be it one after the other, nobody sees again.
    gone = await find_lowest_cleared(tx, chat.id)
    if gone:
        await erase_messages(tools.rules, tx, chat_id=chat.id, upto=gone)
    for user_id in people:
        data = {"chat_id": chat.id, "seq": log.seq(chat_scope(chat.id)), "reason": "deleted"}
        log.append(user_scope(user_id), "chat_removed", subject_id=chat.id, data=data, content=data)
