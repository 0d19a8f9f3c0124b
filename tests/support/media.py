"""Real photos, films and sounds, made on the spot."""

import array
import io
import math
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
from PIL import Image, ImageDraw, TiffImagePlugin

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (250, 250, 250)
PLACE = b"Somewhere in the Alps"
"""Stands in every part of a photo's metadata."""


def corners(width: int = 640, height: int = 480, mode: str = "RGB") -> Image.Image:
    """Red, green, blue and white, from the upper left row by row."""
    image = Image.new("RGB", (width, height), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2), fill=GREEN)
    draw.rectangle((0, height // 2, width // 2, height), fill=BLUE)
    draw.rectangle((width // 2, height // 2, width, height), fill=WHITE)
    return image.convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def metadata(orientation: int = 1) -> Image.Exif:
    """A camera's: who, where, when, and which side is up."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = PLACE.decode()
    exif[0x9003] = "2026:11:28 12:00:00"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", tuple(TiffImagePlugin.IFDRational(part) for part in (46, 32, 10))
    gps[3], gps[4] = "E", tuple(TiffImagePlugin.IFDRational(part) for part in (7, 58, 30))
    gps[0x1B] = b"ASCII\0\0\0" + PLACE
    return exif


def camera_photo(orientation: int = 1, **options: Any) -> bytes:
    """A JPEG with a comment, EXIF and GPS, XMP and IPTC."""
    plain = encode(
        corners(),
        "JPEG",
        quality=92,
        exif=metadata(orientation),
        comment=PLACE,
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + PLACE + b"</x:xmpmeta>",
        **options,
    )
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + struct.pack(">I", len(PLACE)) + PLACE
    return plain[:2] + b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc + plain[2:]


def png(width: int, height: int, *, rows: int, extra: bytes = b"", kind: int = 2) -> bytes:
    """A PNG by hand, of `rows` empty rows whatever its header says; `extra` stands before its pixels."""
    channels = {0: 1, 2: 3, 6: 4}[kind]
    deflate = zlib.compressobj(9)
    row = bytes(1 + width * channels)
    data = b"".join(deflate.compress(row) for _ in range(rows)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def animation(kind: str, frames: int = 5, size: tuple[int, int] = (120, 80)) -> bytes:
    pictures = [Image.new("RGB", size, (at * 37 % 256, at * 91 % 256, 120)) for at in range(frames)]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=80, loop=0)


def video(
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (320, 240),
    seconds: float = 2,
    black: float = 0,
    audio: str | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """`corners` at 25 frames a second, behind `black` seconds of nothing."""
    # To put its index in front, FFmpeg opens what it has written once more, by its name.
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed below
    with av.open(file.name, "w", format=container, options=options or {}) as opened:
        stream: Any = opened.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        track: Any = opened.add_stream(audio, rate=48_000, layout="mono") if audio else None
        for number in range(int(seconds * 25)):
            image = Image.new("RGB", size) if number < black * 25 else corners(*size)
            frame = av.VideoFrame.from_image(image)
            frame.pts = number
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
        if track is not None:
            _play(opened, track, seconds, lambda _: 0.5)
    with file:
        return file.read()


def long_film(*, size_bytes: int, seconds: int) -> bytes:
    """A WebM (VP8) of about so many bytes, with its index at its end. Only one picture is encoded, of noise;
    every other repeats its bytes.
    """
    size = (320, 240)
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
    encoder.time_base = Fraction(1, 10)
    encoder.options = {"deadline": "realtime", "cpu-used": "8"}
    frame = av.VideoFrame(*size, "yuv420p")
    for plane in frame.planes:
        plane.update(random.Random(1).randbytes(plane.buffer_size))
    picture = bytes([*encoder.encode(frame), *encoder.encode(None)][0])
    out = io.BytesIO()
    count = size_bytes // len(picture)
    with av.open(out, "w", format="webm") as opened:
        stream: Any = opened.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            packet = av.Packet(picture)
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = number * seconds * 1000 // count
            packet.time_base = Fraction(1, 1000)
            opened.mux(packet)
    return out.getvalue()


def zip_bomb() -> bytes:
    """A few KB that would become 25 GB: archives of zeros in an archive."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("zeros", bytes(64 << 20))
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(400):
            archive.writestr(f"{number}.zip", inner.getvalue())
    return outer.getvalue()


def turned(film: bytes, *, degrees: int) -> bytes:
    """An MP4 that says of itself that it lies on its side, by `degrees` with the clock."""
    matrix = {
        90: (0, 1, 0, -1, 0, 0),
        180: (-1, 0, 0, 0, -1, 0),
        270: (0, -1, 0, 1, 0, 0),
    }[degrees]
    at = film.index(b"tkhd") + 44
    values = [value * 0x10000 for value in matrix] + [0, 0, 0x40000000]
    return film[:at] + struct.pack(">9i", *values) + film[at + 36 :]


def tracks_last(film: bytes, *, gap: int = 70_000) -> bytes:
    """An MP4 whose list of tracks lies behind what is looked at first, as most recorders write it. Nothing that the
    list refers to moves.
    """
    at = 0
    while film[at + 4 : at + 8] != b"moov":
        at += int.from_bytes(film[at : at + 4], "big")
    return film[:at] + (8 + gap).to_bytes(4, "big") + b"free" + bytes(gap) + film[at:]


def sound(
    *,
    container: str = "ogg",
    codec: str = "libopus",
    seconds: float = 2,
    level: Callable[[float], float] = lambda _: 0.5,
    options: dict[str, str] | None = None,
) -> bytes:
    """A tone; `level` gives its loudness at a second, up to 1."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as opened:
        _play(opened, opened.add_stream(codec, rate=48_000, layout="mono"), seconds, level)
    return out.getvalue()


def _play(container: Any, stream: Any, seconds: float, level: Callable[[float], float]) -> None:
    size = stream.codec_context.frame_size or 1024
    name = stream.codec_context.format.name
    for start in range(0, int(seconds * 48_000), size):
        frame: Any = av.AudioFrame(format=name, layout="mono", samples=size)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        samples = _samples(name, _tone(start, size, level))
        frame.planes[0].update(samples.ljust(frame.planes[0].buffer_size, b"\0"))
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _tone(start: int, size: int, level: Callable[[float], float]) -> Iterator[float]:
    for at in range(start, start + size):
        yield level(at / 48_000) * math.sin(at * 2 * math.pi * 440 / 48_000)


def _samples(name: str, values: Iterator[float]) -> bytes:
    if name.startswith("flt"):
        return array.array("f", values).tobytes()
    code, loudest = {"s16": ("h", 32_767), "s32": ("i", 2_147_483_647)}[name.removesuffix("p")]
    return array.array(code, (int(value * loudest) for value in values)).tobytes()
