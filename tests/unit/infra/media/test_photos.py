"""Photos made anew: upright, in the colours of the web, without a word about who took them and where."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, ImageDraw

from app.infra.media.detect import detect
from app.infra.media.port import MAX_PHOTO_BYTES, MediaBroken, MediaError, MediaTooLarge, Photo
from app.infra.media.processor import MediaProcessor
from tests.support.media import (
    BLUE,
    GREEN,
    PLACE,
    RED,
    WHITE,
    animation,
    camera_photo,
    corners,
    encode,
    metadata,
    png,
    png_chunk,
)
from tests.unit.infra.media.sources import Bytes, Spread

pytestmark = pytest.mark.anyio

_TRACES = (PLACE, b"Exif", b"GPS", b"8BIM", b"Photoshop", b"xmpmeta", b"ns.adobe", b"2026:11:28")


async def remake(media: MediaProcessor, content: bytes) -> Photo:
    return await media.process_photo(Bytes(content), format=detect(content).format)


def show(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def colours(image: Image.Image) -> list[str]:
    """What the corners look like, row by row."""
    names = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
    rgb = image.convert("RGB")
    found: list[str] = []
    for y in (rgb.height // 4, rgb.height * 3 // 4):
        for x in (rgb.width // 4, rgb.width * 3 // 4):
            pixel = rgb.getpixel((x, y))
            assert isinstance(pixel, tuple)
            distance = {
                name: sum(abs(a - b) for a, b in zip(colour, pixel, strict=True))
                for name, colour in names.items()
            }
            found.append(min(distance, key=distance.__getitem__))
    return found


def moving(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Three frames of this picture, in which a spot moves. `options`: of its metadata."""
    frames = [image.copy() for _ in range(3)]
    for number, frame in enumerate(frames):
        spot = (image.width // 2 - 8 * number, 0, image.width // 2 - 8 * number + 6, 6)
        ImageDraw.Draw(frame).rectangle(spot, fill=(0, 0, 0))
    return encode(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=[80, 90, 100],
        loop=3,
        **options,
    )


def frames_of(content: bytes) -> Iterator[Image.Image]:
    image = Image.open(io.BytesIO(content))
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        yield image


UPRIGHT = ["red", "green", "blue", "white"]


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_photo_stands_upright_however_the_camera_was_held(
    media: MediaProcessor, orientation: int
) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    seen_by_the_camera = corners() if turn is None else corners().transpose(turn)
    exif = metadata(orientation)
    originals = [encode(seen_by_the_camera, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    originals += [moving(seen_by_the_camera, kind, exif=exif) for kind in ("PNG", "WEBP")]
    behind = moving(seen_by_the_camera, "PNG")
    end = png_chunk(b"IEND", b"")
    assert behind.endswith(end)
    originals.append(behind.removesuffix(end) + png_chunk(b"eXIf", exif.tobytes()[6:]) + end)
    for original in originals:
        photo = await remake(media, original)
        assert (photo.width, photo.height) == (640, 480)
        pictures = [photo.content, *(made.content for made in photo.renditions.values())]
        for content in pictures:
            assert show(content).size[0] > show(content).size[1]
            assert {tuple(colours(frame)) for frame in frames_of(content)} == {tuple(UPRIGHT)}
            assert show(content).getexif().get(0x0112) is None


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
async def test_an_animation_that_is_turned_goes_on_as_it_was(
    media: MediaProcessor, kind: str
) -> None:
    photo = await remake(media, moving(corners(300, 200), kind, exif=metadata(6)))
    assert (photo.width, photo.height) == (200, 300)
    frames = [
        (frame.size, frame.info["duration"], frame.info["loop"])
        for frame in frames_of(photo.content)
    ]
    assert frames == [((200, 300), duration, 3) for duration in (80, 90, 100)]


@pytest.mark.parametrize(
    "kind",
    ["JPEG", "PNG", "WEBP", "GIF", "a moving PNG", "a moving WEBP", "a moving GIF"],
)
async def test_nothing_that_the_device_wrote_is_left(media: MediaProcessor, kind: str) -> None:
    make = moving if kind.startswith("a moving ") else encode
    kind = kind.removeprefix("a moving ")
    if kind == "JPEG":
        original = camera_photo(icc_profile=swapped_profile())
    elif kind == "GIF":
        original = make(corners(), kind, comment=PLACE)
        xmp = b"!\xff\x0bXMP DataXMP" + bytes([len(PLACE)]) + PLACE + b"\0"
        # Behind its palette.
        at = 13 + 3 * 2 ** ((original[10] & 7) + 1)
        original = original[:at] + xmp + original[at:]
    else:
        original = make(corners(), kind, exif=metadata(), xmp=PLACE, icc_profile=swapped_profile())
        if kind == "PNG":
            text = png_chunk(b"tEXt", b"Comment\0" + PLACE) + png_chunk(
                b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PLACE
            )
            original = original[:33] + text + original[33:]
    assert PLACE in original
    photo = await remake(media, original)
    for content in (photo.content, *(made.content for made in photo.renditions.values())):
        assert not [trace for trace in (*_TRACES, b"acsp") if trace in content]
        assert set(show(content).info) <= {
            *("jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"),
            *(
                "background",
                "loop",
                "timestamp",
                "duration",
                "version",
                "transparency",
                "extension",
            ),
        }


async def test_a_trailer_is_cut_off(media: MediaProcessor) -> None:
    page = b"<!DOCTYPE html><script>alert(1)</script>"
    for original in (camera_photo(), encode(corners(), "PNG"), encode(corners(), "WEBP")):
        photo = await remake(media, original + page + b"PK\x03\x04" + page)
        assert page not in photo.content
        assert b"PK\x03\x04" not in photo.content


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_each_format_stays_what_it_is(media: MediaProcessor, kind: str) -> None:
    photo = await remake(media, encode(corners(), kind))
    assert show(photo.content).format == kind
    assert photo.mime_type == f"image/{kind.lower()}"
    assert photo.extension == {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}")
    assert colours(show(photo.content)) == UPRIGHT


async def test_a_jpeg_is_as_good_as_it_was_and_no_larger(media: MediaProcessor) -> None:
    for quality in (40, 75, 95):
        original = encode(corners(1200, 900), "JPEG", quality=quality, subsampling=0)
        photo = await remake(media, original)
        assert show(photo.content).quantization == show(original).quantization  # pyright: ignore[reportAttributeAccessIssue]
        assert len(photo.content) <= len(original) * 1.1


async def test_what_can_be_seen_through_stays_so(media: MediaProcessor) -> None:
    seen = corners(mode="RGBA")
    seen.putalpha(Image.linear_gradient("L").resize(seen.size))
    palette = corners(mode="P")
    for original in (
        encode(seen, "PNG"),
        encode(seen, "WEBP"),
        encode(seen.convert("LA"), "PNG"),
        encode(palette, "PNG", transparency=0),
        encode(palette, "GIF", transparency=0),
        encode(corners(), "PNG", transparency=RED),
    ):
        photo = await remake(media, original)
        for content in (photo.content, photo.renditions["small"].content):
            low, high = show(content).convert("RGBA").getchannel("A").getextrema()
            before = show(original).convert("RGBA").getchannel("A").getextrema()
            assert (low, high) == pytest.approx(before, abs=6)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG")),
        *(("I;16", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("L", "GIF"), ("L", "WEBP")),
    ],
)
async def test_every_kind_of_pixel_is_shown_right(
    media: MediaProcessor, mode: str, kind: str
) -> None:
    levels = Image.linear_gradient("L").resize((400, 300))
    if mode == "I;16":
        deep = b"".join(struct.pack("<H", level * 257) for level in levels.tobytes())
        original = encode(Image.frombytes("I;16", levels.size, deep), kind)
    else:
        original = encode(levels.convert(mode), kind)
    photo = await remake(media, original)
    for content in (photo.content, photo.renditions["medium"].content):
        image = show(content).convert("L").resize((1, 10), Image.Resampling.BOX)
        expected = levels.resize((1, 10), Image.Resampling.BOX)
        assert list(image.tobytes()) == pytest.approx(list(expected.tobytes()), abs=8)


def swapped_profile() -> bytes:
    """A device that takes red for green; it says who it is."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"?XYZ")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"?XYZ", b"gXYZ")
        .replace("sRGB built-in".encode("utf-16-be"), "A B C of PLACE".encode("utf-16-be")[:26])
    )


async def test_colours_are_as_the_profile_means_them(media: MediaProcessor) -> None:
    profile = swapped_profile()
    originals = [encode(corners(), kind, icc_profile=profile) for kind in ("JPEG", "PNG", "WEBP")]
    for kind in ("PNG", "WEBP"):
        originals.append(moving(corners(), kind, icc_profile=profile))
        originals.append(moving(corners(mode="RGBA"), kind, icc_profile=profile))
    for original in originals:
        photo = await remake(media, original)
        for frame in frames_of(photo.content):
            assert colours(frame) == ["green", "red", "blue", "white"]
        assert colours(show(photo.renditions["small"].content))[0] == "green"


async def test_a_broken_profile_or_exif_spoils_no_photo(media: MediaProcessor) -> None:
    for options in (
        {"icc_profile": b"acsp" * 200},
        {"icc_profile": swapped_profile()[:300]},
        {"exif": b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(20)},
    ):
        photo = await remake(media, encode(corners(), "JPEG", **options))
        assert colours(show(photo.content)) == UPRIGHT


@pytest.mark.parametrize(
    ("size", "medium", "small"),
    [
        ((4000, 3000), (1280, 960), (320, 240)),
        ((3000, 4000), (960, 1280), (240, 320)),
        ((1280, 720), (1280, 720), (320, 180)),
        ((500, 400), (500, 400), (320, 256)),
        ((300, 200), (300, 200), (300, 200)),
        ((1, 1), (1, 1), (1, 1)),
        ((9000, 3), (1280, 1), (320, 1)),
        ((1, 20_000), (1, 1280), (1, 320)),
    ],
)
async def test_renditions_fit_and_are_never_enlarged(
    media: MediaProcessor, size: tuple[int, int], medium: tuple[int, int], small: tuple[int, int]
) -> None:
    photo = await remake(media, encode(corners(*size), "PNG"))
    assert (photo.width, photo.height) == size == show(photo.content).size
    assert set(photo.renditions) == {"small", "medium"}
    for name, expected in (("medium", medium), ("small", small)):
        rendition = photo.renditions[name]
        assert (rendition.width, rendition.height) == expected == show(rendition.content).size
        assert show(rendition.content).format == "WEBP"


async def test_the_placeholder_is_a_thumbhash(media: MediaProcessor) -> None:
    photo = await remake(media, encode(corners(640, 480), "PNG"))
    content = base64.b64decode(photo.placeholder)
    assert 5 <= len(content) <= 25
    assert content[4] >> 7  # it lies
    assert not content[2] >> 7  # nothing shows through
    seen = corners(mode="RGBA")
    seen.putalpha(100)
    assert base64.b64decode((await remake(media, encode(seen, "PNG"))).placeholder)[2] >> 7


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
async def test_an_animation_goes_on_as_webp(media: MediaProcessor, kind: str) -> None:
    photo = await remake(media, animation(kind, frames=7))
    assert (photo.mime_type, photo.extension) == ("image/webp", ".webp")
    image = Image.open(io.BytesIO(photo.content))
    assert getattr(image, "n_frames", 1) == 7
    for frame in range(7):
        image.seek(frame)
        image.load()
        assert image.info["duration"] == 80
    assert image.info["loop"] == 0
    assert photo.renditions["small"].width == 120


async def test_too_many_pictures_are_no_photo(media: MediaProcessor) -> None:
    for content in (
        animation("GIF", frames=10_000, size=(8, 8)),
        animation("GIF", frames=80, size=(800, 800)),
    ):
        with pytest.raises(MediaTooLarge):
            await remake(media, content)


async def test_many_pictures_are_turned_and_coloured_within_a_jobs_time(
    anyio_backend: str,
) -> None:
    """A thousand small ones, and as many large ones as are taken."""
    media = MediaProcessor()
    profile = {"exif": metadata(6), "icc_profile": swapped_profile()}
    try:
        for count, size in ((1_000, (8, 6)), (62, (800, 799))):
            frames = [Image.new("RGB", size, (at % 256, at // 8, 120)) for at in range(count)]
            content = encode(
                frames[0],
                "WEBP",
                save_all=True,
                append_images=frames[1:],
                minimize_size=False,
                **profile,
            )
            photo = await remake(media, content)
            assert (photo.width, photo.height) == size[::-1]
        assert peak(media.pids[0]) < 500_000_000
    finally:
        await media.close()


def _gif(width: int, height: int, first: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    return head + b",\0\0\0\0" + struct.pack("<HHBB", *first, 0, 2) + b"\x01\x44\0;"


def _jpeg(width: int, height: int) -> bytes:
    plain = encode(corners(64, 64), "JPEG")
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", height, width) + plain[at + 4 :]


def _unfolding(kind: bytes) -> bytes:
    return png_chunk(kind, b"a\0\0" + zlib.compress(bytes(500_000_000), 9))


BOMBS: dict[str, Callable[[], bytes]] = {
    "50,000 x 50,000": lambda: png(50_000, 50_000, rows=1),
    "20 KB for 800 MB": lambda: png(14_000, 14_000, rows=1400),
    "just too many": lambda: png(8000, 5001, rows=5001),
    "a profile that unfolds": lambda: png(64, 64, rows=64, extra=_unfolding(b"iCCP")),
    "text that unfolds": lambda: png(64, 64, rows=64, extra=_unfolding(b"zTXt")),
    "more rows than it says": lambda: png(64, 64, rows=2_000_000),
    "gif": lambda: _gif(60_000, 60_000, (60_000, 60_000)),
    "gif within a small one": lambda: _gif(10, 10, (60_000, 60_000)),
    "webp": lambda: encode(Image.new("L", (16_000, 3000)), "WEBP", lossless=True, method=0),
    "jpeg": lambda: _jpeg(65_000, 65_000),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_take_no_memory(anyio_backend: str, name: str) -> None:
    media = MediaProcessor()
    try:
        await remake(media, camera_photo())
        [pid] = media.pids
        before = peak(pid)
        try:
            await remake(media, BOMBS[name]())
        except MediaError:
            assert name != "more rows than it says"
        assert media.pids == [pid]
        assert peak(pid) - before < 150_000_000
        await remake(media, camera_photo())
    finally:
        await media.close()


def peak(pid: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) * 1024


async def test_the_largest_photo_stays_within_its_limits(anyio_backend: str) -> None:
    media = MediaProcessor()
    try:
        photo = await remake(media, encode(corners(7300, 5479), "JPEG", exif=metadata(6)))
        assert (photo.width, photo.height) == (5479, 7300)
        assert peak(media.pids[0]) < 500_000_000
    finally:
        await media.close()


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


BROKEN: dict[str, Callable[[], bytes]] = {
    "a truncated jpeg": lambda: _cut(camera_photo()),
    "a truncated png": lambda: _cut(encode(corners(), "PNG")),
    "a truncated gif": lambda: _cut(encode(corners(), "GIF")),
    "a truncated webp": lambda: _cut(encode(corners(), "WEBP")),
    "nothing but a beginning": lambda: b"\xff\xd8\xff",
    "a page": lambda: b"\xff\xd8\xff\xe0<!DOCTYPE html><script>alert(1)</script>",
    "octets": lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100,
    "no pixels": lambda: png(0, 0, rows=0),
    "text that unfolds": BOMBS["text that unfolds"],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_sound_picture_is_refused(media: MediaProcessor, name: str) -> None:
    with pytest.raises(MediaBroken):
        await remake(media, BROKEN[name]())


async def test_each_decoder_takes_its_own_format_alone(media: MediaProcessor) -> None:
    for kind in ("JPEG", "WEBP", "GIF", "TIFF", "EPS", "png", "", "../x"):
        with pytest.raises(MediaBroken):
            await media.process_photo(Bytes(encode(corners(), "PNG")), format=kind)


async def test_a_file_too_large_for_a_photo_is_not_read(media: MediaProcessor) -> None:
    source = Spread(camera_photo(), MAX_PHOTO_BYTES)
    with pytest.raises(MediaTooLarge):
        await media.process_photo(source, format="JPEG")
    assert source.read_bytes == 0
