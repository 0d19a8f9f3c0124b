"""The way to a message: by one's membership in its chat. What the caller may not see answers as what never was."""

from collections.abc import Iterable

from app.features.chats.access import find_membership
from app.features.chats.policy import Membership
from app.features.messages.errors import MessageNotFound, PeerBlocked
from app.features.messages.policy import may_read, may_write
from app.features.messages.queries import (
    MessageRecord,
    find_blocks,
    find_record_for,
    list_newest_with,
)
from app.infra.database.tx import Tx
from app.kernel.ids import MAX_ID, FileId, MessageId, UserId
from app.kernel.problems import Forbidden, Problem

_CHATS_AT_ONCE = 500


async def get_message(
    tx: Tx, user_id: UserId, message_id: MessageId
) -> tuple[MessageRecord, Membership]:
    """A message that the user may see, perhaps as a tombstone, and their membership in its chat.

    Whoever changes something calls this after locking the chat's scope.

    Raises:
        message_not_found: there is none that this user may see.
    """
    found = await find_record_for(tx, message_id, user_id)
    if found is None:
        raise MessageNotFound
    record, is_hidden = found
    membership = await find_membership(tx, user_id, record.chat_id)
    if membership is None or not may_read(membership, message_id, is_hidden=is_hidden):
        raise MessageNotFound
    return record, membership


async def reads_any_with(tx: Tx, user_id: UserId, file_id: FileId) -> bool:
    """Whether the user may see a message that shows this file, wherever it was forwarded to.

    What may be seen of a chat begins at an id, so that its newest message stands for all of it.
    """
    below = MessageId(MAX_ID + 1)
    while True:
        found = await list_newest_with(tx, user_id, file_id, below=below, limit=_CHATS_AT_ONCE)
        if any(may_read(membership, it, is_hidden=False) for it, membership in found):
            return True
        if len(found) < _CHATS_AT_ONCE:
            return False
        below = found[-1][0]


async def require_writing(tx: Tx, membership: Membership, *, text: bool, media: bool) -> None:
    """Refuse whoever may not write this in the chat today.

    Raises:
        not_allowed: no right to write, or blocked by the other one of a private chat.
        peer_blocked: the member has blocked the other one.
    """
    blocks = await find_blocks(tx, list_block_pairs([membership]))
    problem = judge_writing(membership, blocks, text=text, media=media)
    if problem is not None:
        raise problem


def list_block_pairs(memberships: Iterable[Membership]) -> list[tuple[UserId, UserId]]:
    """The (owner, user) of every block that would forbid these members of private chats to write."""
    pairs: list[tuple[UserId, UserId]] = []
    for membership in memberships:
        peer_id = membership.peer_id
        if peer_id is not None and peer_id != membership.user_id:
            pairs += [(peer_id, membership.user_id), (membership.user_id, peer_id)]
    return pairs


def judge_writing(
    membership: Membership,
    blocks: set[tuple[UserId, UserId]],
    *,
    text: bool = True,
    media: bool = False,
) -> Problem | None:
    """Why this member may not write, if so: texts, messages with attachments, or both.

    As in Telegram, a block silences both sides: who blocked somebody unblocks them to write.
    """
    if not may_write(membership, text=text, media=media):
        if media and may_write(membership):
            return Forbidden("You may not send media in this chat")
        return Forbidden("You may not write in this chat")
    peer_id = membership.peer_id
    if peer_id is None:
        return None
    if (peer_id, membership.user_id) in blocks:
        return Forbidden("You may not write to this user")
    if (membership.user_id, peer_id) in blocks:
        return PeerBlocked()
    return None
