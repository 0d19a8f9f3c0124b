"""What the gateway reads beside the log: who follows which chats, and from where."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import CompoundSelect, and_, literal, select, union_all

from app.features.chats.access import CURRENT, of_pairs
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.updates.models import ScopeRow
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed, key_parameters
from app.infra.database.tx import Dialect, Tx
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


def _make_standings(dialect: Dialect) -> CompoundSelect[Any]:
    zero = literal(0)
    own = select(zero, ScopeRow.seq, zero, zero, literal(value=True), ScopeRow.id, zero).where(
        ScopeRow.kind == int(ScopeKind.USER), is_listed(dialect, ScopeRow.id)
    )
    return union_all(_CHATS.where(is_listed(dialect, ParticipantRow.user_id)), own)


_STANDINGS = by_dialect(_make_standings)


async def read_standings(tx: Tx, user_ids: Collection[UserId]) -> dict[UserId, Standing]:
    """The newest numbers of these users' scopes: one statement, so that they are of one moment."""
    standings = {user_id: Standing(0, {}) for user_id in user_ids}
    if not standings:
        return standings
    parameters = id_parameters(tx.dialect, standings)
    for row in await tx.all(_STANDINGS[tx.dialect], parameters):
        user_id = UserId(row.user_id)
        if row.chat_id == 0:
            standings[user_id] = standings[user_id]._replace(user_seq=row.seq)
        else:
            standings[user_id].chats[ChatId(row.chat_id)] = _following(row)
    return standings


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
