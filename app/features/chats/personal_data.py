"""What chats keep about a person: their memberships, which end with the account, and are exported."""

from sqlalchemy import select

from app.features.chats.access import CURRENT
from app.features.chats.changes import Tools
from app.features.chats.depart import depart
from app.features.chats.models import ChatRow, ParticipantRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, UserId
from app.transport.personal_data import Leaver

_BATCH = 100


class ChatsPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Nothing at once: others must be told, chat by chat."""

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Out of every chat, each in a transaction of its own."""
        tools = Tools.of(services)
        after = ChatId(0)
        while True:
            chat_ids = await services.db.read(
                lambda tx, after=after: _list_current(tx, leaver.user_id, after)
            )
            for chat_id in chat_ids:
                await services.db.write(
                    lambda tx, chat_id=chat_id: depart(
                        tx,
                        tools,
                        user_id=leaver.user_id,
                        chat_id=chat_id,
                        keep_messages=leaver.keep_messages,
                    )
                )
            if len(chat_ids) < _BATCH:
                return
            after = chat_ids[-1]


async def _list_current(tx: Tx, user_id: UserId, after: ChatId) -> list[ChatId]:
    statement = (
        select(ParticipantRow.chat_id)
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(
            ParticipantRow.user_id == user_id,
            ParticipantRow.chat_id > after,
            ParticipantRow.role.in_(CURRENT),
            ChatRow.deleted_at.is_(None),
        )
        .order_by(ParticipantRow.chat_id)
        .limit(_BATCH)
    )
    return list(await tx.scalars(statement))
