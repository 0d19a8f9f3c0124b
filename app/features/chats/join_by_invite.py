"""Joining by an invite link. Its limit is exact: uses are counted under the lock of the chat."""

from app.features.chats.access import find_any_membership, find_chat, require
from app.features.chats.changes import Tools, lock_chat
from app.features.chats.errors import InviteNotFound
from app.features.chats.invites import is_usable
from app.features.chats.join import come_in
from app.features.chats.policy import may_come_in
from app.features.chats.queries import count_use, find_invite
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def join_by_invite(db: Database, tools: Tools, *, user_id: UserId, code: str) -> ChatId:
    """The chat; whoever is in it already uses nothing up.

    Raises:
        invite_not_found: also one that has expired, is used up or was revoked.
        not_allowed: banned there.
        chat_full, too_many_chats
    """

    async def work(tx: Tx) -> ChatId:
        seen = await find_invite(tx, code)
        if seen is None:
            raise InviteNotFound
        await lock_chat(tx, seen.chat_id)
        invite = await find_invite(tx, code)
        chat = await find_chat(tx, seen.chat_id)
        if invite is None or chat is None:
            raise InviteNotFound
        membership = await find_any_membership(tx, user_id, chat.id)
        if membership is not None and membership.is_current:
            return chat.id
        if not is_usable(invite, now=tx.now):
            raise InviteNotFound
        require(may_come_in(membership))
        await count_use(tx, invite.id)
        await come_in(tx, tools, chat, user_id)
        return chat.id

    return await db.write(work)
