"""Wire models of people, contacts, blocks and privacy."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.features.files.schemas import Photo
from app.features.users.import_contacts import MAX_ENTRIES
from app.features.users.update_profile import LANGUAGE_PATTERN, MAX_BIO_LENGTH
from app.kernel.phones import MAX_SPELLING_LENGTH
from app.kernel.text import MAX_NAME_LENGTH
from app.transport.http.fields import FileIdField, StrictModel, TextLength

FirstName = Annotated[str, TextLength(1, MAX_NAME_LENGTH)]
LastName = Annotated[str, TextLength(0, MAX_NAME_LENGTH)]
AudienceWord = Literal["everyone", "contacts", "nobody"]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def _keep() -> Literal["everyone"]:
    return "everyone"


# Stand for a member that may be absent and is never null: a factory leaves no default in the
# schema, and only members that were sent are read.
_ABSENT: str = Field(default_factory=str)
_UNCHANGED: AudienceWord = Field(default_factory=_keep)


class UpdateMe(StrictModel):
    """Any subset; what is absent stays as it is."""

    first_name: FirstName = _ABSENT
    last_name: LastName | None = None
    bio: Annotated[str, TextLength(0, MAX_BIO_LENGTH)] | None = None
    username: (
        Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{4,31}$", description="Null frees it.")]
        | None
    ) = None
    language: Annotated[str, Field(pattern=LANGUAGE_PATTERN)] | None = None
    photo: (
        Annotated[
            FileIdField,
            Field(description="An upload of mine, of type `photo`. Null removes what is shown."),
        ]
        | None
    ) = None


class ContactEntry(StrictModel):
    phone: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_SPELLING_LENGTH,
            description="Any spelling; without a country code as dialled where I am registered.",
        ),
    ]
    first_name: FirstName
    last_name: LastName | None = None


class ImportContacts(StrictModel):
    contacts: Annotated[list[ContactEntry], Field(max_length=MAX_ENTRIES)]


class UpdatePrivacy(StrictModel):
    """Any subset; what is absent stays as it is."""

    phone: AudienceWord = _UNCHANGED
    last_seen: AudienceWord = _UNCHANGED
    photo: AudienceWord = _UNCHANGED
    find_by_phone: AudienceWord = _UNCHANGED
    add_to_groups: AudienceWord = _UNCHANGED
    call: AudienceWord = _UNCHANGED


class PrivacySettings(BaseModel):
    """`contacts` are those whom I keep as contacts."""

    phone: AudienceWord
    last_seen: AudienceWord
    photo: AudienceWord
    find_by_phone: AudienceWord
    add_to_groups: AudienceWord
    call: AudienceWord


class Me(BaseModel):
    id: int
    phone: Annotated[
        str | None, Field(description="E.164; null only where its key is lost, and so the number")
    ]
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    photo: Photo | None
    language: str | None
    created_at: Time


class Presence(BaseModel):
    online: bool
    last_seen_at: Annotated[Time, Field(description="Absent where I may not know.")] = _ABSENT


class User(BaseModel):
    id: int
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    photo: Annotated[Photo | None, Field(description="Null too where I may not see it.")]
    phone: Annotated[str, Field(description="E.164; only where its owner allows")] = _ABSENT
    is_contact: bool
    is_blocked: bool
    is_deleted: Annotated[bool, Field(description="There only when it is true.")] = False
    presence: Presence


class SavedName(BaseModel):
    first_name: str
    last_name: str | None
    added_at: Time


class ContactUser(User):
    contact: Annotated[SavedName, Field(description="The name under which I keep this user.")]


class BlockedUser(User):
    blocked_at: Time


class UserPage(BaseModel):
    items: list[User]
    next_cursor: None


class ContactPage(BaseModel):
    items: list[ContactUser]
    next_cursor: str | None


class BlockedPage(BaseModel):
    items: list[BlockedUser]
    next_cursor: str | None


class ImportedContacts(BaseModel):
    items: list[ContactUser]
    not_found_count: Annotated[
        int, Field(description="Entries without an account, hidden ones and unreadable numbers.")
    ]
