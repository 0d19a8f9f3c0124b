"""What sessions ask of higher slices."""

from typing import Protocol

from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


class ChatDoor(Protocol):
    """Who may open the socket of one chat."""

    async def require_entry(self, tx: Tx, *, user_id: UserId, chat_id: ChatId) -> None:
        """Return for a member.

        Raises:
            NotFound: for everybody else, as for a chat that never was.
        """
        ...
