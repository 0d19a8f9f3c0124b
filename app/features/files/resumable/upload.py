"""A resumable upload, its parts, and what they are sealed with."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.infra.cipher.envelope import DataKey
from app.infra.services import Services
from app.kernel.ids import FileId, UploadId, UserId

RECEIVING: Final = "receiving"
FINISHING: Final = "finishing"
FINISHED: Final = "finished"
FAILED: Final = "failed"

# Whoever makes a file of an upload has it to himself for so long, and renews it while he is at it.
FINISH_LEASE: Final = timedelta(seconds=15)
_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Upload:
    """As `UploadRow`."""

    id: UploadId
    owner_id: UserId
    token: str
    state: str
    length: int | None
    received: int
    parts_count: int
    details: bytes
    file_id: FileId | None
    failure: str | None
    created_at: datetime
    expires_at: datetime
    setbacks: int


@dataclass(frozen=True, slots=True)
class Part:
    """As `UploadPartRow`: `size` bytes of the upload from `position` on."""

    position: int
    size: int
    object_name: str
    chunk_size: int


def make_token() -> str:
    """The name of an upload on the wire: nobody guesses it, and nobody else may use it."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def upload_key(upload_id: UploadId) -> str:
    """The owner's name of what seals the parts."""
    return f"upload:{upload_id}"


def lifetime(services: Services) -> timedelta:
    """How long an upload waits for its next part, and is told of when it has become a file."""
    return timedelta(hours=services.settings.files.upload_hours)


def seal_metadata(key: DataKey, upload_id: UploadId, raw: str) -> bytes:
    """`key`: the owner's own, for it is told of when the key of the parts is gone."""
    return key.seal_text(raw, table="uploads", column="details", row_id=upload_id)


def find_metadata(key: DataKey, upload: Upload) -> str | None:
    """None: it does not open, so nobody knows what this was to be."""
    return key.find_text(upload.details, table="uploads", column="details", row_id=upload.id)
