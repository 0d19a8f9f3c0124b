"""Wire models of chats, members and invites."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.features.chats.limits import (
    MAX_ADDED_AT_ONCE,
    MAX_DESCRIPTION_LENGTH,
    MAX_INVITE_USES,
    MAX_TITLE_LENGTH,
)
from app.features.files.schemas import Photo, PhotoOutline
from app.kernel.ids import MAX_ID, UserId
from app.transport.http.fields import FileIdField, Rfc3339, StrictModel, TextLength

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
ChatTypeWord = Literal["private", "group", "channel"]
RoleWord = Literal["owner", "admin", "member", "restricted", "left", "banned"]
PermissionWord = Literal[
    "send_messages",
    "send_media",
    "add_members",
    "pin_messages",
    "change_info",
    "delete_messages",
    "ban_members",
    "invite_users",
    "promote_members",
    "post_messages",
]
MemberPermissionWord = Literal[
    "send_messages", "send_media", "add_members", "pin_messages", "change_info"
]
MemberFilterWord = Literal["all", "admins", "restricted", "banned"]

Title = Annotated[str, TextLength(1, MAX_TITLE_LENGTH)]
Description = Annotated[str, TextLength(0, MAX_DESCRIPTION_LENGTH)]
Username = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{4,31}$")]
InviteCode = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# An id beyond those of users is one that never was: 404, like any other.
AnyUserId = Annotated[UserId, Field(ge=1, le=MAX_ID)]
PhotoField = Annotated[FileIdField, Field(description="An upload of mine, of type `photo`.")]
MemberIds = Annotated[list[AnyUserId], Field(max_length=MAX_ADDED_AT_ONCE)]


def _false() -> bool:
    return False


# Stand for a member that may be absent and is never null: a factory leaves no default in the
# schema, and only members that were sent are read.
_ABSENT: str = Field(default_factory=str)
_UNCHANGED: bool = Field(default_factory=_false)


class NewPrivateChat(StrictModel):
    """The chat with this user; with myself it is "Saved messages"."""

    type: Literal["private"]
    user_id: AnyUserId


class _NewSharedChat(StrictModel):
    title: Title
    description: Description | None = None
    username: Annotated[Username, Field(description="Makes the chat public.")] | None = None
    photo: PhotoField | None = None
    member_ids: Annotated[
        MemberIds,
        Field(default_factory=list, description="Whoever cannot be added by me is left out."),
    ]


class NewGroup(_NewSharedChat):
    type: Literal["group"]
    history_visible: (
        Annotated[
            bool,
            Field(
                description="Whether newcomers see what was before them; if absent, not "
                "in a private group. A public group always shows it."
            ),
        ]
        | None
    ) = None


class NewChannel(_NewSharedChat):
    """Only the owner and admins post; the history is always visible."""

    type: Literal["channel"]
    history_visible: Literal[True] | None = None


NewChat = Annotated[NewPrivateChat | NewGroup | NewChannel, Field(discriminator="type")]


class UpdateChat(StrictModel):
    """Any subset; what is absent stays as it is."""

    title: Title = _ABSENT
    description: Description | None = None
    username: (
        Annotated[
            Username,
            Field(description="Makes the chat public, for the owner alone. Null frees it."),
        ]
        | None
    ) = None
    permissions: Annotated[
        list[MemberPermissionWord],
        Field(
            default_factory=list, max_length=10, description="What plain members of a group may do."
        ),
    ]
    history_visible: bool = _UNCHANGED
    photo: (
        Annotated[PhotoField, Field(description="Null removes the one that is shown.")] | None
    ) = None


class AddMembers(StrictModel):
    user_ids: Annotated[list[AnyUserId], Field(min_length=1, max_length=MAX_ADDED_AT_ONCE)]


class ChangeMember(StrictModel):
    """`owner` hands the chat over. `left` puts out, or lifts a ban. `permissions` belong to `admin`
    (if absent: all mine but `promote_members`) and to `restricted` (what is left to them; if absent: nothing).
    """

    role: RoleWord
    permissions: Annotated[list[PermissionWord], Field(max_length=10)] | None = None
    until: (
        Annotated[Rfc3339, Field(description="End of `restricted` or `banned`; null: for ever.")]
        | None
    ) = None


class NewInvite(StrictModel):
    """A link without an end and without a limit, unless they are given."""

    expires_at: Rfc3339 | None = None
    max_uses: Annotated[int, Field(ge=1, le=MAX_INVITE_USES)] | None = None


class UserName(BaseModel):
    """A deleted account keeps its id and nothing else."""

    id: int
    first_name: str
    last_name: str | None
    username: str | None
    is_deleted: bool
    photo: Annotated[
        Photo | None, Field(description="Null too where I may not see it; not in updates.")
    ]


class Member(BaseModel):
    user: UserName
    role: RoleWord
    permissions: Annotated[list[PermissionWord], Field(description="What they may do.")]
    until: Annotated[Time | None, Field(description="End of a restriction or ban.")]
    joined_at: Time


class MemberPage(BaseModel):
    items: list[Member]
    next_cursor: str | None


class AddedMembers(BaseModel):
    items: Annotated[list[Member], Field(description="Those asked for who are in the chat now.")]
    not_added: Annotated[list[int], Field(description="The others, whatever the reason.")]


class Invite(BaseModel):
    code: str
    creator_id: int
    created_at: Time
    expires_at: Time | None
    max_uses: int | None
    uses: int


class InvitePage(BaseModel):
    items: list[Invite]
    next_cursor: str | None


class PreviewedChat(BaseModel):
    """As much of a chat as an invited person sees before joining."""

    id: int
    type: ChatTypeWord
    title: str | None
    description: str | None
    username: str | None
    photo: Annotated[
        Photo | PhotoOutline | None, Field(description="The outline until I may read it.")
    ]
    members_count: int


class InvitePreview(BaseModel):
    code: str
    expires_at: Time | None
    is_member: bool
    chat: PreviewedChat


class Chat(BaseModel):
    """The same for every viewer. `seq` is that of its newest update."""

    id: int
    type: ChatTypeWord
    title: str | None
    description: str | None
    username: str | None
    photo: Photo | None
    permissions: Annotated[list[PermissionWord], Field(description="What plain members may do.")]
    history_visible: bool
    members_count: int
    created_at: Time
    seq: int
