"""Reading a chat: pages around any id, newest first, in a constant number of statements however long the chat is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from app.features.chats.access import get_membership
from app.features.chats.policy import Membership
from app.features.messages.access import get_message
from app.features.messages.policy import visible_floor
from app.features.messages.queries import (
    MessageRecord,
    PageBounds,
    list_around,
    list_newest,
)
from app.features.messages.render import Rendered, render_messages
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId


class HistoryPage(TypedDict):
    """Newest first, without what was deleted for everyone or for the reader."""

    items: list[Rendered]
    has_more_before: bool
    has_more_after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a page lies: below `before`, above `after`, or on both sides of `around`; none: the newest."""

    before: MessageId | None = None
    after: MessageId | None = None
    around: MessageId | None = None


async def list_history(
    db: Database,
    keyring: Keyring,
    *,
    reader_id: UserId,
    chat_id: ChatId,
    position: Position,
    limit: int,
) -> HistoryPage:
    """One page of what the reader may see.

    Raises:
        chat_not_found: the reader is not in the chat.
    """

    async def work(tx: Tx) -> HistoryPage:
        membership = await get_membership(tx, reader_id, chat_id)
        page = await _read_page(tx, membership, position, limit)
        items = await _render_for(tx, keyring, membership, page.records)
        return HistoryPage(
            items=items,
            has_more_before=page.has_more_before,
            has_more_after=page.has_more_after,
        )

    return await db.read(work)


async def read_message(
    db: Database, keyring: Keyring, *, reader_id: UserId, message_id: MessageId
) -> Rendered:
    """One message; its tombstone, if it was deleted for everyone.

    Raises:
        message_not_found: it is not visible to the reader, or they deleted it for themselves.
    """

    async def work(tx: Tx) -> Rendered:
        record, membership = await get_message(tx, reader_id, message_id)
        [view] = await _render_for(tx, keyring, membership, [record])
        return view

    return await db.read(work)


class _Page(NamedTuple):
    records: Sequence[MessageRecord]
    has_more_before: bool
    has_more_after: bool


async def _read_page(tx: Tx, membership: Membership, position: Position, limit: int) -> _Page:
    floor = visible_floor(membership)
    bounds = PageBounds(membership.chat.id, membership.user_id, floor)
    if position.before is not None:
        return await _read_sides(tx, bounds, pivot=position.before, older=limit, newer=0)
    if position.after is not None:
        return await _read_sides(tx, bounds, pivot=position.after + 1, older=0, newer=limit)
    if position.around is not None:
        older = limit - limit // 2
        return await _read_sides(
            tx, bounds, pivot=position.around + 1, older=older, newer=limit - older, fill=True
        )
    records = await list_newest(tx, bounds, count=limit + 1)
    return _Page(records[:limit], len(records) > limit, has_more_after=False)


async def _read_sides(
    tx: Tx, bounds: PageBounds, *, pivot: int, older: int, newer: int, fill: bool = False
) -> _Page:
    """`older` messages below the id `pivot` and `newer` from it on; `fill`: one side may take the other's room."""
    limit = older + newer
    records = await list_around(
        tx,
        bounds,
        pivot=pivot,
        older=(limit if fill else older) + 1,
        newer=(limit if fill else newer) + 1,
    )
    above = [record for record in records if record.id >= pivot]
    below = [record for record in records if record.id < pivot]
    if fill:
        older = max(older, limit - len(above))
        newer = limit - min(older, len(below))
    kept_above = above[max(0, len(above) - newer) :]
    kept_below = below[:older]
    return _Page(
        [*kept_above, *kept_below],
        has_more_before=len(below) > len(kept_below),
        has_more_after=len(above) > len(kept_above),
    )


async def _render_for(
    tx: Tx, keyring: Keyring, membership: Membership, records: Sequence[MessageRecord]
) -> list[Rendered]:
    chat = membership.chat
    return await render_messages(
        tx,
        keyring,
        records,
        chats={chat.id: chat},
        floors={chat.id: visible_floor(membership)},
    )
