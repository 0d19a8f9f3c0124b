"""The answer to sessions: a ticket for a chat's socket is for those who are in the chat."""

from app.features.chats.access import get_membership
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


class MembersDoor:
    """Implements `ChatDoor`."""

    async def require_entry(self, tx: Tx, *, user_id: UserId, chat_id: ChatId) -> None:
        await get_membership(tx, user_id, chat_id)
