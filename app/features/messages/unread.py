"""Counting what is unread, derived from read marks: exact up to 1,000, and never reading more rows than that."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    func,
    literal_column,
    select,
    tuple_,
)

from app.features.chats.access import CURRENT
from app.features.chats.models import ParticipantRow
from app.features.messages.models import HiddenMessageRow, MentionRow, MessageRow
from app.features.messages.queries import is_hidden, is_participant
from app.infra.database.key_lists import KeyList, by_dialect, key_parameters
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import ChatId, UserId

UNREAD_CAP = 1000
_ONE = literal_column("1", Integer)
# Written out: an index with a condition serves only where the condition is seen when planning.
_SERVICE = literal_column("'service'", Text)


class Unread(NamedTuple):
    """`messages` is 1,000 and `is_capped` where there are more."""

    messages: int
    mentions: int
    is_capped: bool


NOTHING_UNREAD = Unread(0, 0, is_capped=False)


def _count(dialect: Dialect) -> Select[ChatId, UserId, int, int]:
    # The mark is never below what the reader may see, so it is the only lower bound: a range of
    # the index, whose other end is the cap. One above the cap tells "exactly 1,000" from "more".
    messages = (
        select(_ONE.label("one"))
        .where(
            MessageRow.chat_id == ParticipantRow.chat_id,
            _above(dialect),
            MessageRow.deleted_at.is_(None),
            MessageRow.type != _SERVICE,
            MessageRow.sender_id != ParticipantRow.user_id,
            ~is_hidden(ParticipantRow.user_id),
        )
        .correlate(ParticipantRow)
        .order_by(MessageRow.chat_id, MessageRow.id)
        .limit(UNREAD_CAP + 1)
        .subquery("unread")
    )
    # An edit may mention somebody in a message that they have deleted for themselves.
    has_hidden_mention = (
        select(_ONE)
        .where(
            HiddenMessageRow.user_id == MentionRow.user_id,
            HiddenMessageRow.chat_id == MentionRow.chat_id,
            HiddenMessageRow.message_id == MentionRow.message_id,
        )
        .correlate(MentionRow)
        .exists()
    )
    mentions = (
        select(_ONE.label("one"))
        .where(
            MentionRow.chat_id == ParticipantRow.chat_id,
            MentionRow.user_id == ParticipantRow.user_id,
            MentionRow.message_id > ParticipantRow.last_read_message_id,
            ~has_hidden_mention,
        )
        .correlate(ParticipantRow)
        .limit(UNREAD_CAP)
        .subquery("mentions")
    )
    keys = KeyList(dialect, BigInteger, BigInteger)
    return (
        select(
            ParticipantRow.chat_id,
            ParticipantRow.user_id,
            select(func.count()).select_from(messages).scalar_subquery(),
            select(func.count()).select_from(mentions).scalar_subquery(),
        )
        .join_from(keys.table, ParticipantRow, is_participant(keys))
        .where(ParticipantRow.role.in_(CURRENT))
    )


def _above(dialect: Dialect) -> ColumnElement[bool]:
    """Messages above the reader's mark, as a range of an index that begins with the chat.

    Comparing the id alone, PostgreSQL may walk the primary key instead, over everybody's messages.
    """
    mark = ParticipantRow.last_read_message_id
    if dialect == "sqlite":
        return MessageRow.id > mark
    return tuple_(MessageRow.chat_id, MessageRow.id) > tuple_(ParticipantRow.chat_id, mark)


_COUNT = by_dialect(_count)


async def count_unread(
    tx: Tx, pairs: Collection[tuple[ChatId, UserId]]
) -> dict[tuple[ChatId, UserId], Unread]:
    """What is unread for each (chat, user), in one statement; whoever is not in the chat is left out."""
    if not pairs:
        return {}
    rows = await tx.all(_COUNT[tx.dialect], key_parameters(tx.dialect, pairs))
    return {
        (chat_id, user_id): Unread(min(count, UNREAD_CAP), mentions, is_capped=count > UNREAD_CAP)
        for chat_id, user_id, count, mentions in rows
    }
