"""Who may see, write, edit and delete which message, and which files go into one: pure rules."""

from collections.abc import Sequence

from app.features.chats.policy import (
    ChatType,
    Membership,
    Permission,
    may_edit_own,
    may_post,
    may_post_media,
)
from app.features.files.policy import FileType
from app.kernel.ids import MessageId, UserId

TEXT = "text"
SERVICE = "service"
MEDIA_TYPES = frozenset(str(file_type) for file_type in FileType)
"""Messages with attachments; each type is that of its files."""

MAX_ATTACHMENTS = 10
# What makes an album, beside one file alone. A voice message is said by itself.
_ALBUMS = ({FileType.PHOTO, FileType.VIDEO}, {FileType.AUDIO}, {FileType.DOCUMENT})


def visible_floor(membership: Membership) -> int:
    """The highest id that the member may not see: from before joining, or cleared away."""
    return max(membership.first_visible_id - 1, membership.cleared_id)


def is_visible(membership: Membership, message_id: MessageId) -> bool:
    return message_id > visible_floor(membership)


def may_read(membership: Membership, message_id: MessageId, *, is_hidden: bool) -> bool:
    """See a message of the chat, and with it the files that it shows.

    `is_hidden`: the member deleted it for themselves.
    """
    return membership.is_current and not is_hidden and is_visible(membership, message_id)


def may_write(membership: Membership, *, text: bool = True, media: bool = False) -> bool:
    """Today's right to write texts, messages with attachments, or both. A caption belongs to its media."""
    return (may_post(membership) or not text) and (may_post_media(membership) or not media)


def judge_album(file_types: Sequence[str]) -> str | None:
    """The type of a message with these files, that of the first; None: they do not go into one message."""
    kinds = set(file_types)
    if len(file_types) == 1 or any(kinds <= album for album in _ALBUMS):
        return file_types[0]
    return None


def may_edit(
    membership: Membership, *, sender_id: UserId, message_type: str, is_forward: bool
) -> bool:
    """One's own words, by today's right to write; in a channel too only those who posted them.

    A forward holds somebody's words: nobody may put others into their mouth.
    """
    has_media = message_type in MEDIA_TYPES
    return (
        sender_id == membership.user_id
        and (message_type == TEXT or has_media)
        and not is_forward
        and may_write(membership, text=not has_media, media=has_media)
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
