"""One chat, as I see it."""

from app.features.chats.access import find_membership, get_membership
from app.features.chats.errors import ChatNotFound
from app.features.chats.render import load_chats
from app.features.chats.resolve import resolve_username
from app.features.inbox.items import LoadedItem, load_items, render_outside
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def get_chat(
    db: Database, keyring: Keyring, *, viewer: UserId, chat_id: ChatId
) -> LoadedItem:
    """Raises:
    chat_not_found: also a private chat that the viewer has deleted, until something is written in it.
    """

    async def work(tx: Tx) -> LoadedItem:
        membership = await get_membership(tx, viewer, chat_id)
        if membership.is_closed:
            raise ChatNotFound
        return await _load(tx, keyring, viewer, chat_id)

    return await db.read(work)


async def get_public_chat(
    db: Database, keyring: Keyring, *, viewer: UserId, username: str
) -> LoadedItem:
    """A public chat by its username, from inside or outside.

    Raises:
        chat_not_found
    """

    async def work(tx: Tx) -> LoadedItem:
        chat_id = await resolve_username(tx, username)
        if await find_membership(tx, viewer, chat_id) is not None:
            return await _load(tx, keyring, viewer, chat_id)
        chats = await load_chats(tx, keyring, [chat_id])
        if chat_id not in chats:
            raise ChatNotFound
        return LoadedItem(view=render_outside(chats[chat_id]), peer=None)

    return await db.read(work)


async def _load(tx: Tx, keyring: Keyring, viewer: UserId, chat_id: ChatId) -> LoadedItem:
    items = await load_items(tx, keyring, [(viewer, chat_id)])
    if not items:
        raise ChatNotFound
    return items[viewer, chat_id]
