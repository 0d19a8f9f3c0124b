"""Moving read marks, forward only; marks that wait at the same moment share one transaction.

A mark that does not move writes nothing. In private chats and groups of at most 100 the others are
told, which takes the chat's scope; in larger chats only the reader's own scope is locked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.features.chats.errors import ChatNotFound
from app.features.chats.policy import MAX_READ_MARK_MEMBERS, ChatType, Membership
from app.features.messages.errors import MessageNotFound
from app.features.messages.queries import (
    find_chats_of,
    find_chats_told_of_marks,
    load_memberships,
    move_marks,
)
from app.features.messages.unread import NOTHING_UNREAD, Unread, count_unread
from app.features.updates.log import ScopeLog, lock_scopes, try_lock_scopes
from app.infra.database.committer import BUSY, Busy
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import Scope, chat_scope, user_scope

READ = "read"
READ_BY = "read_by"


@dataclass(frozen=True, slots=True)
class Mark:
    """One waiting mark: the reader has seen the chat up to this message."""

    user_id: UserId
    chat_id: ChatId
    message_id: MessageId


async def mark_read(
    db: Database, *, user_id: UserId, chat_id: ChatId, message_id: MessageId
) -> None:
    """Move the mark forward; one that stands there or further stays.

    Raises:
        chat_not_found: the reader is not in the chat.
        message_not_found: there is no such message in this chat that the reader may see.
    """
    await db.write_grouped(apply_marks, Mark(user_id, chat_id, message_id))


async def apply_marks(
    tx: Tx, items: Sequence[Mark], *, may_wait: bool
) -> Sequence[Problem | Busy | None]:
    """All marks of a group, each with its own outcome; more marks do not mean more statements."""
    told = await find_chats_told_of_marks(tx, {mark.chat_id for mark in items})
    scopes = {mark: _list_scopes(mark, told) for mark in items}
    lock = lock_scopes if may_wait else try_lock_scopes
    log = await lock(tx, {scope for wanted in scopes.values() for scope in wanted})
    ready = [m for m in items if all(log.is_locked(scope) for scope in scopes[m])]
    if not ready:
        return [ChatNotFound() if may_wait else BUSY for _ in items]
    memberships = await load_memberships(tx, {(mark.chat_id, mark.user_id) for mark in ready})
    chats = await find_chats_of(tx, {mark.message_id for mark in ready})
    outcomes: list[Problem | Busy | None] = []
    moved: dict[tuple[ChatId, UserId], MessageId] = {}
    for mark in items:
        if not all(log.is_locked(scope) for scope in scopes[mark]):
            outcomes.append(BUSY)
            continue
        membership = memberships.get((mark.chat_id, mark.user_id))
        problem = _judge(mark, membership, chats)
        outcomes.append(problem)
        if problem is None and membership is not None:
            key = (mark.chat_id, mark.user_id)
            if mark.message_id > max(membership.last_read_message_id, moved.get(key, 0)):
                moved[key] = mark.message_id
    if moved:
        await _tell(tx, log, moved, memberships)
    return outcomes


def render_read(chat_id: ChatId, message_id: MessageId, unread: Unread) -> dict[str, object]:
    """The `data` of a `read` update."""
    content: dict[str, object] = {
        "chat_id": chat_id,
        "message_id": message_id,
        "unread_count": unread.messages,
        "unread_mentions_count": unread.mentions,
    }
    if unread.is_capped:
        content["unread_capped"] = True
    return content


def _list_scopes(mark: Mark, told: set[ChatId]) -> list[Scope]:
    own = [user_scope(mark.user_id)]
    return [chat_scope(mark.chat_id), *own] if mark.chat_id in told else own


def _judge(
    mark: Mark, membership: Membership | None, chats: Mapping[MessageId, ChatId]
) -> Problem | None:
    """A mark may stand at a message that was deleted meanwhile, never at one of another chat."""
    if membership is None:
        return ChatNotFound()
    is_theirs = mark.message_id >= membership.first_visible_id
    if chats.get(mark.message_id) != mark.chat_id or not is_theirs:
        return MessageNotFound()
    return None


async def _tell(
    tx: Tx,
    log: ScopeLog,
    moved: Mapping[tuple[ChatId, UserId], MessageId],
    memberships: Mapping[tuple[ChatId, UserId], Membership],
) -> None:
    await move_marks(tx, moved)
    unread = await count_unread(tx, moved.keys())
    for (chat_id, user_id), message_id in moved.items():
        counts = unread.get((chat_id, user_id), NOTHING_UNREAD)
        data = {"chat_id": chat_id, "message_id": message_id}
        content = render_read(chat_id, message_id, counts)
        log.append(user_scope(user_id), READ, subject_id=chat_id, data=data, content=content)
        chat = memberships[chat_id, user_id].chat
        # A chat may have shrunk since its scope was not locked: then nobody is told this once.
        if tells_marks(chat.type, chat.members_count) and log.is_locked(chat_scope(chat_id)):
            mark = {"user_id": user_id, "message_id": message_id}
            log.append(chat_scope(chat_id), READ_BY, subject_id=user_id, data=mark, content=mark)


def tells_marks(chat_type: str, members_count: int) -> bool:
    """Whether members see how far the others have read: in private chats and groups of at most 100."""
    if chat_type == ChatType.CHANNEL:
        return False
    return members_count <= MAX_READ_MARK_MEMBERS
