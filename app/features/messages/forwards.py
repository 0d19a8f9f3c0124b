"""Where a forwarded message came from, told without opening a chat to those who are not in it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, cast

from app.kernel.clock import from_milliseconds, to_milliseconds
from app.kernel.ids import ChatId, MessageId, UserId


class ForwardOrigin(NamedTuple):
    """The first message of a line of forwards. `user_id` is None for a channel's post."""

    chat_id: ChatId
    message_id: MessageId
    user_id: UserId | None
    created_at: datetime


def store_origin(origin: ForwardOrigin) -> dict[str, int | None]:
    """As it lies in the row: references alone."""
    return {
        "chat_id": origin.chat_id,
        "message_id": origin.message_id,
        "user_id": origin.user_id,
        "created_at": to_milliseconds(origin.created_at),
    }


def parse_origin(stored: object | None) -> ForwardOrigin | None:
    """What `store_origin` made."""
    if stored is None:
        return None
    document = cast("Mapping[str, int]", stored)
    return ForwardOrigin(
        ChatId(document["chat_id"]),
        MessageId(document["message_id"]),
        cast("UserId | None", document["user_id"]),
        from_milliseconds(document["created_at"]),
    )
