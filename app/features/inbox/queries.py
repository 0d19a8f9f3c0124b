"""All SQL of the chat list. What one page costs does not depend on how long its chats are."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, case, func, or_, select, tuple_, update
from sqlalchemy.orm import aliased

from app.features.chats.access import CURRENT, PARTICIPANT_COLUMNS
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import MAX_READ_MARK_MEMBERS, ChatType
from app.features.chats.queries import CHATS_WITH_SEQ, VIEW_COLUMNS
from app.features.messages.models import HiddenMessageRow, MessageRow
from app.features.messages.queries import padded
from app.features.updates.models import ScopeRow
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId

_PAIRS_A_STATEMENT = 500


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
    wanted = sorted({(chat_id, user_id) for user_id, chat_id in pairs})
    viewers = {user_id for _, user_id in wanted}
    rows: list[Any] = []
    for start in range(0, len(wanted), _PAIRS_A_STATEMENT):
        chunk = wanted[start : start + _PAIRS_A_STATEMENT]
        if len(viewers) == 1:
            chats = padded([chat_id for chat_id, _ in chunk])
            rows += await tx.all(_ITEMS_OF_ONE, {"viewer": wanted[0][1], "chats": chats})
        else:
            rows += await tx.all(_ITEMS_OF_MANY, {"pairs": padded(chunk)})
    return rows


async def find_settings(
    tx: Tx, pairs: Sequence[tuple[UserId, ChatId]]
) -> dict[tuple[UserId, ChatId], Settings]:
    """The settings of chats that the user is in."""
    columns = (ParticipantRow.is_pinned, ParticipantRow.is_archived, ParticipantRow.muted_until)
    wanted = sorted({(chat_id, user_id) for user_id, chat_id in pairs})
    found: dict[tuple[UserId, ChatId], Settings] = {}
    for start in range(0, len(wanted), _PAIRS_A_STATEMENT):
        chunk = wanted[start : start + _PAIRS_A_STATEMENT]
        statement = select(ParticipantRow.user_id, ParticipantRow.chat_id, *columns).where(
            tuple_(ParticipantRow.chat_id, ParticipantRow.user_id).in_(chunk),
            ParticipantRow.role.in_(CURRENT),
        )
        for user_id, chat_id, is_pinned, is_archived, muted_until in await tx.all(statement):
            found[user_id, chat_id] = Settings(is_pinned, is_archived, muted_until)
    return found


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


def _newest_visible() -> ColumnElement[Any]:
    """The id of the newest message that this member sees: one range of the index, from its end."""
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
            MessageRow.id > floor,
            MessageRow.deleted_at.is_(None),
            ~hidden,
        )
        .order_by(MessageRow.id.desc())
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


_ITEMS = (
    select(
        *VIEW_COLUMNS,
        *PARTICIPANT_COLUMNS,
        ParticipantRow.is_pinned,
        ParticipantRow.is_archived,
        ParticipantRow.muted_until,
        _newest_visible().label("newest_visible_id"),
        _others_read().label("others_read_message_id"),
    )
    .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
    .join(ScopeRow, CHATS_WITH_SEQ)
    .where(_IS_CURRENT)
)
# Built once, for building them takes longer than running them.
_ITEMS_OF_ONE = _ITEMS.where(
    ParticipantRow.user_id == bindparam("viewer"),
    ParticipantRow.chat_id.in_(bindparam("chats", expanding=True)),
)
_ITEMS_OF_MANY = _ITEMS.where(
    tuple_(ParticipantRow.chat_id, ParticipantRow.user_id).in_(bindparam("pairs", expanding=True))
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
