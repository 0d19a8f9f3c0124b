"""The way to a message: by one's membership in its chat. What the caller may not see answers as what never was."""

from collections.abc import Iterable

from app.features.chats.access import find_membership
from app.features.chats.policy import Membership, may_post
from app.features.messages.errors import MessageNotFound, PeerBlocked
from app.features.messages.policy import is_visible
from app.features.messages.queries import MessageRecord, find_blocks, find_record_for
from app.infra.database.tx import Tx
from app.kernel.ids import MessageId, UserId
from app.kernel.problems import Forbidden, Problem


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
    if membership is None or is_hidden or not is_visible(membership, message_id):
        raise MessageNotFound
    return record, membership


async def require_writing(tx: Tx, membership: Membership) -> None:
    """Refuse whoever may not write in this chat today.

    Raises:
        not_allowed: no right to write, or blocked by the other one of a private chat.
        peer_blocked: the member has blocked the other one.
    """
    problem = judge_writing(membership, await find_blocks(tx, list_block_pairs([membership])))
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


def judge_writing(membership: Membership, blocks: set[tuple[UserId, UserId]]) -> Problem | None:
    """Why this member may not write, if so.

    As in Telegram, a block silences both sides: who blocked somebody unblocks them to write.
    """
    if not may_post(membership):
        return Forbidden("You may not write in this chat")
    peer_id = membership.peer_id
    if peer_id is None:
        return None
    if (peer_id, membership.user_id) in blocks:
        return Forbidden("You may not write to this user")
    if (membership.user_id, peer_id) in blocks:
        return PeerBlocked()
    return None
