"""Telling a chat that somebody is writing: a signal, kept nowhere."""

from app.features.chats.access import get_membership
from app.features.chats.policy import MAX_TYPING_MEMBERS, ChatType, Membership
from app.features.messages.access import require_writing
from app.features.messages.policy import may_write
from app.features.updates.signals import publish_signal
from app.infra.bus.port import Bus
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import chat_scope

TYPING = "typing"
_MEDIA_ACTIONS = frozenset({"recording_voice", "recording_video", "uploading_file"})


async def show_typing(
    db: Database, bus: Bus, *, user_id: UserId, chat_id: ChatId, action: str
) -> None:
    """Show the others what the user is doing. In chats of over 200, and in channels, which do not
    tell who posts, nobody sees it.

    Raises:
        chat_not_found: the user is not in the chat.
        not_allowed: no right to write, or to send media, or blocked by the other one of a private chat.
        peer_blocked: the user has blocked the other one of a private chat.
    """

    async def work(tx: Tx) -> Membership:
        membership = await get_membership(tx, user_id, chat_id)
        # Whoever may do either ends what they showed.
        is_media = action in _MEDIA_ACTIONS or (action == "cancel" and not may_write(membership))
        await require_writing(tx, membership, text=not is_media, media=is_media)
        return membership

    chat = (await db.read(work)).chat
    if chat.type is ChatType.CHANNEL or chat.members_count > MAX_TYPING_MEMBERS:
        return
    data = {"chat_id": chat_id, "user_id": user_id, "action": action}
    publish_signal(bus, type=TYPING, data=data, scope=chat_scope(chat_id), except_user=user_id)
