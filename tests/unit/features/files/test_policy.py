"""The rules of files as tables: what an upload becomes, and what a browser may do with it."""

import pytest

from app.features.files import policy
from app.features.files.errors import PhotoInvalid, QuotaExceeded, VoiceInvalid
from app.features.files.policy import OCTETS, FileType, Purpose
from app.infra.media.detect import Detected

PHOTO = Detected("photo", "image/png", ".png", "PNG")
SOUND = Detected("audio", "audio/mpeg", ".mp3", "mp3", may_be_voice=True)
SONG = Detected("audio", "audio/mpeg", ".mp3", "mp3")
FILM = Detected("video", "video/mp4", ".mp4", "mp4")
PAGE = Detected("document", "text/html", ".html")
RAW = Detected("document", "image/heic", ".heic", is_raw_photo=True)


@pytest.mark.parametrize(
    ("detected", "purpose", "expected"),
    [
        (PHOTO, Purpose.ATTACHMENT, FileType.PHOTO),
        (FILM, Purpose.ATTACHMENT, FileType.VIDEO),
        (SOUND, Purpose.ATTACHMENT, FileType.AUDIO),
        (PAGE, Purpose.ATTACHMENT, FileType.DOCUMENT),
        (PHOTO, Purpose.DOCUMENT, FileType.DOCUMENT),
        (RAW, Purpose.DOCUMENT, FileType.DOCUMENT),
        (SOUND, Purpose.DOCUMENT, FileType.DOCUMENT),
        (PHOTO, Purpose.PHOTO, FileType.PHOTO),
        (SOUND, Purpose.VOICE, FileType.VOICE),
    ],
)
def test_the_bytes_and_the_purpose_decide_what_it_is(
    detected: Detected, purpose: Purpose, expected: FileType
) -> None:
    assert policy.choose_type(detected, purpose) is expected


@pytest.mark.parametrize("detected", [SOUND, FILM, PAGE])
def test_what_is_no_photo_becomes_none(detected: Detected) -> None:
    with pytest.raises(PhotoInvalid) as refused:
        policy.choose_type(detected, Purpose.PHOTO)
    [fault] = refused.value.errors
    assert fault.field == "file"
    assert fault.message.startswith("must be a sound JPEG")


@pytest.mark.parametrize("purpose", [Purpose.ATTACHMENT, Purpose.PHOTO])
def test_a_photo_that_cannot_be_made_anew_is_a_document_or_nothing(purpose: Purpose) -> None:
    with pytest.raises(PhotoInvalid) as refused:
        policy.choose_type(RAW, purpose)
    [fault] = refused.value.errors
    assert "`purpose=document` keeps any file as it is" in fault.message


@pytest.mark.parametrize("detected", [PHOTO, FILM, PAGE, SONG, RAW])
def test_what_can_hold_more_than_sound_is_no_voice(detected: Detected) -> None:
    with pytest.raises(VoiceInvalid) as refused:
        policy.choose_type(detected, Purpose.VOICE)
    [fault] = refused.value.errors
    assert (fault.field, fault.message) == ("file", "must be a recording of sound alone")


@pytest.mark.parametrize("file_type", list(FileType))
def test_what_plays_is_looked_into(file_type: FileType) -> None:
    plays = {FileType.VIDEO, FileType.AUDIO, FileType.VOICE}
    assert policy.is_looked_into(file_type) == (file_type in plays)


@pytest.mark.parametrize(
    ("file_type", "mime_type", "expected"),
    [
        ("photo", "image/png", ("image/png", True)),
        ("video", "video/mp4", ("video/mp4", True)),
        ("voice", "audio/ogg", ("audio/ogg", True)),
        # Whatever it says it is: what could run is only ever saved.
        ("photo", "image/svg+xml", (OCTETS, False)),
        ("photo", "text/html", (OCTETS, False)),
        ("document", "image/png", (OCTETS, False)),
        ("document", "text/html", (OCTETS, False)),
        ("document", "application/pdf", (OCTETS, False)),
    ],
)
def test_a_browser_shows_what_it_never_runs_and_nothing_else(
    file_type: str, mime_type: str, expected: tuple[str, bool]
) -> None:
    assert policy.served_type(file_type, mime_type) == expected


def test_the_name_of_a_document_ends_in_nothing() -> None:
    assert policy.extension_of(PHOTO, FileType.PHOTO) == ".png"
    assert policy.extension_of(SOUND, FileType.VOICE) == ".mp3"
    assert policy.extension_of(PAGE, FileType.DOCUMENT) == ""
    assert policy.extension_of(PHOTO, FileType.DOCUMENT) == ""


@pytest.mark.parametrize(("size", "used", "quota"), [(1, 0, 1), (5, 5, 10), (0, 10, 10)])
def test_a_quota_is_filled_to_its_last_byte(size: int, used: int, quota: int) -> None:
    policy.require_fit(size, used=used, quota=quota)
    with pytest.raises(QuotaExceeded) as caught:
        policy.require_fit(size + 1, used=used, quota=quota)
    assert caught.value.members == {"quota_bytes": quota, "used_bytes": used}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Purpose.ATTACHMENT),
        ({"other": "voice"}, Purpose.ATTACHMENT),
        *(({"purpose": str(it)}, it) for it in Purpose),
        ({"purpose": ""}, None),
        ({"purpose": "Photo"}, None),
        ({"purpose": "script"}, None),
    ],
)
def test_a_purpose_is_a_known_word(fields: dict[str, str], expected: Purpose | None) -> None:
    assert policy.parse_purpose(fields) == expected
