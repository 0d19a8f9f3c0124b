"""Wire models of messages."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.features.files.schemas import File
from app.features.messages.content import MAX_CAPTION_LENGTH, MAX_TEXT_LENGTH
from app.features.messages.policy import MAX_ATTACHMENTS
from app.kernel.entities import MAX_ENTITIES, MAX_URL_LENGTH
from app.transport.http.fields import (
    ChatIdField,
    ClientMessageId,
    FileIdField,
    MessageIdField,
    StrictModel,
    UserIdField,
)

MAX_FORWARDED = 100

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
# The length is checked by the use case, which has a code of its own for it.
Text = Annotated[
    str,
    Field(
        description=(
            f"1 to {MAX_TEXT_LENGTH} UTF-16 code units, not only white space; kept as sent. With attachments"
            f" it is their caption: up to {MAX_CAPTION_LENGTH}, and may be empty."
        ),
        json_schema_extra={"maxLength": MAX_TEXT_LENGTH, "pattern": r"^$|\S"},
    ),
]
EntityTypeWord = Literal[
    "mention",
    "hashtag",
    "cashtag",
    "bot_command",
    "url",
    "email",
    "phone_number",
    "bold",
    "italic",
    "underline",
    "strikethrough",
    "spoiler",
    "blockquote",
    "expandable_blockquote",
    "code",
    "pre",
    "text_link",
    "text_mention",
]
MessageTypeWord = Literal["text", "photo", "video", "audio", "voice", "document", "service"]
ServiceActionWord = Literal[
    "group_created",
    "members_added",
    "member_joined",
    "member_left",
    "member_removed",
    "title_changed",
    "owner_changed",
    "photo_changed",
    "photo_removed",
]


class EntityInput(StrictModel):
    """A marked part of the text, in UTF-16 code units. `url` belongs to `text_link`, `user_id` to
    `text_mention`, `language` to `pre`.
    """

    type: EntityTypeWord
    offset: Annotated[int, Field(ge=0, le=MAX_TEXT_LENGTH)]
    length: Annotated[int, Field(ge=1, le=MAX_TEXT_LENGTH)]
    url: Annotated[str, Field(min_length=1, max_length=MAX_URL_LENGTH)] | None = None
    user_id: UserIdField | None = None
    language: Annotated[str, Field(min_length=1, max_length=64)] | None = None


Entities = Annotated[list[EntityInput], Field(max_length=MAX_ENTITIES)]


class ForwardInput(StrictModel):
    """Messages of a chat that I can read, each once, in the order in which they are to appear."""

    chat_id: ChatIdField
    message_ids: Annotated[list[MessageIdField], Field(min_length=1, max_length=MAX_FORWARDED)]
    client_message_ids: (
        Annotated[
            list[ClientMessageId],
            Field(
                min_length=1,
                max_length=MAX_FORWARDED,
                description="One for each of `message_ids`, in their order.",
            ),
        ]
        | None
    ) = None


Attachments = Annotated[
    list[FileIdField],
    Field(
        min_length=1,
        max_length=MAX_ATTACHMENTS,
        description=(
            "Files that I have uploaded, each once: photos and videos, or audio files, or documents, or"
            " one voice message."
        ),
        json_schema_extra={"uniqueItems": True},
    ),
]


class SendMessage(StrictModel):
    """Either `text` or `attachments`, perhaps with a caption as `text`, with `entities` and as a reply; or
    `forward_from`.
    """

    chat_id: ChatIdField
    text: Text | None = None
    entities: Entities | None = None
    attachments: Attachments | None = None
    reply_to_message_id: MessageIdField | None = None
    forward_from: ForwardInput | None = None
    client_message_id: ClientMessageId | None = None
    silent: Annotated[bool, Field(description="Receivers are notified without a sound.")] = False


class EditMessage(StrictModel):
    """Without `text` the old text gets the new `entities`; a new text without `entities` has none. An
    empty text takes a caption away.
    """

    text: Text | None = None
    entities: Entities | None = None


class MarkRead(StrictModel):
    message_id: MessageIdField


class ReadFrame(StrictModel):
    """I have seen the chat up to this message."""

    chat_id: ChatIdField
    message_id: MessageIdField


class TypingFrame(StrictModel):
    """What I am doing in the chat; `cancel` ends it, else it is over after a few seconds."""

    chat_id: ChatIdField
    action: Literal["typing", "recording_voice", "recording_video", "uploading_file", "cancel"] = (
        "typing"
    )


class Entity(BaseModel):
    type: EntityTypeWord
    offset: int
    length: int
    url: str | None = None
    user_id: int | None = None
    language: str | None = None


class UserSender(BaseModel):
    """A deleted account keeps its id and nothing else."""

    id: int
    first_name: str
    last_name: str | None
    username: str | None
    is_deleted: bool


class ChatSender(BaseModel):
    """Posts of a channel are the channel's own."""

    chat_id: int
    title: str | None


class ReplyTo(BaseModel):
    """Of a message that was deleted, or that I may not see, only the id."""

    message_id: int
    type: MessageTypeWord | None = None
    sender: UserSender | ChatSender | None = None
    text_excerpt: str | None = None


class ForwardFrom(BaseModel):
    """Where the text was first said. `chat_id` and `message_id` are there for public chats and for
    this chat itself alone; a channel that is not public is known by its title, `sender_name`.
    """

    date: Time
    sender: UserSender | ChatSender | None = None
    sender_name: str | None = None
    chat_id: int | None = None
    message_id: int | None = None


class ServiceEvent(BaseModel):
    """`sender` did `action`, to `user_ids`."""

    action: ServiceActionWord
    user_ids: list[int]


class Message(BaseModel):
    """The same for every viewer. With attachments `type` is that of the first, and `text` the caption, null
    without one. `service` is there for type `service` alone, `silent` (notify
    without a sound) only when it is true.
    """

    id: int
    chat_id: int
    sender: UserSender | ChatSender
    type: MessageTypeWord
    text: str | None
    entities: list[Entity]
    attachments: list[File]
    reply_to: ReplyTo | None
    forward_from: ForwardFrom | None
    client_message_id: str | None
    created_at: Time
    edited_at: Time | None
    is_pinned: bool
    reactions: list[dict[str, object]]
    silent: bool = False
    service: ServiceEvent | None = None


class DeletedMessage(BaseModel):
    """What is left of a message that was deleted for everyone."""

    id: int
    chat_id: int
    is_deleted: Literal[True]
    client_message_id: str | None = None


class MessageItems(BaseModel):
    """The answer to a forward of several, in their order."""

    items: list[Message | DeletedMessage]


class HistoryPage(BaseModel):
    """Newest first."""

    items: list[Message | DeletedMessage]
    has_more_before: bool
    has_more_after: bool
