"""The tracks of an MP4, wherever its list of them lies; and how little is read for it, whatever the file says."""

import pytest

from app.infra.media.detect import HEAD_BYTES, detect, settle_tracks
from app.infra.media.port import MediaSource
from app.infra.media.tracks import find_track_kinds
from tests.support.media import sound, tracks_last, video
from tests.unit.infra.media.sources import Bytes, Spread

pytestmark = pytest.mark.anyio

MIB = 1_048_576
FTYP = b"\0\0\0\x10ftypmp42\0\0\0\0"
MOST = 64 * 4096


def box(name: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return (8 + len(content)).to_bytes(4, "big") + name + content


def track(kind: bytes, *, samples: int = 0) -> bytes:
    """As recorders write one: the table of its samples behind the name of its kind."""
    handler = box(b"hdlr", bytes(8), kind, bytes(12))
    return box(
        b"trak", box(b"tkhd", bytes(84)), box(b"mdia", handler, box(b"minf", bytes(samples)))
    )


def head_of(size: int) -> bytes:
    """Of a box with so many bytes, its length in the long form."""
    return b"\0\0\0\x01mdat" + (16 + size).to_bytes(8, "big")


SOURCES = {
    "film": (Bytes(video()), {b"vide"}),
    "film with sound": (Bytes(video(audio="aac")), {b"vide", b"soun"}),
    "film of pieces": (Bytes(video(options={"movflags": "frag_keyframe+empty_moov"})), {b"vide"}),
    "sound": (Bytes(sound(container="mp4", codec="aac")), {b"soun"}),
    "sound of a recorder": (Bytes(tracks_last(sound(container="mp4", codec="aac"))), {b"soun"}),
    "a film of 5 GiB": (
        Spread(FTYP + head_of(5 << 30), 5 << 30, box(b"moov", track(b"soun"), track(b"vide"))),
        {b"soun", b"vide"},
    ),
    "long tables": (
        Bytes(FTYP + box(b"moov", track(b"soun", samples=3 * MIB), track(b"vide"))),
        {b"soun", b"vide"},
    ),
    "up to the end": (Bytes(FTYP + b"\0\0\0\0moov" + track(b"soun")), {b"soun"}),
    "cut off": (Bytes((FTYP + box(b"moov", track(b"soun"), bytes(99)))[:-50]), {b"soun"}),
    "a list within the samples": (
        Bytes(FTYP + box(b"mdat", box(b"moov", track(b"soun"))) + box(b"moov", track(b"vide"))),
        {b"vide"},
    ),
    "no list": (Bytes(FTYP + box(b"mdat", bytes(99))), set[bytes]()),
    "nothing": (Bytes(b""), set[bytes]()),
    "a box without length": (Bytes(FTYP + b"\0\0\0\x04moov" + track(b"soun")), set[bytes]()),
    "a box in itself": (Bytes(FTYP + b"\0\0\0\x01moov" + bytes(8) + track(b"soun")), set[bytes]()),
}


@pytest.mark.parametrize("name", SOURCES)
async def test_tracks_are_found_wherever_they_are_listed(name: str) -> None:
    source, expected = SOURCES[name]
    source.read_bytes = 0
    assert await find_track_kinds(source) == expected
    assert source.read_bytes <= MOST


HOSTILE: dict[str, MediaSource] = {
    "empty boxes": Bytes(FTYP + b"\0\0\0\x08free" * MIB),
    "boxes far apart": Bytes(FTYP + box(b"free", bytes(5000)) * 500),
    "tracks without end": Bytes(FTYP + box(b"moov", track(b"soun", samples=5000) * 500)),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_file_that_leads_nowhere_is_left_soon(name: str) -> None:
    source = HOSTILE[name]
    assert isinstance(source, Bytes)
    source.read_bytes = 0
    assert await find_track_kinds(source) == frozenset()
    assert source.read_bytes <= MOST


@pytest.mark.parametrize(
    ("brand", "kinds", "expected"),
    [
        (b"mp42", {b"soun"}, ("audio", "audio/mp4", True)),
        (b"3gp5", {b"soun"}, ("audio", "audio/mp4", True)),
        (b"M4A ", {b"soun"}, ("audio", "audio/mp4", True)),
        (b"mp42", {b"soun", b"vide"}, ("video", "video/mp4", False)),
        (b"3gp5", {b"vide"}, ("video", "video/3gpp", False)),
        (b"M4A ", {b"soun", b"vide"}, ("audio", "audio/mp4", False)),
        (b"mp42", set[bytes](), ("video", "video/mp4", False)),
    ],
)
def test_the_tracks_decide_between_film_and_sound(
    brand: bytes, kinds: set[bytes], expected: tuple[str, str, bool]
) -> None:
    settled = settle_tracks(b"\0\0\0\x18ftyp" + brand, kinds)
    assert (settled.file_type, settled.mime_type, settled.may_be_voice) == expected


def test_the_head_alone_leaves_a_recording_open() -> None:
    """Which is why the tracks are looked for."""
    detected = detect(tracks_last(sound(container="mp4", codec="aac"))[:HEAD_BYTES])
    assert (detected.file_type, detected.format) == ("video", "mp4")
