"""What a file is, decided from its first bytes alone: never from its name, never from what its sender says.

The signatures are those of the WHATWG's MIME Sniffing Standard and of the containers' own specifications. A
polyglot is what its decoder would take it for, and nothing is ever called a page, a script or a drawing
that runs in a browser: those are documents like any other.
"""

# ruff: noqa: PLR2004 - bits and lengths of the formats

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

HEAD_BYTES = 65_536
"""More is never looked at, but for the list of tracks of an MP4: see `tracks.py`."""

ISO_FORMAT: Final = "mp4"
"""The `format` of what `settle_tracks` is for."""

FileType = Literal["photo", "video", "audio", "document"]


@dataclass(frozen=True, slots=True)
class Detected:
    """`extension` begins with a dot, or is empty. `format` is what `MediaProcessor` asks its decoder for; ""
    for documents. An MP4 whose tracks the head does not show is a `video` until `settle_tracks` knows better.

    `may_be_voice`: it can hold sound alone, and nothing in the head says that it does not. `is_raw_photo`: a photo
    of a kind that cannot be encoded anew here, with all that its camera wrote into it.
    """

    file_type: FileType
    mime_type: str
    extension: str
    format: str = ""
    may_be_voice: bool = False
    is_raw_photo: bool = False


def _raw_photo(mime_type: str, extension: str) -> Detected:
    return Detected("document", mime_type, extension, is_raw_photo=True)


_UNKNOWN = Detected("document", "application/octet-stream", "")

_PNG = Detected("photo", "image/png", ".png", "PNG")
_JPEG = Detected("photo", "image/jpeg", ".jpg", "JPEG")
_GIF = Detected("photo", "image/gif", ".gif", "GIF")
_WEBP = Detected("photo", "image/webp", ".webp", "WEBP")

_MP4 = Detected("video", "video/mp4", ".mp4", ISO_FORMAT, may_be_voice=True)
_MOV = Detected("video", "video/quicktime", ".mov", "mov")
_M4A = Detected("audio", "audio/mp4", ".m4a", ISO_FORMAT, may_be_voice=True)
_3GP = Detected("video", "video/3gpp", ".3gp", ISO_FORMAT, may_be_voice=True)
_WEBM = Detected("video", "video/webm", ".webm", "webm")
_WEBM_SOUND = Detected("audio", "audio/webm", ".webm", "webm", may_be_voice=True)
_OGG_VIDEO = Detected("video", "video/ogg", ".ogv", "ogg")
_OGG = Detected("audio", "audio/ogg", ".ogg", "ogg", may_be_voice=True)
_MP3 = Detected("audio", "audio/mpeg", ".mp3", "mp3", may_be_voice=True)
_AAC = Detected("audio", "audio/aac", ".aac", "aac", may_be_voice=True)
_WAV = Detected("audio", "audio/wav", ".wav", "wav", may_be_voice=True)
_FLAC = Detected("audio", "audio/flac", ".flac", "flac", may_be_voice=True)

_ZIP = Detected("document", "application/zip", ".zip")

# What begins like this is known; all else is octets.
_SIGNATURES: Sequence[tuple[bytes, Detected]] = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"fLaC", _FLAC),
    (b"ID3", _MP3),
    (b"%PDF-", Detected("document", "application/pdf", ".pdf")),
    (b"{\\rtf", Detected("document", "application/rtf", ".rtf")),
    (b"\x1f\x8b\x08", Detected("document", "application/gzip", ".gz")),
    (b"7z\xbc\xaf\x27\x1c", Detected("document", "application/x-7z-compressed", ".7z")),
    (b"Rar!\x1a\x07", Detected("document", "application/vnd.rar", ".rar")),
    (b"BZh", Detected("document", "application/x-bzip2", ".bz2")),
    (b"\xfd7zXZ\x00", Detected("document", "application/x-xz", ".xz")),
    (b"\x28\xb5\x2f\xfd", Detected("document", "application/zstd", ".zst")),
    # And most raw formats of cameras.
    (b"II*\x00", _raw_photo("image/tiff", ".tiff")),
    (b"MM\x00*", _raw_photo("image/tiff", ".tiff")),
    (b"II+\x00", _raw_photo("image/tiff", ".tiff")),
    (b"MM\x00+", _raw_photo("image/tiff", ".tiff")),
    (b"IIRO", _raw_photo("image/x-olympus-orf", ".orf")),
    (b"IIRS", _raw_photo("image/x-olympus-orf", ".orf")),
    (b"IIU\x00", _raw_photo("image/x-panasonic-rw2", ".rw2")),
    (b"FUJIFILMCCD-RAW", _raw_photo("image/x-fuji-raf", ".raf")),
    (b"\0MRM", _raw_photo("image/x-minolta-mrw", ".mrw")),
    (b"FOVb", _raw_photo("image/x-sigma-x3f", ".x3f")),
    (b"II\x1a\0\0\0HEAPCCDR", _raw_photo("image/x-canon-crw", ".crw")),
    (b"MM\0\0\0\x1aHEAPCCDR", _raw_photo("image/x-canon-crw", ".crw")),
    (b"II\xbc\x01", _raw_photo("image/jxr", ".jxr")),
    # Of JPEG XL and JPEG 2000 the container, and the pixels alone.
    (b"\0\0\0\x0cJXL \r\n\x87\n", _raw_photo("image/jxl", ".jxl")),
    (b"\xff\n", _raw_photo("image/jxl", ".jxl")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _raw_photo("image/jp2", ".jp2")),
    (b"\xff\x4f\xff\x51", _raw_photo("image/jp2", ".j2c")),
    (b"8BPS\x00\x01", Detected("document", "image/vnd.adobe.photoshop", ".psd")),
    (b"#!AMR", Detected("document", "audio/amr", ".amr")),
)

_HEIF = _raw_photo("image/heif", ".heif")
# The brands of ISO/IEC 14496-12 that say what is inside; others are films.
_BRANDS = {b"qt  ": _MOV, b"M4A ": _M4A, b"M4B ": _M4A}
# Of pictures (ISO/IEC 23008-12), also where they stand behind another brand, as what the file may be read as too.
_PICTURE_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), _raw_photo("image/heic", ".heic")),
    **dict.fromkeys((b"avif", b"avis", b"avio"), _raw_photo("image/avif", ".avif")),
    b"crx ": _raw_photo("image/x-canon-cr3", ".cr3"),
    # Of any codec; and of AVC, VVC, JPEG and JPEG 2000.
    **dict.fromkeys((b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic"), _HEIF),
    **dict.fromkeys((b"avci", b"avcs", b"vvic", b"vvis", b"jpeg", b"jpgs"), _HEIF),
    **dict.fromkeys((b"j2ki", b"j2is"), _HEIF),
}
# Of moving ones: in front alone, for films may be read as these.
_SEQUENCE_BRANDS = dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), _PICTURE_BRANDS[b"heic"])
# A QuickTime film of before brands begins with one of these.
_OLD_ATOMS = (b"moov", b"mdat", b"wide")

_OFFICE = "application/vnd.openxmlformats-officedocument."
# By the name of the first members of the archive.
_ARCHIVES: Sequence[tuple[bytes, Detected]] = (
    (b"word/", Detected("document", f"{_OFFICE}wordprocessingml.document", ".docx")),
    (b"xl/", Detected("document", f"{_OFFICE}spreadsheetml.sheet", ".xlsx")),
    (b"ppt/", Detected("document", f"{_OFFICE}presentationml.presentation", ".pptx")),
    (
        b"AndroidManifest.xml",
        Detected("document", "application/vnd.android.package-archive", ".apk"),
    ),
)
# OpenDocument and EPUB begin with a member `mimetype`, stored as it is, whose content is one of these.
_DECLARED = {
    b"application/epub+zip": ".epub",
    b"application/vnd.oasis.opendocument.text": ".odt",
    b"application/vnd.oasis.opendocument.spreadsheet": ".ods",
    b"application/vnd.oasis.opendocument.presentation": ".odp",
}
_MAX_MEMBERS = 100

# kbit/s and Hz of MPEG audio layer III, by the header's numbers (ISO/IEC 11172-3, 13818-3).
_MP3_RATES = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_SAMPLING = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}


def detect(head: bytes) -> Detected:
    """Decide from the first `HEAD_BYTES` of a file."""
    head = head[:HEAD_BYTES]
    for signature, detected in _SIGNATURES:
        if head.startswith(signature):
            return detected
    for look in _LOOKS:
        found = look(head)
        if found is not None:
            return found
    return _UNKNOWN


def _look_for_riff(head: bytes) -> Detected | None:
    if not head.startswith(b"RIFF"):
        return None
    match head[8:12]:
        case b"WEBP":
            return _WEBP
        case b"WAVE":
            return _WAV
        case b"AVI ":
            return Detected("document", "video/x-msvideo", ".avi")
        case _:
            return None


def _look_for_iso_media(head: bytes) -> Detected | None:
    kind = head[4:8]
    if kind in _OLD_ATOMS:
        return _MOV
    if kind != b"ftyp":
        return None
    detected = _find_brand(head)
    if detected not in {_MP4, _3GP}:
        return detected
    end = head.find(b"moov")
    if end < 4 or int.from_bytes(head[end - 4 : end], "big") + end - 4 > len(head):
        return detected
    return settle_tracks(head, {head[at + 12 : at + 16] for at in _find_all(head, b"hdlr")})


def _find_brand(head: bytes) -> Detected:
    major, compatible = _list_brands(head)
    if major in _SEQUENCE_BRANDS:
        return _SEQUENCE_BRANDS[major]
    found = [_PICTURE_BRANDS[it] for it in (major, *compatible) if it in _PICTURE_BRANDS]
    if found:
        return next((it for it in found if it is not _HEIF), _HEIF)
    return _3GP if major.startswith(b"3g") else _BRANDS.get(major, _MP4)


def _list_brands(head: bytes) -> tuple[bytes, Sequence[bytes]]:
    """Of the first box: the one that it is written for, and those that it can be read as."""
    size = int.from_bytes(head[:4], "big")
    # A size of 1 stands for one of 64 bits behind the name, 0 for all that follows.
    start, end = (16, int.from_bytes(head[8:16], "big")) if size == 1 else (8, size or len(head))
    places = range(start + 8, min(end, len(head)) - 3, 4)
    return head[start : start + 4], [head[at : at + 4] for at in places]


def settle_tracks(head: bytes, kinds: Collection[bytes]) -> Detected:
    """What an MP4 is that begins like this and has tracks of these kinds: a recorder of sound writes a film without
    pictures. One whose brand says that it is sound may have pictures for its chapters.
    """
    detected = _find_brand(head)
    if b"soun" in kinds and b"vide" not in kinds:
        return _M4A
    return replace(detected, may_be_voice=False)


def _find_all(head: bytes, word: bytes) -> list[int]:
    places: list[int] = []
    at = head.find(word)
    while at >= 0 and len(places) < _MAX_MEMBERS:
        places.append(at)
        at = head.find(word, at + len(word))
    return places


def _look_for_ebml(head: bytes) -> Detected | None:
    """Matroska (RFC 9559). The head of what browsers record holds the list of its tracks."""
    if not head.startswith(b"\x1aE\xdf\xa3"):
        return None
    if b"webm" not in head[:64]:
        return Detected("document", "video/x-matroska", ".mkv")
    if any(codec in head for codec in (b"V_VP8", b"V_VP9", b"V_AV1")):
        return Detected("video", "video/webm", ".webm", "webm")
    return _WEBM_SOUND if b"A_OPUS" in head or b"A_VORBIS" in head else _WEBM


def _look_for_ogg(head: bytes) -> Detected | None:
    """Every stream of an Ogg file begins before any goes on (RFC 3533), so the head names them all."""
    if not head.startswith(b"OggS\x00\x02"):
        return None
    if any(word in head[:4096] for word in (b"\x80theora", b"OVP80", b"\x01video")):
        return _OGG_VIDEO
    if b"OpusHead" in head[:4096]:
        return Detected("audio", "audio/ogg", ".opus", "ogg", may_be_voice=True)
    return _OGG


def _look_for_mpeg_audio(head: bytes) -> Detected | None:
    """Two frames in a row: one alone is eleven bits, which any file may begin with."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    length = _adts_length(head)
    if length and _adts_length(head[length:]):
        return _AAC
    length = _mp3_length(head)
    return _MP3 if length and _mp3_length(head[length:]) else None


def _mp3_length(head: bytes) -> int:
    """The bytes of a layer III frame that begins here; 0: none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, sampling = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or rate in {0, 15} or sampling == 3:
        return 0
    kilobits = _MP3_RATES[3 if version == 3 else 2][rate - 1]
    samples = 144_000 if version == 3 else 72_000
    return samples * kilobits // _MP3_SAMPLING[version][sampling] + (head[2] >> 1 & 1)


def _adts_length(head: bytes) -> int:
    """The bytes of an ADTS frame (ISO/IEC 13818-7) that begins here; 0: none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    length: int = struct.unpack_from(">I", head, 3)[0] >> 13 & 0x1FFF
    return length if length >= 7 else 0


def _look_for_zip(head: bytes) -> Detected | None:
    if not head.startswith(b"PK\x03\x04"):
        return None
    if head[30:38] == b"mimetype":
        declared = head[38:102].split(b"PK", 1)[0]
        extension = _DECLARED.get(declared)
        return Detected("document", declared.decode(), extension) if extension else _ZIP
    for at in _find_all(head, b"PK\x03\x04"):
        for name, detected in _ARCHIVES:
            if head.startswith(name, at + 30):
                return detected
    return _ZIP


_LOOKS: Sequence[Callable[[bytes], Detected | None]] = (
    _look_for_riff,
    _look_for_iso_media,
    _look_for_ebml,
    _look_for_ogg,
    _look_for_mpeg_audio,
    _look_for_zip,
)
