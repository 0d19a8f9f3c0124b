"""All SQL of messages, for both databases.

The statements of hot paths are built once; lists in `IN` are padded to powers of two, so that the
few texts which come of it all stay prepared.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    SQLColumnExpression,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from app.features.chats.access import (
    CHAT_COLUMNS,
    CURRENT,
    PARTICIPANT_COLUMNS,
    membership_from_row,
)
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import MAX_READ_MARK_MEMBERS, ChatType, Membership
from app.features.chats.queries import CHAT_REVISION
from app.features.files.models import FileUseRow
from app.features.messages.models import HiddenMessageRow, MentionRow, MessageRow
from app.features.messages.policy import MEDIA_TYPES
from app.features.users.models import BlockRow, UsernameRow
from app.infra.cipher.revisions import raise_revisions, raise_selected, revision_of
from app.infra.database.key_lists import (
    KeyList,
    by_dialect,
    key_parameters,
)
from app.infra.database.tx import Dialect, Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.ids import MAX_ID, ChatId, FileId, MessageId, UserId

T = TypeVar("T")
Records = Select[*tuple[Any, ...]]
_Conditions = list[ColumnElement[bool]]
# How a body begins that was stored without a cipher: see `infra/cipher/envelope.py`.
_PLAIN_MARK = b"\x00"
# Above every id.
_TOP = str(MAX_ID + 1)


class MessageRecord(NamedTuple):
    """A message as stored, with what a reply to it shows of its target; the order is that of `_COLUMNS`."""

    id: MessageId
    chat_id: ChatId
    sender_id: UserId
    type: str
    body: bytes | None
    reply_to_id: MessageId | None
    forward: object | None
    service: object | None
    client_message_id: str | None
    silent: bool
    created_at: datetime
    edited_at: datetime | None
    deleted_at: datetime | None
    target_sender_id: UserId | None
    target_body: bytes | None
    target_deleted_at: datetime | None
    target_type: str | None
    revision: int = 0
    target_revision: int = 0


class ChatHeading(NamedTuple):
    """What a message needs of its chat to be rendered."""

    id: ChatId
    type: str
    title: bytes | None
    username: str | None
    deleted_at: datetime | None
    revision: int


class SeenSend(NamedTuple):
    """An earlier send under the same client id."""

    sender_id: UserId
    client_message_id: str
    message_id: MessageId
    chat_id: ChatId
    fingerprint: bytes | None


class ReplyTarget(NamedTuple):
    """A message that exists."""

    id: MessageId
    chat_id: ChatId
    sender_id: UserId
    body: bytes | None
    type: str
    revision: int


@dataclass(frozen=True, slots=True)
class PageBounds:
    """Whose view of which chat: `floor` is the highest id that they may not see."""

    chat_id: ChatId
    user_id: UserId
    floor: int


_Target = aliased(MessageRow, name="target")
_COLUMNS = (
    MessageRow.id,
    MessageRow.chat_id,
    MessageRow.sender_id,
    MessageRow.type,
    MessageRow.body,
    MessageRow.reply_to_id,
    MessageRow.forward,
    MessageRow.service,
    MessageRow.client_message_id,
    MessageRow.silent,
    MessageRow.created_at,
    MessageRow.edited_at,
    MessageRow.deleted_at,
    _Target.sender_id,
    _Target.body,
    _Target.deleted_at,
    _Target.type,
    revision_of(MessageRow, MessageRow.id).label("revision"),
    revision_of(MessageRow, _Target.id).label("target_revision"),
)


def _records() -> Records:
    return select(*_COLUMNS).join_from(
        MessageRow, _Target, _Target.id == MessageRow.reply_to_id, isouter=True
    )


def is_hidden(user_id: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether the user deleted the message for themselves.

    The OFFSET keeps PostgreSQL from making a join of it: without fresh statistics it would read all
    that the user has hidden once more for every message, instead of one entry of the index.
    """
    return exists(
        select(literal_column("1", Integer))
        .where(
            HiddenMessageRow.user_id == user_id,
            HiddenMessageRow.chat_id == MessageRow.chat_id,
            HiddenMessageRow.message_id == MessageRow.id,
        )
        .offset(literal_column("0", Integer))
        .correlate(MessageRow, ParticipantRow)
    )


_USER = bindparam("user_id", type_=BigInteger)
_CHAT = bindparam("chat_id", type_=BigInteger)
_FLOOR = bindparam("floor", type_=BigInteger)
_PIVOT = bindparam("pivot", type_=BigInteger)
_OLDER = bindparam("older", type_=Integer)
_NEWER = bindparam("newer", type_=Integer)


def _visible(dialect: Dialect, *, below: bool = False, above: bool = False) -> _Conditions:
    """What a reader sees of a chat, over the index of histories.

    Comparing the id alone, PostgreSQL may walk the primary key instead, over everybody's messages:
    comparing chat and id together fits the right index alone. SQLite needs no such hint.
    """
    conditions: _Conditions = [
        MessageRow.chat_id == _CHAT,
        MessageRow.deleted_at.is_(None),
        ~is_hidden(_USER),
    ]
    if dialect == "sqlite":
        conditions.append(MessageRow.id > _FLOOR)
        conditions += [MessageRow.id < _PIVOT] if below else []
        conditions += [MessageRow.id >= _PIVOT] if above else []
        return conditions
    place = tuple_(MessageRow.chat_id, MessageRow.id)
    conditions.append(place > tuple_(_CHAT, _FLOOR))
    conditions.append(place < tuple_(_CHAT, _PIVOT if below else literal_column(_TOP, BigInteger)))
    conditions += [place >= tuple_(_CHAT, _PIVOT)] if above else []
    return conditions


def _newest(dialect: Dialect) -> Records:
    return _records().where(*_visible(dialect)).order_by(*_descending()).limit(_OLDER)


def _around(dialect: Dialect) -> Records:
    older = select(MessageRow.id).where(*_visible(dialect, below=True))
    newer = select(MessageRow.id).where(*_visible(dialect, above=True))
    older_ids = older.order_by(*_descending()).limit(_OLDER).subquery("older_ids")
    newer_ids = (
        newer.order_by(MessageRow.chat_id, MessageRow.id).limit(_NEWER).subquery("newer_ids")
    )
    ids = union_all(select(older_ids.c.id), select(newer_ids.c.id))
    return _records().where(MessageRow.id.in_(ids)).order_by(MessageRow.id.desc())


def _descending() -> tuple[ColumnElement[ChatId], ColumnElement[MessageId]]:
    return MessageRow.chat_id.desc(), MessageRow.id.desc()


def _seen(dialect: Dialect) -> Select[UserId, str | None, MessageId, ChatId, bytes | None]:
    keys = KeyList(dialect, BigInteger, Text)
    sender_id, client_message_id = keys.columns
    return select(
        MessageRow.sender_id,
        MessageRow.client_message_id,
        MessageRow.id,
        MessageRow.chat_id,
        MessageRow.fingerprint,
    ).join_from(
        keys.table,
        MessageRow,
        and_(MessageRow.sender_id == sender_id, MessageRow.client_message_id == client_message_id),
    )


def _hidden(dialect: Dialect) -> Select[UserId, MessageId]:
    keys = KeyList(dialect, BigInteger, BigInteger, BigInteger)
    user_id, chat_id, message_id = keys.columns
    return select(HiddenMessageRow.user_id, HiddenMessageRow.message_id).join_from(
        keys.table,
        HiddenMessageRow,
        and_(
            HiddenMessageRow.user_id == user_id,
            HiddenMessageRow.chat_id == chat_id,
            HiddenMessageRow.message_id == message_id,
        ),
    )


def _memberships(dialect: Dialect) -> Select[*tuple[Any, ...]]:
    keys = KeyList(dialect, BigInteger, BigInteger)
    return (
        select(*CHAT_COLUMNS, *PARTICIPANT_COLUMNS)
        .select_from(keys.table)
        .join(ParticipantRow, is_participant(keys))
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(ChatRow.deleted_at.is_(None))
    )


def _newest_with_file() -> Select[*tuple[Any, ...]]:
    message_id = func.max(MessageRow.id)
    newest = (
        select(MessageRow.chat_id, message_id.label("message_id"))
        .join_from(FileUseRow, MessageRow, MessageRow.id == FileUseRow.subject_id)
        .join(
            ParticipantRow,
            and_(ParticipantRow.chat_id == MessageRow.chat_id, ParticipantRow.user_id == _USER),
        )
        .join(ChatRow, ChatRow.id == MessageRow.chat_id)
        .where(
            FileUseRow.file_id == bindparam("file_id", type_=BigInteger),
            FileUseRow.kind == "message",
            MessageRow.deleted_at.is_(None),
            ChatRow.deleted_at.is_(None),
            ~is_hidden(_USER),
        )
        .group_by(MessageRow.chat_id)
        .having(message_id < bindparam("below", type_=BigInteger))
        .order_by(message_id.desc())
        .limit(bindparam("limit", type_=Integer))
        .subquery("newest")
    )
    return (
        select(newest.c.message_id, *CHAT_COLUMNS, *PARTICIPANT_COLUMNS)
        .join_from(newest, ChatRow, ChatRow.id == newest.c.chat_id)
        .join(
            ParticipantRow,
            and_(ParticipantRow.chat_id == ChatRow.id, ParticipantRow.user_id == _USER),
        )
        .order_by(newest.c.message_id.desc())
    )


def _current_members(dialect: Dialect) -> Select[ChatId, UserId, MessageId]:
    keys = KeyList(dialect, BigInteger, BigInteger)
    return (
        select(ParticipantRow.chat_id, ParticipantRow.user_id, ParticipantRow.last_read_message_id)
        .join_from(keys.table, ParticipantRow, is_participant(keys))
        .where(ParticipantRow.role.in_(CURRENT))
    )


def _blocks(dialect: Dialect) -> Select[UserId, UserId]:
    keys = KeyList(dialect, BigInteger, BigInteger)
    owner_id, user_id = keys.columns
    return select(BlockRow.owner_id, BlockRow.user_id).join_from(
        keys.table, BlockRow, and_(BlockRow.owner_id == owner_id, BlockRow.user_id == user_id)
    )


def is_participant(keys: KeyList) -> ColumnElement[bool]:
    """For keys of (chat, user)."""
    chat_id, user_id = keys.columns
    return and_(ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == user_id)


_NEWEST = by_dialect(_newest)
_AROUND = by_dialect(_around)
_SEEN = by_dialect(_seen)
_HIDDEN = by_dialect(_hidden)
_MEMBERSHIPS = by_dialect(_memberships)
_NEWEST_WITH_FILE = _newest_with_file()
_CURRENT_MEMBERS = by_dialect(_current_members)
_BLOCKS = by_dialect(_blocks)
_BY_IDS = _records().where(MessageRow.id.in_(bindparam("ids", expanding=True)))
_BY_ID_FOR = (
    _records()
    .add_columns(is_hidden(_USER))
    .where(MessageRow.id == bindparam("message_id", type_=BigInteger))
)
_REPLY_TARGETS = select(
    MessageRow.id,
    MessageRow.chat_id,
    MessageRow.sender_id,
    MessageRow.body,
    MessageRow.type,
    revision_of(MessageRow, MessageRow.id),
).where(MessageRow.id.in_(bindparam("ids", expanding=True)), MessageRow.deleted_at.is_(None))
_HEADINGS = select(
    ChatRow.id,
    ChatRow.type,
    ChatRow.title,
    ChatRow.username,
    ChatRow.deleted_at,
    CHAT_REVISION,
).where(ChatRow.id.in_(bindparam("ids", expanding=True)))
_USERS_BY_NAME = select(UsernameRow.name_key, UsernameRow.user_id).where(
    UsernameRow.name_key.in_(bindparam("names", expanding=True)),
    UsernameRow.user_id.is_not(None),
)
_TOLD_OF_MARKS = select(ChatRow.id).where(
    ChatRow.id.in_(bindparam("ids", expanding=True)),
    ChatRow.type != ChatType.CHANNEL.value,
    ChatRow.members_count <= MAX_READ_MARK_MEMBERS,
)
_INSERT_MESSAGES = insert(MessageRow)
_INSERT_MENTIONS = insert(MentionRow)
_TOUCH_CHATS = (
    update(ChatRow)
    .where(ChatRow.id == bindparam("of_chat"))
    .values(last_message_id=bindparam("newest_id"), last_message_at=bindparam("newest_at"))
)
_MOVE_MARKS = (
    update(ParticipantRow)
    .where(
        ParticipantRow.chat_id == bindparam("of_chat"),
        ParticipantRow.user_id == bindparam("of_user"),
        ParticipantRow.last_read_message_id < bindparam("mark"),
    )
    .values(last_read_message_id=bindparam("mark"))
)
_IDS_OF_CHATS = select(MessageRow.id, MessageRow.chat_id).where(
    MessageRow.id.in_(bindparam("ids", expanding=True))
)


def padded(values: Iterable[T]) -> list[T]:
    """The values once each, the last repeated up to a power of two; nothing stays nothing."""
    unique = list(dict.fromkeys(values))
    if not unique:
        return unique
    size = 1 << (len(unique) - 1).bit_length()
    return unique + unique[-1:] * (size - len(unique))


async def load_records(
    tx: Tx, message_ids: Collection[MessageId]
) -> dict[MessageId, MessageRecord]:
    """These messages, deleted ones too, whoever may see them."""
    if not message_ids:
        return {}
    rows = await tx.all(_BY_IDS, {"ids": padded(message_ids)})
    records = [MessageRecord._make(row) for row in rows]
    return {record.id: record for record in records}


async def find_record_for(
    tx: Tx, message_id: MessageId, user_id: UserId
) -> tuple[MessageRecord, bool] | None:
    """A message, and whether this user deleted it for themselves."""
    row = await tx.first(_BY_ID_FOR, {"message_id": message_id, "user_id": user_id})
    if row is None:
        return None
    *fields, is_hidden = row
    return MessageRecord._make(fields), bool(is_hidden)


async def list_newest_with(
    tx: Tx, user_id: UserId, file_id: FileId, *, below: MessageId, limit: int
) -> list[tuple[MessageId, Membership]]:
    """For each chat that the user is or was in, the newest message that shows the file and that they did not
    delete for themselves, and their membership; of those below an id, the newest first.
    """
    parameters = {"user_id": user_id, "file_id": file_id, "below": below, "limit": limit}
    rows = await tx.all(_NEWEST_WITH_FILE, parameters)
    return [(row.message_id, membership_from_row(row, now=tx.now)) for row in rows]


async def list_newest(tx: Tx, bounds: PageBounds, *, count: int) -> list[MessageRecord]:
    """The newest `count` visible messages, newest first."""
    parameters = {
        "chat_id": bounds.chat_id,
        "user_id": bounds.user_id,
        "floor": bounds.floor,
        "older": count,
    }
    return [MessageRecord._make(row) for row in await tx.all(_NEWEST[tx.dialect], parameters)]


async def list_around(
    tx: Tx, bounds: PageBounds, *, pivot: int, older: int, newer: int
) -> list[MessageRecord]:
    """Up to `older` visible messages below the id `pivot` and `newer` from it on, newest first."""
    parameters = {
        "chat_id": bounds.chat_id,
        "user_id": bounds.user_id,
        "floor": bounds.floor,
        "pivot": pivot,
        "older": older,
        "newer": newer,
    }
    return [MessageRecord._make(row) for row in await tx.all(_AROUND[tx.dialect], parameters)]


async def find_seen(
    tx: Tx, keys: Collection[tuple[UserId, str]]
) -> dict[tuple[UserId, str], SeenSend]:
    """Earlier sends by (sender, client id)."""
    if not keys:
        return {}
    rows = await tx.all(_SEEN[tx.dialect], key_parameters(tx.dialect, keys))
    seen = [SeenSend._make(row) for row in rows]
    return {(send.sender_id, send.client_message_id): send for send in seen}


async def load_memberships(
    tx: Tx, pairs: Collection[tuple[ChatId, UserId]]
) -> dict[tuple[ChatId, UserId], Membership]:
    """The current memberships among these (chat, user); the hot twin of `chats.access`."""
    rows = await tx.all(_MEMBERSHIPS[tx.dialect], key_parameters(tx.dialect, pairs))
    memberships = [membership_from_row(row, now=tx.now) for row in rows]
    return {(m.chat.id, m.user_id): m for m in memberships if m.is_current}


async def find_blocks(
    tx: Tx, pairs: Collection[tuple[UserId, UserId]]
) -> set[tuple[UserId, UserId]]:
    """Which of these (owner, user) are blocks: the owner has blocked the user."""
    if not pairs:
        return set()
    return {
        (row[0], row[1])
        for row in await tx.all(_BLOCKS[tx.dialect], key_parameters(tx.dialect, pairs))
    }


async def load_reply_targets(
    tx: Tx, message_ids: Collection[MessageId]
) -> dict[MessageId, ReplyTarget]:
    """Messages that were not deleted for everyone."""
    if not message_ids:
        return {}
    rows = await tx.all(_REPLY_TARGETS, {"ids": padded(message_ids)})
    targets = [ReplyTarget._make(row) for row in rows]
    return {target.id: target for target in targets}


async def find_hidden(
    tx: Tx, keys: Collection[tuple[UserId, ChatId, MessageId]]
) -> set[tuple[UserId, MessageId]]:
    """Which of these (user, chat, message) the user deleted for themselves."""
    if not keys:
        return set()
    return {
        (row[0], row[1])
        for row in await tx.all(_HIDDEN[tx.dialect], key_parameters(tx.dialect, keys))
    }


async def load_headings(tx: Tx, chat_ids: Collection[ChatId]) -> dict[ChatId, ChatHeading]:
    if not chat_ids:
        return {}
    rows = await tx.all(_HEADINGS, {"ids": padded(chat_ids)})
    headings = [ChatHeading._make(row) for row in rows]
    return {heading.id: heading for heading in headings}


async def find_current_members(
    tx: Tx, pairs: Collection[tuple[ChatId, UserId]]
) -> set[tuple[ChatId, UserId]]:
    """Which of these (chat, user) are members at present."""
    if not pairs:
        return set()
    rows = await tx.all(_CURRENT_MEMBERS[tx.dialect], key_parameters(tx.dialect, pairs))
    return {(row[0], row[1]) for row in rows}


async def find_users_by_name(tx: Tx, names: Collection[str]) -> dict[str, UserId]:
    """Users by lower-case username."""
    if not names:
        return {}
    rows = await tx.all(_USERS_BY_NAME, {"names": padded(names)})
    return {name: user_id for name, user_id in rows if user_id is not None}


async def find_chats_of(tx: Tx, message_ids: Collection[MessageId]) -> dict[MessageId, ChatId]:
    """The chat of each message, deleted ones too."""
    if not message_ids:
        return {}
    rows = await tx.all(_IDS_OF_CHATS, {"ids": padded(message_ids)})
    return {row[0]: row[1] for row in rows}


async def find_chats_told_of_marks(tx: Tx, chat_ids: Collection[ChatId]) -> set[ChatId]:
    """Which of these chats are at present so small that members see the others' read marks."""
    return set(await tx.scalars(_TOLD_OF_MARKS, {"ids": padded(chat_ids)}))


async def load_marks(
    tx: Tx, pairs: Collection[tuple[ChatId, UserId]]
) -> dict[tuple[ChatId, UserId], MessageId]:
    """The present read marks of those (chat, user) who are members."""
    if not pairs:
        return {}
    rows = await tx.all(_CURRENT_MEMBERS[tx.dialect], key_parameters(tx.dialect, pairs))
    return {(row[0], row[1]): row[2] for row in rows}


async def list_media(
    tx: Tx,
    chat_id: ChatId,
    *,
    after_seq: int,
    upto: MessageId | None,
    live_only: bool,
    limit: int,
) -> list[tuple[MessageId, int]]:
    """(id, seq) of the messages of a chat that show or showed attachments, in their order: all, or up to and
    with this id.
    """
    statement = select(MessageRow.id, MessageRow.seq).where(
        MessageRow.chat_id == chat_id,
        MessageRow.seq > after_seq,
        MessageRow.type.in_(sorted(MEDIA_TYPES)),
    )
    if upto is not None:
        statement = statement.where(MessageRow.id <= upto)
    if live_only:
        statement = statement.where(MessageRow.deleted_at.is_(None))
    rows = await tx.all(statement.order_by(MessageRow.seq).limit(limit))
    return [(row.id, row.seq) for row in rows]


async def insert_messages(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    await tx.execute(_INSERT_MESSAGES, rows)


async def touch_chats(tx: Tx, newest: Mapping[ChatId, MessageId]) -> None:
    """Note the newest message of each chat; the caller holds the chats' scopes."""
    rows = [
        {"of_chat": chat_id, "newest_id": message_id, "newest_at": tx.now}
        for chat_id, message_id in sorted(newest.items())
    ]
    await tx.execute(_TOUCH_CHATS, rows)


async def move_marks(tx: Tx, marks: Mapping[tuple[ChatId, UserId], MessageId]) -> None:
    """Move read marks forward, never back; in sorted order, so that two groups cannot deadlock."""
    rows = [
        {"of_chat": chat_id, "of_user": user_id, "mark": mark}
        for (chat_id, user_id), mark in sorted(marks.items())
    ]
    if rows:
        await tx.execute(_MOVE_MARKS, rows)


async def insert_mentions(tx: Tx, mentions: Iterable[tuple[ChatId, UserId, MessageId]]) -> None:
    rows = [
        {"chat_id": chat_id, "user_id": user_id, "message_id": message_id}
        for chat_id, user_id, message_id in sorted(mentions)
    ]
    if rows:
        await tx.execute(_INSERT_MENTIONS, rows)


async def delete_mentions(tx: Tx, message_id: MessageId, *, of_user: UserId | None = None) -> None:
    """All mentions in a message, or one user's."""
    statement = delete(MentionRow).where(MentionRow.message_id == message_id)
    if of_user is not None:
        statement = statement.where(MentionRow.user_id == of_user)
    await tx.execute(statement)


async def set_body(tx: Tx, message_id: MessageId, body: bytes) -> None:
    await tx.execute(
        update(MessageRow).where(MessageRow.id == message_id).values(body=body, edited_at=tx.now)
    )


async def empty_bodies(tx: Tx, message_ids: Sequence[MessageId]) -> None:
    """Leave of messages what their tombstones and the repeats of their sends need, and nothing else. Who
    puts a body back finds that it does not open.
    """
    await raise_revisions(tx, MessageRow, message_ids)
    await tx.execute(
        update(MessageRow)
        .where(MessageRow.id.in_(message_ids))
        .values(body=None, forward=None, service=None, reply_to_id=None, deleted_at=tx.now)
    )


async def insert_hidden(tx: Tx, *, user_id: UserId, chat_id: ChatId, message_id: MessageId) -> bool:
    """Hide a message for one user.

    Returns:
        Whether it was not hidden before.
    """
    row = {"user_id": user_id, "chat_id": chat_id, "message_id": message_id}
    inserted = await insert_ignore(
        tx, HiddenMessageRow, [row], index=["user_id", "chat_id", "message_id"]
    )
    return inserted == 1


async def erase_upto(tx: Tx, chat_id: ChatId, upto: MessageId) -> None:
    """Make tombstones of all that was written in a chat up to and with this id."""
    emptied = select(MessageRow.id).where(
        MessageRow.chat_id == chat_id, MessageRow.id <= upto, MessageRow.deleted_at.is_(None)
    )
    await raise_selected(tx, MessageRow, emptied)
    await tx.execute(
        update(MessageRow)
        .where(
            MessageRow.chat_id == chat_id, MessageRow.id <= upto, MessageRow.deleted_at.is_(None)
        )
        .values(body=None, forward=None, service=None, reply_to_id=None, deleted_at=tx.now)
    )
    await tx.execute(
        delete(MentionRow).where(MentionRow.chat_id == chat_id, MentionRow.message_id <= upto)
    )


async def erase_plain_bodies(tx: Tx, chat_id: ChatId) -> None:
    """Make tombstones of a chat's messages that were stored without a cipher, whatever holds today."""
    await tx.execute(
        update(MessageRow)
        .where(
            MessageRow.chat_id == chat_id,
            MessageRow.deleted_at.is_(None),
            func.substr(MessageRow.body, 1, 1) == _PLAIN_MARK,
        )
        .values(body=None, forward=None, service=None, reply_to_id=None, deleted_at=tx.now)
    )
