"""All SQL of chats, but for what `access.py` asks."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from app.features.chats.access import (
    ANY_MEMBERSHIPS_OF_PAIRS,
    CHAT_COLUMNS,
    CURRENT,
    PARTICIPANT_COLUMNS,
    membership_from_row,
)
from app.features.chats.limits import MAX_CHATS
from app.features.chats.models import ChatRow, InviteRow, ParticipantRow
from app.features.chats.policy import ChatType, Membership, Role
from app.features.files.models import FileUseRow
from app.features.updates.models import ScopeRow
from app.features.users.models import UsernameRow, UserRow
from app.infra.cipher.revisions import revision_of
from app.infra.database.key_lists import key_parameters
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore, upsert
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.scopes import ScopeKind

# The words of the partial index, so that SQLite uses it.
_IS_ADMIN = literal_column("chat_participants.role IN ('owner', 'admin')", Boolean)

CHAT_REVISION = revision_of(ChatRow, ChatRow.id).label("revision")
VIEW_COLUMNS = (
    *CHAT_COLUMNS,
    ChatRow.title,
    ChatRow.description,
    ChatRow.photo_id,
    ScopeRow.seq,
    CHAT_REVISION,
)
"""What `render_chat` reads; `FROM_CHATS` joins it."""

CHATS_WITH_SEQ = and_(ScopeRow.kind == int(ScopeKind.CHAT), ScopeRow.id == ChatRow.id)

_JOINING = (
    "role",
    "permissions",
    "restricted_until",
    "joined_at",
    "joined_seq",
    "first_visible_id",
    "closed_id",
    "last_read_message_id",
    "is_pinned",
    "is_archived",
    "muted_until",
)


DUE_COUNTS = (
    select(ChatRow.id)
    .where(ChatRow.count_due_at <= bindparam("by"))
    .order_by(ChatRow.count_due_at)
    .limit(bindparam("count"))
)


class Invite(NamedTuple):
    """A row of `chat_invites`."""

    id: int
    code: str
    chat_id: ChatId
    creator_id: UserId
    created_at: datetime
    expires_at: datetime | None
    max_uses: int | None
    uses: int


_INVITE_COLUMNS = (
    InviteRow.id,
    InviteRow.code,
    InviteRow.chat_id,
    InviteRow.creator_id,
    InviteRow.created_at,
    InviteRow.expires_at,
    InviteRow.max_uses,
    InviteRow.uses,
)


# Chats.


async def insert_chat(tx: Tx, values: Mapping[str, object]) -> None:
    await tx.execute(insert(ChatRow).values(**values))


async def insert_private_chat(tx: Tx, values: Mapping[str, object]) -> bool:
    """False if the pair has its chat already; waits for whoever is making it at this moment."""
    return await insert_ignore(tx, ChatRow, [values], index=["pair_key"]) == 1


async def change_chat(tx: Tx, chat_id: ChatId, values: Mapping[str, object]) -> None:
    await tx.execute(update(ChatRow).where(ChatRow.id == chat_id).values(**values))


async def add_to_members_count(tx: Tx, chat_id: ChatId, number: int) -> None:
    statement = update(ChatRow).where(ChatRow.id == chat_id)
    await tx.execute(statement.values(members_count=ChatRow.members_count + number))


async def find_count_times(tx: Tx, chat_id: ChatId) -> tuple[datetime | None, datetime | None]:
    """When a channel's subscribers were last told the number of members, and when they are to be next."""
    statement = select(ChatRow.count_told_at, ChatRow.count_due_at).where(ChatRow.id == chat_id)
    row = await tx.first(statement)
    return (None, None) if row is None else (row[0], row[1])


async def find_due_counts(tx: Tx, *, limit: int) -> list[ChatId]:
    """Channels whose subscribers are to be told the number of members by now."""
    return list(await tx.scalars(DUE_COUNTS, {"by": tx.now, "count": limit}))


async def find_private_chat(tx: Tx, pair_key: str) -> ChatId | None:
    return await tx.scalar(select(ChatRow.id).where(ChatRow.pair_key == pair_key))


async def find_public_chat(tx: Tx, name_key: str) -> ChatId | None:
    """The chat that holds this username; `name_key` is its lower case."""
    statement = (
        select(ChatRow.id)
        .join(UsernameRow, UsernameRow.chat_id == ChatRow.id)
        .where(UsernameRow.name_key == name_key, ChatRow.deleted_at.is_(None))
    )
    return await tx.scalar(statement)


async def read_chat_rows(tx: Tx, chat_ids: Iterable[ChatId]) -> Sequence[Any]:
    """Rows of `VIEW_COLUMNS` of those of the chats that exist."""
    statement = (
        select(*VIEW_COLUMNS)
        .join(ScopeRow, CHATS_WITH_SEQ)
        .where(ChatRow.id.in_(sorted(set(chat_ids))), ChatRow.deleted_at.is_(None))
    )
    return await tx.all(statement)


async def is_photo_seen_by(tx: Tx, viewer: UserId, file_id: FileId) -> bool:
    """Whether `GET /chats/{id}` or `GET /chats/resolve` shows this viewer a chat with this photo."""
    is_member = (
        select(ParticipantRow.chat_id)
        .where(
            ParticipantRow.chat_id == ChatRow.id,
            ParticipantRow.user_id == viewer,
            ParticipantRow.role.in_(CURRENT),
        )
        .exists()
    )
    shown = and_(FileUseRow.subject_id == ChatRow.id, FileUseRow.kind == "chat")
    statement = (
        select(ChatRow.id)
        .join(FileUseRow, shown)
        .where(
            FileUseRow.file_id == file_id,
            ChatRow.deleted_at.is_(None),
            or_(ChatRow.username.is_not(None), is_member),
        )
    )
    return await tx.scalar(statement.limit(1)) is not None


async def find_photo_id(tx: Tx, chat_id: ChatId) -> FileId | None:
    return await tx.scalar(select(ChatRow.photo_id).where(ChatRow.id == chat_id))


# Members.


async def write_joined(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert members, or let those come back who were in the chat before. What they cleared stays cleared."""
    await upsert(tx, ParticipantRow, rows, index=["chat_id", "user_id"], update=_JOINING)


async def find_restrictions(
    tx: Tx, chat_id: ChatId, user_ids: Sequence[UserId]
) -> dict[UserId, dict[str, object]]:
    """User -> the columns of a restriction under which they left, as far as it has not run out."""
    statement = select(
        ParticipantRow.user_id, ParticipantRow.permissions, ParticipantRow.restricted_until
    ).where(
        ParticipantRow.chat_id == chat_id,
        ParticipantRow.user_id.in_(user_ids),
        ParticipantRow.role == str(Role.LEFT),
        ParticipantRow.permissions.is_not(None),
        or_(
            ParticipantRow.restricted_until.is_(None),
            ParticipantRow.restricted_until > tx.now,
        ),
    )
    return {
        user_id: {
            "role": str(Role.RESTRICTED),
            "permissions": permissions,
            "restricted_until": until,
        }
        for user_id, permissions, until in await tx.all(statement)
    }


async def write_participants(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert members of a new chat."""
    await tx.execute(insert(ParticipantRow), rows)


async def change_participant(
    tx: Tx, chat_id: ChatId, user_id: UserId, values: Mapping[str, object]
) -> None:
    statement = update(ParticipantRow).where(
        ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == user_id
    )
    await tx.execute(statement.values(**values))


async def list_admin_ids(tx: Tx, chat_id: ChatId) -> list[UserId]:
    """The owner and the admins."""
    statement = select(ParticipantRow.user_id).where(ParticipantRow.chat_id == chat_id, _IS_ADMIN)
    return list(await tx.scalars(statement))


async def find_successor(tx: Tx, chat_id: ChatId, owner_id: UserId) -> UserId | None:
    """Who is to own the chat when its owner goes: the oldest admin, else the oldest member, and one who
    is restricted only if there is nobody else.
    """
    rank = case(
        (ParticipantRow.role == str(Role.ADMIN), 0),
        (ParticipantRow.role == str(Role.MEMBER), 1),
        else_=2,
    )
    statement = (
        select(ParticipantRow.user_id)
        .join(UserRow, UserRow.id == ParticipantRow.user_id)
        .where(
            ParticipantRow.chat_id == chat_id,
            ParticipantRow.user_id != owner_id,
            ParticipantRow.role.in_(CURRENT),
            UserRow.deleted_at.is_(None),
        )
        .order_by(rank, ParticipantRow.joined_at, ParticipantRow.user_id)
        .limit(1)
    )
    return await tx.scalar(statement)


async def list_participant_ids(tx: Tx, chat_id: ChatId) -> list[UserId]:
    """Both users of a private chat, the only one of "Saved messages"."""
    statement = select(ParticipantRow.user_id).where(ParticipantRow.chat_id == chat_id)
    return list(await tx.scalars(statement))


async def list_members(
    tx: Tx, chat_id: ChatId, *, roles: Sequence[Role], after: UserId, limit: int
) -> list[Membership]:
    """Members by user id, ascending. Roles are judged at `tx.now`, so a page may come out shorter."""
    statement = (
        select(*CHAT_COLUMNS, *PARTICIPANT_COLUMNS)
        .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
        .where(
            ParticipantRow.chat_id == chat_id,
            ParticipantRow.user_id > after,
            ParticipantRow.role.in_([str(role) for role in roles]),
        )
        .order_by(ParticipantRow.user_id)
        .limit(limit)
    )
    if set(roles) <= {Role.OWNER, Role.ADMIN}:
        statement = statement.where(_IS_ADMIN)
    return [membership_from_row(row, now=tx.now) for row in await tx.all(statement)]


async def load_pairs(
    tx: Tx, pairs: Iterable[tuple[ChatId, UserId]]
) -> dict[tuple[ChatId, UserId], Membership]:
    """All memberships, past ones included, of (chat, user) pairs in chats that exist; one query."""
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    rows = await tx.all(ANY_MEMBERSHIPS_OF_PAIRS[tx.dialect], key_parameters(tx.dialect, wanted))
    found = [membership_from_row(row, now=tx.now) for row in rows]
    return {(membership.chat.id, membership.user_id): membership for membership in found}


async def find_full(tx: Tx, user_ids: Sequence[UserId]) -> set[UserId]:
    """Those of the users who are in as many chats as one may be in."""
    statement = (
        select(ParticipantRow.user_id)
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(
            ParticipantRow.user_id.in_(user_ids),
            ParticipantRow.role.in_(CURRENT),
            ChatRow.deleted_at.is_(None),
        )
        .group_by(ParticipantRow.user_id)
        .having(func.count() >= MAX_CHATS)
    )
    return set(await tx.scalars(statement))


def select_acquaintances(viewer: UserId) -> Select[UserId]:
    """Everyone who is in a group with the viewer, the viewer included; for `IN (...)`."""
    mine = aliased(ParticipantRow, name="mine")
    return (
        select(ParticipantRow.user_id)
        .join(mine, mine.chat_id == ParticipantRow.chat_id)
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(
            mine.user_id == viewer,
            mine.role.in_(CURRENT),
            ParticipantRow.role.in_(CURRENT),
            ChatRow.type == str(ChatType.GROUP),
            ChatRow.deleted_at.is_(None),
        )
    )


# Usernames.


async def take_username(tx: Tx, name_key: str, chat_id: ChatId) -> bool:
    """False if somebody else, a user or a chat, has it."""
    row = {"name_key": name_key, "chat_id": chat_id}
    if await insert_ignore(tx, UsernameRow, [row], index=["name_key"]) == 1:
        return True
    statement = select(UsernameRow.chat_id).where(UsernameRow.name_key == name_key)
    return await tx.scalar(statement) == chat_id


async def free_username(tx: Tx, chat_id: ChatId, *, keep: str | None = None) -> None:
    """Give back what the chat holds, but for the name `keep`."""
    statement = delete(UsernameRow).where(UsernameRow.chat_id == chat_id)
    if keep is not None:
        statement = statement.where(UsernameRow.name_key != keep)
    await tx.execute(statement)


# Invites.


async def insert_invite(tx: Tx, values: Mapping[str, object]) -> None:
    await tx.execute(insert(InviteRow).values(**values))


async def find_invite(tx: Tx, code: str) -> Invite | None:
    """An invite that was not revoked; it may have expired or be used up."""
    statement = select(*_INVITE_COLUMNS).where(
        InviteRow.code == code, InviteRow.revoked_at.is_(None)
    )
    row = await tx.first(statement)
    return None if row is None else Invite(*row)


async def list_invites(tx: Tx, chat_id: ChatId, *, before: int, limit: int) -> list[Invite]:
    """Those that were not revoked, the newest first."""
    statement = (
        select(*_INVITE_COLUMNS)
        .where(InviteRow.chat_id == chat_id, InviteRow.id < before, InviteRow.revoked_at.is_(None))
        .order_by(InviteRow.id.desc())
        .limit(limit)
    )
    return [Invite(*row) for row in await tx.all(statement)]


async def count_invites(tx: Tx, chat_id: ChatId) -> int:
    """Those that were not revoked."""
    statement = select(func.count()).where(
        InviteRow.chat_id == chat_id, InviteRow.revoked_at.is_(None)
    )
    return int(await tx.scalar(statement) or 0)


async def count_use(tx: Tx, invite_id: int) -> None:
    statement = update(InviteRow).where(InviteRow.id == invite_id)
    await tx.execute(statement.values(uses=InviteRow.uses + 1))


async def revoke_invite(tx: Tx, chat_id: ChatId, code: str) -> bool:
    """False if there is no such invite that was not revoked before."""
    statement = (
        update(InviteRow)
        .where(InviteRow.chat_id == chat_id, InviteRow.code == code, InviteRow.revoked_at.is_(None))
        .values(revoked_at=tx.now)
    )
    return await tx.execute(statement) == 1


# Private chats.


async def clear_private_chat(
    tx: Tx, chat_id: ChatId, user_ids: Sequence[UserId], *, upto: MessageId
) -> None:
    """Take a private chat off these users' lists and all it holds now from their sight."""
    statement = (
        update(ParticipantRow)
        .where(ParticipantRow.chat_id == chat_id, ParticipantRow.user_id.in_(user_ids))
        .values(
            cleared_id=upto,
            closed_id=upto,
            last_read_message_id=upto,
            is_pinned=False,
            is_archived=False,
        )
    )
    await tx.execute(statement)


async def find_lowest_cleared(tx: Tx, chat_id: ChatId) -> MessageId:
    """Up to which message everyone in a private chat has cleared it; 0: somebody never did."""
    statement = select(func.min(ParticipantRow.cleared_id)).where(ParticipantRow.chat_id == chat_id)
    return MessageId(await tx.scalar(statement) or 0)


async def open_private_chat(tx: Tx, chat_id: ChatId, user_id: UserId) -> None:
    """Put a private chat back on the user's list; what they cleared stays cleared."""
    await change_participant(tx, chat_id, user_id, {"closed_id": None})
