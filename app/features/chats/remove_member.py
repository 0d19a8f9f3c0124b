"""Removing somebody from a group or channel; they may come back if they find a way in."""

from app.features.chats.access import get_member, get_membership, require
from app.features.chats.changes import Change, Tools, dismiss, lock_chat, lock_people
from app.features.chats.leave import take_leave
from app.features.chats.policy import may_ban, may_list_members
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def remove_member(
    db: Database, tools: Tools, *, actor_id: UserId, chat_id: ChatId, user_id: UserId
) -> None:
    """Oneself: as leaving.

    Raises:
        chat_not_found, member_not_found, not_allowed, owner_must_transfer
    """

    async def work(tx: Tx) -> None:
        await lock_chat(tx, chat_id)
        actor = await get_membership(tx, actor_id, chat_id)
        if user_id == actor_id:
            await take_leave(tx, tools, actor)
            return
        # Before anything tells who is in a channel.
        require(may_list_members(actor))
        member = await get_member(tx, user_id, chat_id)
        require(may_ban(actor, member))
        log = await lock_people(tx, actor.chat, [user_id])
        change = Change(tx=tx, log=log, tools=tools, actor_id=actor_id)
        await dismiss(change, member, reason="removed")

    await db.write(work)
