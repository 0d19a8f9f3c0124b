"""Counting what is unread, derived from read marks: exact up to 1,000, and never reading more rows than that."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Integer, Select, Text, bindparam, func, literal_column, select, tuple_

from app.features.chats.access import CURRENT
from app.features.chats.models import ParticipantRow
from app.features.messages.models import HiddenMessageRow, MentionRow, MessageRow
from app.features.messages.queries import padded
from app.infra.database.tx import Tx
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


def _count_statement() -> Select[ChatId, UserId, int, int]:
    hidden = (
        select(_ONE)
        .where(
            HiddenMessageRow.user_id == ParticipantRow.user_id,
            HiddenMessageRow.chat_id == MessageRow.chat_id,
            HiddenMessageRow.message_id == MessageRow.id,
        )
        .correlate(ParticipantRow, MessageRow)
        .exists()
    )
    # One above the cap tells "exactly 1,000" from "more". The mark is never below what the reader
    # may see, so it is the only lower bound: an index range, whose other end is the cap.
    messages = (
        select(_ONE.label("one"))
        .where(
            MessageRow.chat_id == ParticipantRow.chat_id,
            MessageRow.id > ParticipantRow.last_read_message_id,
            MessageRow.deleted_at.is_(None),
            MessageRow.type != _SERVICE,
            MessageRow.sender_id != ParticipantRow.user_id,
            ~hidden,
        )
        .correlate(ParticipantRow)
        .limit(UNREAD_CAP + 1)
        .subquery("unread")
    )
    mentions = (
        select(_ONE.label("one"))
        .where(
            MentionRow.chat_id == ParticipantRow.chat_id,
            MentionRow.user_id == ParticipantRow.user_id,
            MentionRow.message_id > ParticipantRow.last_read_message_id,
        )
        .correlate(ParticipantRow)
        .limit(UNREAD_CAP)
        .subquery("mentions")
    )
    return select(
        ParticipantRow.chat_id,
        ParticipantRow.user_id,
        select(func.count()).select_from(messages).scalar_subquery(),
        select(func.count()).select_from(mentions).scalar_subquery(),
    ).where(
        tuple_(ParticipantRow.chat_id, ParticipantRow.user_id).in_(
            bindparam("pairs", expanding=True)
        ),
        ParticipantRow.role.in_(CURRENT),
    )


_COUNT = _count_statement()


async def count_unread(
    tx: Tx, pairs: Collection[tuple[ChatId, UserId]]
) -> dict[tuple[ChatId, UserId], Unread]:
    """What is unread for each (chat, user), in one statement; whoever is not in the chat is left out."""
    if not pairs:
        return {}
    rows = await tx.all(_COUNT, {"pairs": padded(pairs)})
    return {
        (chat_id, user_id): Unread(min(count, UNREAD_CAP), mentions, is_capped=count > UNREAD_CAP)
        for chat_id, user_id, count, mentions in rows
    }
