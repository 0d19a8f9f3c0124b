"""What the gateway reads beside the log: who follows which chats, and from where."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import and_, literal, select, union_all

from app.features.chats.access import CURRENT, of_pairs
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.updates.models import ScopeRow
from app.infra.database.key_lists import by_dialect, key_parameters
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import ScopeKind


class Following(NamedTuple):
    """A chat that a user is in: its newest number, the number before their joining, the first
    message they may see where the history is hidden (0: all), and the chat's removal revision.
    """

    chat_id: ChatId
    seq: int
    joined_seq: int
    first_visible_id: MessageId
    removals: int = 0


class Standing(NamedTuple):
    """All scopes of a user, seen at one moment."""

    user_seq: int
    chats: dict[ChatId, Following]


_CHATS = (
    select(
        ParticipantRow.chat_id,
        ScopeRow.seq,
        ParticipantRow.joined_seq,
        ParticipantRow.first_visible_id,
        ChatRow.history_visible,
        ParticipantRow.user_id,
        ScopeRow.removals,
    )
    .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
    # Every chat has its scope; an inner join lets SQLite begin there, with the numbers of all chats.
    .join(
        ScopeRow,
        and_(ScopeRow.kind == int(ScopeKind.CHAT), ScopeRow.id == ChatRow.id),
        isouter=True,
    )
    .where(ParticipantRow.role.in_(CURRENT), ChatRow.deleted_at.is_(None))
)
_CHATS_OF_PAIRS = by_dialect(lambda dialect: of_pairs(dialect, _CHATS))


async def read_standing(tx: Tx, user_id: UserId) -> Standing:
    """The newest numbers of a user's scopes: one statement, so that they are of one moment."""
    zero = literal(0)
    own = select(zero, ScopeRow.seq, zero, zero, literal(value=True), zero, zero).where(
        ScopeRow.kind == int(ScopeKind.USER), ScopeRow.id == user_id
    )
    chats = _CHATS.where(ParticipantRow.user_id == user_id)
    standing = Standing(0, {})
    for row in await tx.all(union_all(chats, own)):
        if row.chat_id == 0:
            standing = standing._replace(user_seq=row.seq)
        else:
            standing.chats[ChatId(row.chat_id)] = _following(row)
    return standing


async def read_followings(
    tx: Tx, pairs: Iterable[tuple[UserId, ChatId]]
) -> dict[tuple[UserId, ChatId], Following]:
    """Of these pairs, those in which the user is in the chat at this moment."""
    wanted = {(chat_id, user_id) for user_id, chat_id in pairs}
    found: dict[tuple[UserId, ChatId], Following] = {}
    if not wanted:
        return found
    for row in await tx.all(_CHATS_OF_PAIRS[tx.dialect], key_parameters(tx.dialect, wanted)):
        found[row.user_id, row.chat_id] = _following(row)
    return found


def _following(row: Any) -> Following:
    visible_from = MessageId(0 if row.history_visible else row.first_visible_id)
    return Following(ChatId(row.chat_id), row.seq, row.joined_seq, visible_from, row.removals)


async def find_private_peers(tx: Tx, user_ids: Collection[UserId]) -> dict[UserId, list[UserId]]:
    """For each of them everyone with whom they have a private chat."""
    mine = ParticipantRow.__table__.alias("mine")
    statement = (
        select(mine.c.user_id.label("owner_id"), ParticipantRow.user_id)
        .join(mine, mine.c.chat_id == ParticipantRow.chat_id)
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(
            mine.c.user_id.in_(user_ids),
            ParticipantRow.user_id != mine.c.user_id,
            ChatRow.pair_key.is_not(None),
        )
    )
    peers: dict[UserId, list[UserId]] = {}
    for row in await tx.all(statement):
        peers.setdefault(row.owner_id, []).append(row.user_id)
    return peers
