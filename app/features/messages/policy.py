"""Who may see, edit and delete which message: pure rules."""

from app.features.chats.policy import ChatType, Membership, Permission, may_edit_own
from app.kernel.ids import MessageId, UserId

TEXT = "text"
SERVICE = "service"


def visible_floor(membership: Membership) -> int:
    """The highest id that the member may not see: from before joining, or cleared away."""
    return max(membership.first_visible_id - 1, membership.cleared_id)


def is_visible(membership: Membership, message_id: MessageId) -> bool:
    return message_id > visible_floor(membership)


def may_edit(
    membership: Membership, *, sender_id: UserId, message_type: str, is_forward: bool
) -> bool:
    """One's own words, by today's right to write; in a channel too only those who posted them.

    A forward holds somebody's words: nobody may put others into their mouth.
    """
    return (
        sender_id == membership.user_id
        and message_type == TEXT
        and not is_forward
        and may_edit_own(membership)
    )


def may_delete_for_everyone(
    membership: Membership, *, sender_id: UserId, message_type: str
) -> bool:
    """One's own, but a channel's posts only while one may still post there; others' by right alone.

    Nobody wrote a service message: it counts as another's.
    """
    if Permission.DELETE_MESSAGES in membership.rights:
        return True
    if sender_id != membership.user_id or message_type == SERVICE:
        return False
    return membership.chat.type is not ChatType.CHANNEL or may_edit_own(membership)
