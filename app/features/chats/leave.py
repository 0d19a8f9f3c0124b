"""Leaving a group or channel."""

from app.features.chats.access import get_membership, require
from app.features.chats.changes import Change, Tools, dismiss, lock_chat, lock_people
from app.features.chats.errors import OwnerMustTransfer
from app.features.chats.policy import ChatType, Membership, Role
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def leave_chat(db: Database, tools: Tools, *, user_id: UserId, chat_id: ChatId) -> None:
    """Raises:
    chat_not_found
    owner_must_transfer
    not_allowed: a private chat is deleted, not left.
    """

    async def work(tx: Tx) -> None:
        await lock_chat(tx, chat_id)
        await take_leave(tx, tools, await get_membership(tx, user_id, chat_id))

    await db.write(work)


async def take_leave(tx: Tx, tools: Tools, membership: Membership) -> None:
    """Under the chat's lock."""
    require(membership.chat.type is not ChatType.PRIVATE)
    if membership.role is Role.OWNER:
        raise OwnerMustTransfer
    log = await lock_people(tx, membership.chat, [membership.user_id])
    change = Change(tx=tx, log=log, tools=tools, actor_id=membership.user_id)
    await dismiss(change, membership, reason="left")
