"""Joining a public group or channel."""

from app.features.chats.access import find_any_membership, find_chat, require
from app.features.chats.changes import Change, Tools, admit, check_room, lock_chat, lock_people
from app.features.chats.errors import ChatNotFound
from app.features.chats.policy import ChatFacts, may_come_in
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def join_chat(db: Database, tools: Tools, *, user_id: UserId, chat_id: ChatId) -> None:
    """Nothing if the user is in it already.

    Raises:
        chat_not_found: also a chat that is not public.
        not_allowed: banned there.
        chat_full, too_many_chats
    """

    async def work(tx: Tx) -> None:
        await lock_chat(tx, chat_id)
        chat = await find_chat(tx, chat_id)
        membership = await find_any_membership(tx, user_id, chat_id)
        if membership is not None and membership.is_current:
            return
        if chat is None or not chat.is_public:
            raise ChatNotFound
        require(may_come_in(membership))
        await come_in(tx, tools, chat, user_id)

    await db.write(work)


async def come_in(tx: Tx, tools: Tools, chat: ChatFacts, user_id: UserId) -> None:
    """By one's own will, under the chat's lock, as someone who is neither in the chat nor banned."""
    log = await lock_people(tx, chat, [user_id])
    change = Change(tx=tx, log=log, tools=tools, actor_id=user_id)
    await check_room(change, chat, user_id)
    await admit(change, chat, [user_id], action="member_joined")
