"""What an upload is for, what becomes of it by that, and what a browser may do with it. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.features.files.errors import PhotoInvalid, QuotaExceeded, VoiceInvalid
from app.infra.media.detect import Detected
from app.kernel.problems import FieldError


class FileType(StrEnum):
    """As in the URL, and as the messages that show it are called."""

    PHOTO = "photo"
    VIDEO = "video"
    AUDIO = "audio"
    VOICE = "voice"
    DOCUMENT = "document"


class Purpose(StrEnum):
    """Said by the uploader; what the bytes are is decided from them all the same."""

    ATTACHMENT = "attachment"
    """Whatever its bytes are, but no photo that would stay as its camera wrote it."""
    DOCUMENT = "document"
    """Kept as it was sent, with all that a photo may tell about place and camera."""
    VOICE = "voice"
    PHOTO = "photo"
    """A sound photo or nothing: for people and chats."""


class State(StrEnum):
    PROCESSING = "processing"
    """Readable; what is in it is not known yet."""
    READY = "ready"


# What browsers show or play and never run (WHATWG MIME Sniffing); everything else is only ever saved.
_SHOWN: Final = frozenset(
    {
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "video/3gpp",
        "video/mp4",
        "video/ogg",
        "video/quicktime",
        "video/webm",
    }
)
OCTETS: Final = "application/octet-stream"


def choose_type(detected: Detected, purpose: Purpose) -> FileType:
    """Raises:
    PhotoInvalid: photo_invalid
    VoiceInvalid: voice_invalid
    """
    found = FileType(detected.file_type)
    match purpose:
        case Purpose.DOCUMENT:
            return FileType.DOCUMENT
        case Purpose.PHOTO:
            if found is not FileType.PHOTO:
                raise photo_invalid()
            return found
        case Purpose.VOICE:
            if not detected.may_be_voice:
                fault = FieldError("file", "must be a recording of sound alone")
                raise VoiceInvalid(errors=[fault])
            return FileType.VOICE
        case Purpose.ATTACHMENT:
            if detected.is_raw_photo:
                # Kept as it came it may tell where it was taken.
                raise photo_invalid()
            return found


def photo_invalid() -> PhotoInvalid:
    rule = "must be a sound JPEG, PNG, WebP or GIF of at most 40 megapixels and 64 MiB"
    fault = FieldError("file", f"{rule}; `purpose=document` keeps any file as it is")
    return PhotoInvalid(errors=[fault])


def is_looked_into(file_type: FileType) -> bool:
    """Whether a job finds out how long it is and what it looks like."""
    return file_type in {FileType.VIDEO, FileType.AUDIO, FileType.VOICE}


def served_type(file_type: str, mime_type: str) -> tuple[str, bool]:
    """The `Content-Type`, and whether it may be shown in the place where it is linked."""
    is_shown = file_type != FileType.DOCUMENT and mime_type in _SHOWN
    return (mime_type if is_shown else OCTETS), is_shown


def extension_of(detected: Detected, file_type: FileType) -> str:
    """The end of the server's own name: of what is shown, the type's; else none."""
    return detected.extension if file_type is not FileType.DOCUMENT else ""


def require_fit(size: int, *, used: int, quota: int) -> None:
    """`size` more, in bytes of the storage.

    Raises:
        QuotaExceeded: quota_exceeded
    """
    if used + size > quota:
        raise QuotaExceeded(quota_bytes=quota, used_bytes=used)


def parse_purpose(fields: Mapping[str, str]) -> Purpose | None:
    """Of a form; None: a word that is not known."""
    word = fields.get("purpose", Purpose.ATTACHMENT)
    return Purpose(word) if word in set(Purpose) else None
