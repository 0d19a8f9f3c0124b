"""The end of a membership with the account behind it: chats are left, handed over, or deleted."""

from app.features.chats.access import find_membership, load_chat_memberships
from app.features.chats.changes import (
    Change,
    Tools,
    dismiss,
    lock_chat,
    lock_people,
    show_photo,
    tell_rights,
    write_service,
)
from app.features.chats.delete import dissolve
from app.features.chats.policy import ChatType, Membership, Role, all_rights
from app.features.chats.queries import (
    change_chat,
    change_participant,
    clear_private_chat,
    find_successor,
    list_participant_ids,
)
from app.features.files.photos import shows_upload_of
from app.infra.cipher.keyring import chat_key
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import chat_scope, user_scope


async def depart(
    tx: Tx, tools: Tools, *, user_id: UserId, chat_id: ChatId, keep_messages: bool
) -> None:
    """Take a person whose account is deleted out of a chat; nothing if they are out already."""
    log = await lock_chat(tx, chat_id)
    membership = await find_membership(tx, user_id, chat_id)
    if membership is None:
        return
    if membership.chat.type is ChatType.PRIVATE:
        if not keep_messages or membership.peer_id == user_id:
            await _dissolve_private(tx, tools, membership)
        return
    heir = None
    if membership.role is Role.OWNER:
        heir = await find_successor(tx, chat_id, user_id)
        if heir is None:
            await dissolve(tx, tools, log, chat_id)
            return
    people = [user_id] if heir is None else [user_id, heir]
    log = await lock_people(tx, membership.chat, people)
    change = Change(tx=tx, log=log, tools=tools, actor_id=user_id)
    if heir is not None:
        membership = await _hand_over(change, membership, heir)
    await dismiss(change, membership, reason="left")


async def take_photo_down(tx: Tx, tools: Tools, *, chat_id: ChatId, owner_id: UserId) -> None:
    """Show no photo any more that `owner_id` uploaded; nothing if another one is shown by now."""
    log = await lock_chat(tx, chat_id)
    if not await shows_upload_of(tx, "chat", chat_id, owner_id=owner_id):
        return
    change = Change(tx=tx, log=log, tools=tools, actor_id=owner_id)
    await show_photo(change, chat_id, None)
    log.append(chat_scope(chat_id), "chat_updated", subject_id=chat_id)


async def _hand_over(change: Change, owner: Membership, heir: UserId) -> Membership:
    """The owner as they are afterwards, for a moment: an admin."""
    tx, chat = change.tx, owner.chat
    rights = int(all_rights(chat.type))
    plain: dict[str, object] = {"permissions": None, "restricted_until": None}
    former = {"role": str(Role.ADMIN), "permissions": rights, "restricted_until": None}
    await change_participant(tx, chat.id, owner.user_id, former)
    await change_participant(tx, chat.id, heir, {**plain, "role": str(Role.OWNER)})
    await change_chat(tx, chat.id, {"owner_id": heir})
    await tell_rights(change, chat, [owner.user_id, heir])
    if chat.type is ChatType.GROUP:
        await write_service(change, chat, "owner_changed", [heir])
    return (await load_chat_memberships(tx, chat.id, [owner.user_id]))[owner.user_id]


async def _dissolve_private(tx: Tx, tools: Tools, membership: Membership) -> None:
    """Off both lists, closed for good, and unreadable with its key; its rows are emptied later."""
    chat = membership.chat
    people = await list_participant_ids(tx, chat.id)
    log = await lock_people(tx, chat, people)
    await clear_private_chat(tx, chat.id, people, upto=MessageId(chat.last_message_id))
    await change_chat(tx, chat.id, {"deleted_at": tx.now})
    await tools.keyring.destroy(tx, [chat_key(chat.id)])
    for user_id in people:
        data = {"chat_id": chat.id, "seq": log.seq(chat_scope(chat.id)), "reason": "deleted"}
        log.append(user_scope(user_id), "chat_removed", subject_id=chat.id, data=data, content=data)
