"""My chats, page by page: pinned ones first, then by newest message, then by id, all descending.

A walk never shows a chat twice. Nothing in the order ever moves down but a pinned chat that is unpinned
meanwhile, so the cursor carries the few pinned chats that were shown. A chat that moves up past the cursor
is told by the update that moved it.
"""

from typing import cast

from app.features.inbox.items import LoadedItem, load_items
from app.features.inbox.queries import Position, list_positions
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.clock import from_milliseconds, to_milliseconds
from app.kernel.cursors import CursorCodec
from app.kernel.ids import ChatId, UserId


async def list_chats(
    db: Database,
    keyring: Keyring,
    cursors: CursorCodec,
    *,
    viewer: UserId,
    archived: bool,
    cursor: str | None,
    limit: int,
) -> tuple[list[LoadedItem], str | None]:
    """A page and the cursor of the next.

    Raises:
        cursor_invalid
    """
    purpose = f"chats:{viewer}:{archived}"
    after, seen = (None, []) if cursor is None else _parse(cursors, purpose, cursor)

    async def work(tx: Tx) -> tuple[list[LoadedItem], str | None]:
        positions = await list_positions(
            tx, viewer, archived=archived, after=after, seen=seen, limit=limit + 1
        )
        page = positions[:limit]
        items = await load_items(tx, keyring, [(viewer, position.chat_id) for position in page])
        # One that was left between the two statements is not there any more.
        shown = [
            items[viewer, position.chat_id]
            for position in page
            if (viewer, position.chat_id) in items
        ]
        if len(positions) <= limit:
            return shown, None
        pinned = [*seen, *(position.chat_id for position in page if position.is_pinned)]
        return shown, _format(cursors, purpose, page[-1], pinned)

    return await db.read(work)


def _format(cursors: CursorCodec, purpose: str, last: Position, seen: list[ChatId]) -> str:
    return cursors.encode(
        purpose, [last.is_pinned, to_milliseconds(last.newest_at), last.chat_id, *seen]
    )


def _parse(cursors: CursorCodec, purpose: str, cursor: str) -> tuple[Position, list[ChatId]]:
    is_pinned, newest_at, chat_id, *seen = cast("list[int]", cursors.decode(purpose, cursor))
    last = Position(bool(is_pinned), from_milliseconds(newest_at), ChatId(chat_id))
    return last, [ChatId(pinned) for pinned in seen]
