"""The only way to a chat: by one's membership. Unknown and not-a-member are the same 404.

Whoever changes something calls these after locking the chat's scope, so that the answer holds.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Select, and_, bindparam, select
from typing_extensions import TypeVarTuple

from app.features.chats.errors import ChatForbidden, ChatNotFound, MemberNotFound
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import (
    CURRENT_ROLES,
    ChatFacts,
    ChatType,
    Membership,
    Permission,
    Role,
    judge_rights,
    judge_role,
)
from app.infra.database.key_lists import KeyList, by_dialect, key_parameters
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import ChatId, MessageId, UserId

Ts = TypeVarTuple("Ts")
CURRENT = tuple(str(role) for role in CURRENT_ROLES)

CHAT_COLUMNS = (
    ChatRow.id,
    ChatRow.type,
    ChatRow.permissions,
    ChatRow.history_visible,
    ChatRow.username,
    ChatRow.owner_id,
    ChatRow.pair_key,
    ChatRow.members_count,
    ChatRow.last_message_id,
    ChatRow.created_at,
)
PARTICIPANT_COLUMNS = (
    ParticipantRow.user_id,
    ParticipantRow.role,
    ParticipantRow.permissions.label("own_permissions"),
    ParticipantRow.restricted_until,
    ParticipantRow.joined_at,
    ParticipantRow.joined_seq,
    ParticipantRow.first_visible_id,
    ParticipantRow.cleared_id,
    ParticipantRow.closed_id,
    ParticipantRow.last_read_message_id,
)
"""With `CHAT_COLUMNS`, what `membership_from_row` reads."""

_MEMBERSHIPS = (
    select(*CHAT_COLUMNS, *PARTICIPANT_COLUMNS)
    .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
    .where(ChatRow.deleted_at.is_(None))
)


def of_pairs(dialect: Dialect, statement: Select[*Ts]) -> Select[*Ts]:
    """The rows of `statement`, a select from participants, for the (chat, user) of `key_parameters`."""
    keys = KeyList(dialect, BigInteger, BigInteger)
    chat_id, user_id = keys.columns
    return statement.join(
        keys.table, and_(ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == user_id)
    )


ANY_MEMBERSHIPS_OF_PAIRS = by_dialect(lambda dialect: of_pairs(dialect, _MEMBERSHIPS))
# Built once: every request of a member asks it.
_MEMBERSHIP = _MEMBERSHIPS.where(
    ChatRow.id == bindparam("of_chat"), ParticipantRow.user_id == bindparam("of_user")
)


async def get_membership(tx: Tx, user_id: UserId, chat_id: ChatId) -> Membership:
    """The membership of someone who is in the chat.

    Raises:
        chat_not_found: there is no such chat, or the user is not in it.
    """
    membership = await find_membership(tx, user_id, chat_id)
    if membership is None:
        raise ChatNotFound
    return membership


async def find_membership(tx: Tx, user_id: UserId, chat_id: ChatId) -> Membership | None:
    """As `get_membership`, but None for whoever is not in the chat."""
    past_or_present = await find_any_membership(tx, user_id, chat_id)
    return past_or_present if past_or_present and past_or_present.is_current else None


async def find_any_membership(tx: Tx, user_id: UserId, chat_id: ChatId) -> Membership | None:
    """Also of those who left or were banned; None for whoever never was in the chat."""
    row = await tx.first(_MEMBERSHIP, {"of_chat": chat_id, "of_user": user_id})
    return None if row is None else membership_from_row(row, now=tx.now)


async def get_member(tx: Tx, user_id: UserId, chat_id: ChatId) -> Membership:
    """The membership of another member, asked for by someone who may know the chat.

    Raises:
        member_not_found: the user is not in the chat.
    """
    membership = await find_membership(tx, user_id, chat_id)
    if membership is None:
        raise MemberNotFound
    return membership


async def load_memberships(
    tx: Tx, pairs: Iterable[tuple[UserId, ChatId]]
) -> dict[tuple[UserId, ChatId], Membership]:
    """The memberships of those of the (user, chat) pairs that are current; one query."""
    wanted = {(chat_id, user_id) for user_id, chat_id in pairs}
    if not wanted:
        return {}
    rows = await tx.all(ANY_MEMBERSHIPS_OF_PAIRS[tx.dialect], key_parameters(tx.dialect, wanted))
    memberships = [membership_from_row(row, now=tx.now) for row in rows]
    return {(m.user_id, m.chat.id): m for m in memberships if m.is_current}


async def load_chat_memberships(
    tx: Tx, chat_id: ChatId, user_ids: Sequence[UserId]
) -> dict[UserId, Membership]:
    """All memberships, past ones included, of these users in one chat; one query."""
    if not user_ids:
        return {}
    statement = _MEMBERSHIPS.where(ChatRow.id == chat_id, ParticipantRow.user_id.in_(user_ids))
    memberships = [membership_from_row(row, now=tx.now) for row in await tx.all(statement)]
    return {membership.user_id: membership for membership in memberships}


async def find_chat(tx: Tx, chat_id: ChatId) -> ChatFacts | None:
    """The facts of a chat for a caller that need not be in it: check what they may know of it."""
    statement = select(*CHAT_COLUMNS).where(ChatRow.id == chat_id, ChatRow.deleted_at.is_(None))
    row = await tx.first(statement)
    return None if row is None else chat_from_row(row)


def require(allowed: bool) -> None:  # noqa: FBT001 - reads as a sentence: require(may_post(membership))
    """Refuse unless a rule of `policy` said yes.

    Raises:
        not_allowed: it said no.
    """
    if not allowed:
        raise ChatForbidden


def membership_from_row(row: Any, *, now: datetime) -> Membership:
    """A row of `CHAT_COLUMNS` and `PARTICIPANT_COLUMNS`, judged at `now`."""
    chat = chat_from_row(row)
    role = judge_role(Role(row.role), row.restricted_until, now=now)
    own = None if row.own_permissions is None else Permission(row.own_permissions)
    in_force = role in {Role.RESTRICTED, Role.BANNED}
    return Membership(
        chat=chat,
        user_id=row.user_id,
        role=role,
        rights=judge_rights(chat.type, role, chat=chat.permissions, own=own),
        restricted_until=row.restricted_until if in_force else None,
        joined_at=row.joined_at,
        joined_seq=row.joined_seq,
        first_visible_id=MessageId(0) if chat.history_visible else row.first_visible_id,
        cleared_id=row.cleared_id,
        closed_id=row.closed_id,
        last_read_message_id=row.last_read_message_id,
    )


def chat_from_row(row: Any) -> ChatFacts:
    """A row of `CHAT_COLUMNS`."""
    return ChatFacts(
        id=row.id,
        type=ChatType(row.type),
        permissions=Permission(row.permissions),
        history_visible=row.history_visible,
        is_public=row.username is not None,
        owner_id=row.owner_id,
        pair=parse_pair_key(row.pair_key),
        members_count=row.members_count,
        last_message_id=row.last_message_id,
        created_at=row.created_at,
    )


def make_pair_key(one: UserId, other: UserId) -> str:
    """`low:high`, the same whoever asks."""
    return f"{min(one, other)}:{max(one, other)}"


def parse_pair_key(key: str | None) -> tuple[UserId, UserId] | None:
    if key is None:
        return None
    low, _, high = key.partition(":")
    return UserId(int(low)), UserId(int(high))
