"""The content of the updates that show a chat as one member sees it, as it is true when they are read."""

from collections.abc import Sequence

from app.features.chats.updates import chat_of
from app.features.inbox.items import load_items, render_items
from app.features.inbox.queries import find_settings
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import ChatId, UserId
from app.transport.feature import Content, LoggedUpdate


async def fill_chat_created(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """The chat as its new member sees it; of one that they are not in any more only a tombstone."""
    loaded = await load_items(tx, services.keyring, {_pair_of(update) for update in updates})
    views = await render_items(services.presence, list(loaded.values()))
    items = dict(zip(loaded, views, strict=True))
    contents: list[Content] = []
    for update in updates:
        item = items.get(_pair_of(update))
        contents.append({"id": chat_of(update), "is_removed": True} if item is None else {**item})
    return contents


async def fill_chat_settings(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{chat_id, is_pinned, is_archived, muted_until}`; the last three false and null once out of the chat."""
    found = await find_settings(tx, [_pair_of(update) for update in updates])
    contents: list[Content] = []
    for update in updates:
        settings = found.get(_pair_of(update))
        muted_until = None if settings is None else settings.muted_until
        contents.append(
            {
                "chat_id": chat_of(update),
                "is_pinned": settings is not None and settings.is_pinned,
                "is_archived": settings is not None and settings.is_archived,
                "muted_until": None if muted_until is None else format_time(muted_until),
            }
        )
    return contents


def _pair_of(update: LoggedUpdate) -> tuple[UserId, ChatId]:
    return UserId(update.scope.id), chat_of(update)
