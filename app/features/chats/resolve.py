"""Finding a public chat by its username, also for those who are not in it."""

from app.features.chats.errors import ChatNotFound
from app.features.chats.queries import find_public_chat
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId


async def resolve_username(tx: Tx, username: str) -> ChatId:
    """Raises:
    chat_not_found: no chat has this username, whatever else may.
    """
    chat_id = await find_public_chat(tx, username.lower())
    if chat_id is None:
        raise ChatNotFound
    return chat_id
