"""What a message says, and how it lies in its row: one sealed JSON document, bound to the row's id."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import orjson

from app.features.messages.errors import CaptionTooLong, MessageEmpty, MessageTooLong
from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.kernel.entities import (
    EntityDocument,
    check_entities,
    render_entities,
    utf16_length,
)
from app.kernel.ids import FileId, MessageId
from app.kernel.problems import FieldError

# In UTF-16 code units.
MAX_TEXT_LENGTH = 4096
MAX_CAPTION_LENGTH = 1024
EXCERPT_LENGTH = 128  # code points, so that no surrogate pair is split

_PLACE_TABLE = "messages"
_PLACE_COLUMN = "body"


class Content(NamedTuple):
    """The personal part of a message. `text` is the caption where there are attachments, None without one.

    `forward_name` names an origin that readers may not open.
    """

    text: str | None
    entities: Sequence[EntityDocument] = ()
    forward_name: str | None = None


def check_content(text: str, entities: Sequence[Mapping[str, object]]) -> Content:
    """A text from outside, exactly as sent.

    Raises:
        message_empty: it is empty or white space alone.
        message_too_long: over 4,096 UTF-16 code units.
        entities_invalid: the entities do not fit the text.
    """
    if not text or text.isspace():
        raise MessageEmpty(errors=[FieldError("text", "must not be empty or white space alone")])
    if utf16_length(text) > MAX_TEXT_LENGTH:
        raise MessageTooLong(
            errors=[FieldError("text", f"must have at most {MAX_TEXT_LENGTH} UTF-16 code units")]
        )
    return Content(text, render_entities(check_entities(text, entities)))


def check_caption(text: str | None, entities: Sequence[Mapping[str, object]]) -> Content:
    """The text below attachments; an empty one is none.

    Raises:
        message_empty: it is white space alone.
        caption_too_long: over 1,024 UTF-16 code units.
        entities_invalid: the entities do not fit the text.
    """
    text = text or ""
    if text.isspace():
        raise MessageEmpty(errors=[FieldError("text", "must not be white space alone")])
    if utf16_length(text) > MAX_CAPTION_LENGTH:
        message = f"must have at most {MAX_CAPTION_LENGTH} UTF-16 code units below attachments"
        raise CaptionTooLong(errors=[FieldError("text", message)])
    return Content(text or None, render_entities(check_entities(text, entities)))


def seal_content(
    key: DataKey, message_id: MessageId, content: Content, *, encrypt: bool, revision: int = 0
) -> bytes:
    document: dict[str, object] = {"text": content.text}
    if content.entities:
        document["entities"] = content.entities
    if content.forward_name is not None:
        document["forward_name"] = content.forward_name
    return key.seal(
        orjson.dumps(document),
        table=_PLACE_TABLE,
        column=_PLACE_COLUMN,
        row_id=message_id,
        revision=revision,
        encrypt=encrypt,
    )


def find_content(key: DataKey, message_id: MessageId, body: bytes, revision: int) -> Content | None:
    """What `seal_content` was given last for this message; None: the body is another one, and the message
    counts as deleted.
    """
    try:
        plain = key.open(
            body,
            table=_PLACE_TABLE,
            column=_PLACE_COLUMN,
            row_id=message_id,
            revision=revision,
        )
    except CiphertextInvalid:
        return None
    document = cast("dict[str, object]", orjson.loads(plain))
    return Content(
        cast("str | None", document["text"]),
        cast("list[EntityDocument]", document.get("entities", [])),
        cast("str | None", document.get("forward_name")),
    )


def canonical_body(
    content: Content | None,
    *,
    reply_to_id: MessageId | None,
    forward_of: tuple[int, int] | None,
    attachments: Sequence[FileId] = (),
) -> bytes:
    """The bytes that stand for the body of a send: equal for a repeat of the same send, for no other.

    Args:
        content: what the sender wrote; None for a forward.
        reply_to_id: the message replied to.
        forward_of: (chat id, message id) of what is forwarded.
        attachments: the files, in their order. Without any, the bytes are those of a time before files.
    """
    body: dict[str, object] = {
        "entities": content.entities if content else (),
        "forward": forward_of,
        "reply_to": reply_to_id,
        "text": content.text if content else None,
    }
    if attachments:
        body["attachments"] = attachments
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
