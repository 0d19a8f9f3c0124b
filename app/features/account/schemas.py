"""The document of `GET /users/me/export`. Its `format` rises when a member changes its meaning."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.features.auth.schemas import TwoStep
from app.features.files.schemas import File
from app.features.users.schemas import Me, PrivacySettings

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class ExportedContact(BaseModel):
    """Under the name that I saved."""

    user_id: int
    first_name: str
    last_name: str | None
    added_at: Time


class ExportedBlock(BaseModel):
    user_id: int
    blocked_at: Time


class ExportedLookups(BaseModel):
    """How many phone numbers I asked about on a day; which they were is not kept."""

    date: str
    numbers_count: int


class ExportedSession(BaseModel):
    id: int
    kind: str
    device_name: str | None
    place: str | None
    created_at: Time
    last_used_at: Time
    ended_at: Time | None


class ExportedChat(BaseModel):
    """A membership; of a chat that I am not in any more only that I was in it."""

    chat_id: int
    type: str
    title: str | None
    peer_id: int | None
    role: str
    joined_at: Time
    last_read_message_id: int | None
    is_pinned: bool
    is_archived: bool
    muted_until: Time | None


class ExportedMessage(BaseModel):
    """A message of mine. `first_written_at`: it is a forward, of a message of that time."""

    id: int
    chat_id: int
    type: str
    text: str | None
    entities: list[dict[str, Any]]
    attachments: list[File]
    reply_to_message_id: int | None
    first_written_at: Time | None
    created_at: Time
    edited_at: Time | None


class ExportedFile(File):
    """A file of mine; its bytes are read at its `url`, until the account is deleted."""

    created_at: Time


class ExportedUpload(BaseModel):
    """A resumable upload of mine that has not expired. `offset` and `length` in bytes."""

    state: str
    original_name: str | None
    offset: int
    length: int | None
    created_at: Time
    expires_at: Time


class ExportedEvent(BaseModel):
    """A security event of my account. `personal`: the address and the device's name."""

    name: str
    at: Time
    count: int
    session_id: int | None
    details: dict[str, Any]
    personal: dict[str, Any]


class ExportedAttempt(BaseModel):
    """That somebody, perhaps I, asked for a code for my number or entered a wrong one."""

    name: str
    at: Time
    count: int
    place: str | None


class AccountExport(BaseModel):
    format: Literal[1]
    exported_at: Time
    profile: Me
    privacy: PrivacySettings
    two_step: TwoStep
    sign_in_attempts: list[ExportedAttempt]
    contacts: list[ExportedContact]
    blocked: list[ExportedBlock]
    lookups: list[ExportedLookups]
    sessions: list[ExportedSession]
    chats: list[ExportedChat]
    messages: list[ExportedMessage]
    files: list[ExportedFile]
    uploads: list[ExportedUpload]
    events: list[ExportedEvent]
