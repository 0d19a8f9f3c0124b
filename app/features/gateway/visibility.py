"""What newcomers of a chat with hidden history must not see in its updates: older messages.

Everyone in a chat gets the same bytes but for this one case: an edit of, or a reply to, a message
from before a newcomer's time. In its place they get the tombstone that every client knows, or the
reply without what it quotes, under the same `seq`.
"""

from typing import Any, cast

import orjson

from app.kernel.ids import MessageId

# JSON of ours: its shape is known here and checked by the tests of its slice.
Message = dict[str, Any]

_TELLING = (b'{"type":"new_message"', b'{"type":"message_edited"')


def find_oldest_told(frame: bytes) -> int | None:
    """The id of the oldest message of which the update tells the content, beside a new one itself."""
    if not frame.startswith(_TELLING):
        return None
    message = _message(cast("Message", orjson.loads(frame)))
    reply_to = cast("Message | None", message.get("reply_to"))
    ids: list[int] = [reply_to["message_id"]] if reply_to else []
    if frame.startswith(_TELLING[1]):
        ids.append(message["id"])
    return min(ids, default=None)


def hide_from_newcomer(frame: bytes, first_visible_id: MessageId) -> bytes:
    """The frame for someone who sees messages from `first_visible_id` on."""
    update = cast("Message", orjson.loads(frame))
    message = _message(update)
    reply_to = cast("Message | None", message.get("reply_to"))
    if message["id"] < first_visible_id:
        shown = {"id": message["id"], "chat_id": message["chat_id"], "is_deleted": True}
        message.clear()
        message.update(shown)
    elif reply_to and reply_to["message_id"] < first_visible_id:
        message["reply_to"] = {"message_id": reply_to["message_id"]}
    return orjson.dumps(update)


def _message(update: Message) -> Message:
    """The Message inside the update's `data`, or the `data` itself where that is the Message."""
    data = cast("Message", update["data"])
    return cast("Message", data.get("message") or data)
