"""Wire models of the chat list."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.features.chats.schemas import Chat, PermissionWord, RoleWord, Time
from app.features.messages.schemas import DeletedMessage, Message
from app.features.users.schemas import User
from app.transport.http.fields import Rfc3339, StrictModel


def _false() -> bool:
    return False


# Stands for a member that may be absent and is never null: a factory leaves no default in the
# schema, and only members that were sent are read.
_UNCHANGED: bool = Field(default_factory=_false)


class UpdateSettings(StrictModel):
    """Any subset; what is absent stays as it is. A past or null `muted_until` means: not muted."""

    is_pinned: bool = _UNCHANGED
    is_archived: bool = _UNCHANGED
    muted_until: Rfc3339 | None = None


class My(BaseModel):
    """What I am in the chat, and what I have set for myself."""

    role: RoleWord
    permissions: Annotated[list[PermissionWord], Field(description="What I may do.")]
    last_read_message_id: Annotated[int, Field(description="0: nothing yet.")]
    is_pinned: bool
    is_archived: bool
    muted_until: Time | None


class ChatItem(Chat):
    """A chat as I see it. `my` is null for a public chat that I am not in."""

    my: My | None
    peer: Annotated[User | None, Field(description="The other one of a private chat.")]
    unread_count: Annotated[int, Field(description="At most 1,000.")]
    unread_capped: Annotated[
        bool, Field(description="There, and true, if more than `unread_count` are unread.")
    ] = _UNCHANGED
    unread_mentions_count: int
    others_read_message_id: Annotated[
        int,
        Field(description="Somebody else has read up to here; 0 in channels and large groups."),
    ]
    last_message: Annotated[
        Message | DeletedMessage | None, Field(description="The newest one that I see.")
    ]


class ChatPage(BaseModel):
    items: list[ChatItem]
    next_cursor: str | None
