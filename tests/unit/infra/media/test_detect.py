"""Types by the first bytes alone."""

import io
import time
import zipfile

import pytest

from app.infra.media.detect import HEAD_BYTES, detect
from tests.support.media import animation, camera_photo, corners, encode, png, sound, video


def archive(*names: str, mimetype: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        if mimetype:
            made.writestr("mimetype", mimetype, zipfile.ZIP_STORED)
        for name in names:
            made.writestr(name, "content " * 20)
    return out.getvalue()


PAGE = b"<!DOCTYPE html><html><script>alert(1)</script></html>"

SHOWN = {
    "jpeg": (camera_photo, "photo", "image/jpeg", ".jpg"),
    "png": (lambda: encode(corners(), "PNG"), "photo", "image/png", ".png"),
    "webp": (lambda: encode(corners(), "WEBP"), "photo", "image/webp", ".webp"),
    "gif": (lambda: animation("GIF"), "photo", "image/gif", ".gif"),
    "mp4": (video, "video", "video/mp4", ".mp4"),
    "mp4 in pieces": (
        lambda: video(options={"movflags": "frag_keyframe+empty_moov"}),
        "video",
        "video/mp4",
        ".mp4",
    ),
    "mov": (lambda: video(container="mov"), "video", "video/quicktime", ".mov"),
    "3gp": (lambda: video(container="3gp"), "video", "video/3gpp", ".3gp"),
    "webm": (lambda: video(container="webm", codec="libvpx"), "video", "video/webm", ".webm"),
    "matroska": (lambda: video(container="matroska"), "document", "video/x-matroska", ".mkv"),
    "m4a": (lambda: sound(container="ipod", codec="aac"), "audio", "audio/mp4", ".m4a"),
    "mp4 of sound": (lambda: sound(container="mp4", codec="aac"), "audio", "audio/mp4", ".m4a"),
    "webm of sound": (lambda: sound(container="webm"), "audio", "audio/webm", ".webm"),
    "opus": (sound, "audio", "audio/ogg", ".opus"),
    "ogg of flac": (lambda: sound(codec="flac"), "audio", "audio/ogg", ".ogg"),
    "mp3": (lambda: sound(container="mp3", codec="libmp3lame"), "audio", "audio/mpeg", ".mp3"),
    "mp3 without a tag": (
        lambda: sound(
            container="mp3", codec="libmp3lame", options={"id3v2_version": "0", "write_xing": "0"}
        ),
        "audio",
        "audio/mpeg",
        ".mp3",
    ),
    "aac": (lambda: sound(container="adts", codec="aac"), "audio", "audio/aac", ".aac"),
    "wav": (lambda: sound(container="wav", codec="pcm_s16le"), "audio", "audio/wav", ".wav"),
    "flac": (lambda: sound(container="flac", codec="flac"), "audio", "audio/flac", ".flac"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_people_send_is_known_by_its_bytes(name: str) -> None:
    make, file_type, mime_type, extension = SHOWN[name]
    detected = detect(make()[:HEAD_BYTES])
    assert (detected.file_type, detected.mime_type, detected.extension) == (
        file_type,
        mime_type,
        extension,
    )
    assert bool(detected.format) == (file_type != "document")
    assert detected.may_be_voice == (file_type == "audio")


DOCUMENTS = {
    "pdf": (b"%PDF-1.7\n", "application/pdf", ".pdf"),
    "zip": (archive("photo.jpg"), "application/zip", ".zip"),
    "word": (
        archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ".docx",
    ),
    "epub": (
        archive("META-INF/container.xml", mimetype="application/epub+zip"),
        "application/epub+zip",
        ".epub",
    ),
    "declared otherwise": (archive("a", mimetype="text/html"), "application/zip", ".zip"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "image/heic", ".heic"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(40), "image/avif", ".avif"),
    "avi": (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo", ".avi"),
    "text": (b"Dear all,\n", "application/octet-stream", ""),
    "nothing": (b"", "application/octet-stream", ""),
    "octets": (bytes(range(256)) * 64, "application/octet-stream", ""),
    "0xff": (b"\xff" * HEAD_BYTES, "application/octet-stream", ""),
    "utf-16": ("\ufeffDear all".encode("utf-16-le"), "application/octet-stream", ""),
    "half a RIFF": (b"RIFF", "application/octet-stream", ""),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_all_else_is_a_document(name: str) -> None:
    head, mime_type, extension = DOCUMENTS[name]
    detected = detect(head)
    assert (detected.file_type, detected.mime_type, detected.extension) == (
        "document",
        mime_type,
        extension,
    )
    assert not detected.format
    assert detected.is_raw_photo == (name in {"heic", "avif"})


RAW_PHOTOS = {
    "image/heic": b"\0\0\0\x18ftypheix" + bytes(40),
    "image/heif": b"\0\0\0\x18ftypmif1" + bytes(40),
    "image/avif": b"\0\0\0\x18ftypavis" + bytes(40),
    "image/x-canon-cr3": b"\0\0\0\x18ftypcrx " + bytes(40),
    # DNG, NEF, ARW and CR2 begin like any TIFF.
    "image/tiff": b"II*\0" + bytes(40),
    "image/x-olympus-orf": b"IIRO" + bytes(40),
    "image/x-panasonic-rw2": b"IIU\0" + bytes(40),
    "image/x-fuji-raf": b"FUJIFILMCCD-RAW 0201" + bytes(40),
    "image/x-minolta-mrw": b"\0MRM\0\1\0\0\0PRD" + bytes(40),
    "image/x-sigma-x3f": b"FOVb\0\0\3\0" + bytes(40),
    "image/x-canon-crw": b"II\x1a\0\0\0HEAPCCDR" + bytes(40),
    "image/jxr": b"II\xbc\x01 \0\0\0" + bytes(40),
    "image/jxl": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl " + bytes(40),
    "image/jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 " + bytes(40),
}
PIXELS_ALONE = {
    "image/jxl": b"\xff\x0a\xfa\x7f\x01" + bytes(40),
    "image/jp2": b"\xff\x4f\xff\x51\0\x2f" + bytes(40),
    "image/x-canon-crw": b"MM\0\0\0\x1aHEAPCCDR" + bytes(40),
}


def ftyp(*brands: bytes, wide: bool = False) -> bytes:
    """The first box of an MP4 for the first of these, which can be read as the others too."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    if wide:
        return b"\0\0\0\1ftyp" + (16 + len(content)).to_bytes(8, "big") + content
    return (8 + len(content)).to_bytes(4, "big") + b"ftyp" + content


BRANDS = [
    ((b"MiHE", b"mif1", b"heic"), "image/heic"),
    ((b"MiHB", b"MiHE", b"heix", b"mif1"), "image/heic"),
    ((b"isom", b"mp41", b"mif1", b"miaf"), "image/heif"),
    ((b"mif1", b"miaf", b"avif"), "image/avif"),
    ((b"MA1B", b"avif", b"mif1", b"miaf"), "image/avif"),
    ((b"XXXX", b"avis", b"msf1"), "image/avif"),
    ((b"qt  ", b"heic"), "image/heic"),
    ((b"M4A ", b"mif1"), "image/heif"),
    ((b"3gp4", b"mif1"), "image/heif"),
    ((b"hevc", b"msf1", b"iso8"), "image/heic"),
    ((b"avci", b"mif1"), "image/heif"),
    ((b"isom", b"crx "), "image/x-canon-cr3"),
]
FILMS = [
    ((b"isom", b"iso2", b"avc1", b"mp41"), "video/mp4"),
    ((b"iso5", b"hvc1", b"hevc"), "video/mp4"),
    ((b"av01", b"iso8", b"av01"), "video/mp4"),
    ((b"qt  ", b"qt  "), "video/quicktime"),
    ((b"3gp4", b"isom", b"3gp4"), "video/3gpp"),
]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("brands", "mime_type"), [*BRANDS, *FILMS])
def test_a_picture_is_known_by_whatever_it_can_be_read_as(
    brands: tuple[bytes, ...], mime_type: str, *, wide: bool
) -> None:
    # What lies behind the box is none of its brands.
    detected = detect(ftyp(*brands, wide=wide) + b"heicmif1" + bytes(40))
    assert detected.mime_type == mime_type
    assert detected.is_raw_photo == mime_type.startswith("image/")
    assert (detected.file_type == "document") == detected.is_raw_photo


@pytest.mark.parametrize("mime_type", PIXELS_ALONE)
def test_a_photo_without_its_container_is_known_too(mime_type: str) -> None:
    detected = detect(PIXELS_ALONE[mime_type])
    assert (detected.mime_type, detected.is_raw_photo) == (mime_type, True)


def test_a_first_box_that_lies_about_its_size_is_read_to_the_end() -> None:
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        assert detect(size + ftyp(b"isom", b"heic")[4:]).mime_type == "image/heic"
    for head in (b"\0\0\0\x08ftyp", b"\0\0\0\1ftyp\0", b"\0\0\0\x0aftypisom"):
        assert detect(head).mime_type == "video/mp4"


@pytest.mark.parametrize("mime_type", RAW_PHOTOS)
def test_photos_that_cannot_be_made_anew_are_known(mime_type: str) -> None:
    detected = detect(RAW_PHOTOS[mime_type])
    assert (detected.file_type, detected.mime_type) == ("document", mime_type)
    assert detected.is_raw_photo


ACTIVE = {
    "html": PAGE,
    "html behind blanks": b" \n\t" + PAGE,
    "html behind a mark": b"\xef\xbb\xbf" + PAGE,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "xml": b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>",
    "script": b"#!/bin/sh\nrm -rf /\n",
    "javascript": b"alert(document.cookie)",
    "java": b"\xca\xfe\xba\xbe\0\0\0\x34",
    "flash": b"CWS\x0a",
    "program": b"MZ\x90\0",
    "elf": b"\x7fELF\x02\x01\x01",
    "utf-7": b"+ADw-script+AD4-alert(1)",
}


@pytest.mark.parametrize("name", ACTIVE)
def test_what_a_browser_would_run_is_octets(name: str) -> None:
    detected = detect(ACTIVE[name])
    assert (detected.file_type, detected.mime_type, detected.extension) == (
        "document",
        "application/octet-stream",
        "",
    )


POLYGLOTS = {
    "image/jpeg": b"\xff\xd8\xff\xe0" + PAGE,
    "image/png": png(1, 1, rows=1) + PAGE,
    "image/gif": b"GIF89a" + b"/*" + PAGE + archive("Evil.class"),
    "audio/mpeg": b"ID3" + PAGE,
    "application/pdf": b"%PDF-1.4\n" + PAGE,
    "video/mp4": b"\0\0\0\x18ftypmp42" + PAGE,
}


@pytest.mark.parametrize("mime_type", POLYGLOTS)
def test_a_polyglot_is_what_its_decoder_takes_it_for(mime_type: str) -> None:
    assert detect(POLYGLOTS[mime_type]).mime_type == mime_type


def test_bytes_beyond_the_head_change_nothing() -> None:
    for head in (b"A" * HEAD_BYTES, camera_photo()[:2000].ljust(HEAD_BYTES, b"\0")):
        assert detect(head) == detect(head + PAGE + archive("word/document.xml"))


def test_the_worst_head_costs_little() -> None:
    heads = [
        b"PK\x03\x04" * (HEAD_BYTES // 4),
        b"\0\0\0\x18ftypmp42" + b"hdlrmoov" * 8000,
        b"\x1aE\xdf\xa3" + b"V_VP" * 16_000,
        b"\xff\xfb\x90\x00" * 16_000,
        b"OggS\x00\x02" + b"\x80theor" * 10_000,
    ]
    started = time.process_time()
    for head in heads:
        detect(head)
    assert time.process_time() - started < 0.05
