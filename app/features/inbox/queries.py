"""All SQL of the chat list. What one page costs does not depend on how long its chats are."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import aliased

from app.features.chats.access import CURRENT, PARTICIPANT_COLUMNS, of_pairs
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import MAX_READ_MARK_MEMBERS, ChatType
from app.features.chats.queries import CHATS_WITH_SEQ, VIEW_COLUMNS
from app.features.messages.models import HiddenMessageRow, MessageRow
from app.features.updates.models import ScopeRow
from app.infra.database.key_lists import by_dialect, key_parameters
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import ChatId, UserId


class Position(NamedTuple):
    """Where a chat stands in the list: pinned before others, then by newest message, then by id."""

    is_pinned: bool
    newest_at: datetime
    chat_id: ChatId


class Settings(NamedTuple):
    """What only I decide about a chat of mine."""

    is_pinned: bool
    is_archived: bool
    muted_until: datetime | None


# An empty chat stands where it was made. Neither ever goes back, so that in a walk nothing moves down.
_newest_at = func.coalesce(ChatRow.last_message_at, ChatRow.created_at)
_IS_OPEN = or_(
    ParticipantRow.closed_id.is_(None), ChatRow.last_message_id > ParticipantRow.closed_id
)
_IS_CURRENT = and_(ParticipantRow.role.in_(CURRENT), ChatRow.deleted_at.is_(None))


async def list_positions(
    tx: Tx,
    viewer: UserId,
    *,
    archived: bool,
    after: Position | None,
    seen: Collection[ChatId],
    limit: int,
) -> list[Position]:
    """The next chats of the list, without those that were `seen`."""
    parameters: dict[str, object] = {
        "viewer": viewer,
        "archived": archived,
        "seen": list(seen),
        "page": limit,
    }
    statement = _FIRST
    if after is not None:
        statement = _BEHIND_PINNED if after.is_pinned else _BEHIND
        parameters |= {"newest_at": after.newest_at, "chat": after.chat_id}
    return [Position(*row) for row in await tx.all(statement, parameters)]


async def read_item_rows(tx: Tx, pairs: Sequence[tuple[UserId, ChatId]]) -> Sequence[Any]:
    """For each (user, chat): the chat, the membership, my settings, the newest message that I see, and how
    far others have read. Only of chats that the user is in.
    """
    wanted = [(chat_id, user_id) for user_id, chat_id in pairs]
    if not wanted:
        return []
    return await tx.all(_ITEMS_OF_PAIRS[tx.dialect], key_parameters(tx.dialect, wanted))


async def find_settings(
    tx: Tx, pairs: Sequence[tuple[UserId, ChatId]]
) -> dict[tuple[UserId, ChatId], Settings]:
    """The settings of chats that the user is in."""
    wanted = [(chat_id, user_id) for user_id, chat_id in pairs]
    if not wanted:
        return {}
    rows = await tx.all(_SETTINGS[tx.dialect], key_parameters(tx.dialect, wanted))
    return {(row[0], row[1]): Settings(*row[2:]) for row in rows}


async def change_settings(
    tx: Tx, user_id: UserId, chat_id: ChatId, values: Mapping[str, object]
) -> None:
    statement = update(ParticipantRow).where(
        ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == user_id
    )
    await tx.execute(statement.values(**values))


async def count_pinned(tx: Tx, user_id: UserId) -> tuple[int, int]:
    """How many chats the user has pinned, and the highest `pin_order` among them."""
    statement = (
        select(func.count(), func.coalesce(func.max(ParticipantRow.pin_order), 0))
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(ParticipantRow.user_id == user_id, ParticipantRow.is_pinned.is_(True), _IS_CURRENT)
    )
    row = await tx.first(statement)
    return (0, 0) if row is None else (row[0], row[1])


def _newest_visible(dialect: Dialect) -> ColumnElement[Any]:
    """The id of the newest message that this member sees: one range of the index, from its end.

    Comparing the id alone, PostgreSQL may walk the primary key instead, over everybody's messages.
    """
    hidden = (
        select(HiddenMessageRow.message_id)
        .where(
            HiddenMessageRow.user_id == ParticipantRow.user_id,
            HiddenMessageRow.chat_id == MessageRow.chat_id,
            HiddenMessageRow.message_id == MessageRow.id,
        )
        .correlate(ParticipantRow, MessageRow)
        .exists()
    )
    floor = case(
        (
            or_(
                ChatRow.history_visible.is_(True),
                ParticipantRow.cleared_id >= ParticipantRow.first_visible_id,
            ),
            ParticipantRow.cleared_id,
        ),
        else_=ParticipantRow.first_visible_id - 1,
    )
    return (
        select(MessageRow.id)
        .where(
            MessageRow.chat_id == ParticipantRow.chat_id,
            MessageRow.id > floor
            if dialect == "sqlite"
            else tuple_(MessageRow.chat_id, MessageRow.id) > tuple_(ParticipantRow.chat_id, floor),
            MessageRow.deleted_at.is_(None),
            ~hidden,
        )
        .order_by(MessageRow.chat_id.desc(), MessageRow.id.desc())
        .limit(1)
        .correlate(ChatRow, ParticipantRow)
        .scalar_subquery()
    )


def _others_read() -> ColumnElement[Any]:
    """The highest read mark of the others, in the chats small enough to show it; else NULL.

    The mark that somebody is given on coming in stands at a message that they never opened.
    """
    other = aliased(ParticipantRow, name="other")
    has_read = (
        select(MessageRow.id)
        .where(MessageRow.id == other.last_read_message_id, MessageRow.created_at > other.joined_at)
        .correlate(other)
        .exists()
    )
    marks = (
        select(func.max(other.last_read_message_id))
        .where(
            other.chat_id == ParticipantRow.chat_id,
            other.user_id != ParticipantRow.user_id,
            other.role.in_(CURRENT),
            # Whoever was there from the beginning need not be asked.
            or_(other.joined_at <= ChatRow.created_at, has_read),
        )
        .correlate(ChatRow, ParticipantRow)
        .scalar_subquery()
    )
    is_small = and_(
        ChatRow.type != str(ChatType.CHANNEL), ChatRow.members_count <= MAX_READ_MARK_MEMBERS
    )
    return case((is_small, marks), else_=None)


def _items(dialect: Dialect) -> Select[*tuple[Any, ...]]:
    # Every chat has its scope; an inner join lets SQLite begin there, with the numbers of all chats.
    return (
        select(
            *VIEW_COLUMNS,
            *PARTICIPANT_COLUMNS,
            ParticipantRow.is_pinned,
            ParticipantRow.is_archived,
            ParticipantRow.muted_until,
            _newest_visible(dialect).label("newest_visible_id"),
            _others_read().label("others_read_message_id"),
        )
        .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
        .join(ScopeRow, CHATS_WITH_SEQ, isouter=True)
        .where(_IS_CURRENT)
    )


# Built once, for building them takes longer than running them.
_ITEMS_OF_PAIRS = by_dialect(lambda dialect: of_pairs(dialect, _items(dialect)))
_SETTINGS = by_dialect(
    lambda dialect: of_pairs(
        dialect,
        select(
            ParticipantRow.user_id,
            ParticipantRow.chat_id,
            ParticipantRow.is_pinned,
            ParticipantRow.is_archived,
            ParticipantRow.muted_until,
        ).where(ParticipantRow.role.in_(CURRENT)),
    )
)
_FIRST = (
    select(ParticipantRow.is_pinned, _newest_at, ParticipantRow.chat_id)
    .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
    .where(
        ParticipantRow.user_id == bindparam("viewer"),
        ParticipantRow.is_archived == bindparam("archived"),
        ParticipantRow.chat_id.not_in(bindparam("seen", expanding=True)),
        _IS_CURRENT,
        _IS_OPEN,
    )
    .order_by(ParticipantRow.is_pinned.desc(), _newest_at.desc(), ParticipantRow.chat_id.desc())
    .limit(bindparam("page"))
)
_is_older = or_(
    _newest_at < bindparam("newest_at"),
    and_(_newest_at == bindparam("newest_at"), ParticipantRow.chat_id < bindparam("chat")),
)
_BEHIND_PINNED = _FIRST.where(or_(ParticipantRow.is_pinned.is_(False), _is_older))
_BEHIND = _FIRST.where(ParticipantRow.is_pinned.is_(False), _is_older)
