"""A photo made anew: upright, in sRGB, without a byte that its sender's device wrote beside the picture.

Runs in a decoder process alone. Nothing of the original survives but pixels, the tables of a JPEG's quality and
the times of an animation.
"""

# Pillow and PyAV leave gaps in their types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

# Pillow loads what it may need on the way; behind the lock nothing can be loaded any more.
from PIL import (
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from app.infra.media.pipe import Answer, TooLarge
from app.infra.media.renditions import has_alpha, make_renditions, to_colours

_PLUGINS = (
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

MAX_PIXELS = 40_000_000
"""Of a picture, by its header; of all pictures of an animation together."""
_MAX_FRAMES = 1_000
_DEFAULT_FRAME_MS = 100
# Of a JPEG whose tables are not those of a common one.
_JPEG_QUALITY = 90
_WEBP_QUALITY = 90
_LARGE_WEBP_QUALITY = 60
_WEBP_HEAD_BYTES = 65_536
_MAX_BYTE = 255
_ANIMATION_QUALITY = 75
# 12 megapixels of noise: 1.2 s at 3, 2.6 s at 6, for a tenth less.
_PNG_LEVEL = 3
# More takes libwebp longer than a job has.
_MAX_LOSSLESS_PIXELS = 12_000_000

_ORIENTATION = 0x0112
# What EXIF calls 2 to 8, in Pillow's words.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_MODES = {
    "JPEG": {"L", "RGB"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "WEBP": {"RGB", "RGBA"},
    "GIF": {"L", "P"},
}
"""What each format can hold; a picture in another mode becomes RGB or RGBA."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


def make_photo(file: BinaryIO, format: str) -> Answer:  # noqa: A002 - Pillow's word
    """Raises:
    TooLarge: more than `MAX_PIXELS`
    """
    image = _open(file, format)
    if format != "JPEG" and getattr(image, "is_animated", False):
        return _remake_animation(image)
    turn = _TURNS.get(_orientation(image))
    options = _encoding(image, format, file)
    picture = _take_pixels(image, format)
    # Decoders hold pixels of their own, that of WebP three times as many.
    del image
    if turn is not None:
        picture = picture.transpose(turn)
    return _answer(_encode(picture, format, options), picture)


def _open(file: BinaryIO, format: str) -> ImageFile.ImageFile:  # noqa: A002 - see above
    if format not in _MODES:
        raise ValueError(format)
    try:
        image = Image.open(file, formats=[format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge from error
    if image.width * image.height > MAX_PIXELS:
        raise TooLarge
    return image


def _orientation(image: ImageFile.ImageFile) -> int:
    """1 where the metadata says none, or nothing that can be read."""
    if image.format == "PNG":
        image.load()  # its EXIF may stand behind its pixels
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1


def _take_pixels(image: ImageFile.ImageFile, format: str) -> Image.Image:  # noqa: A002 - see above
    """Nothing but pixels, and which of a palette's colours are not there."""
    image.load()
    picture = _to_8_bits(image)
    picture = _to_srgb(picture, _find_transform(picture.mode, image.info.get("icc_profile")))
    if picture.mode not in _MODES[format]:
        picture = to_colours(picture)
    if picture is image:
        picture = image.copy() if format == "WEBP" else image
    transparency = picture.info.get("transparency")
    picture.info = {} if transparency is None else {"transparency": transparency}
    return picture


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The upper half of 16 bits of grey; Pillow by itself makes all but the darkest white."""
    if image.mode == "I;16":
        return Image.frombytes("L", image.size, image.tobytes()[1::2])
    if image.mode in {"L", "RGB"} and has_alpha(image):
        return image.convert("LA" if image.mode == "L" else "RGBA")
    return image


def _to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """Colours as they were meant, in the colours of the web; a profile names its device, so none is kept."""
    if transform is None:
        return image
    try:
        # In its place where it can be: twice would be most of the memory that it takes.
        is_same = transform.output_mode == image.mode
        return ImageCms.applyTransform(image, transform, inPlace=is_same) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _find_transform(mode: str, profile: object) -> ImageCms.ImageCmsTransform | None:
    """None: there is nothing to be changed, or nothing that says how."""
    if mode not in {"RGB", "RGBA", "CMYK"} or not isinstance(profile, bytes):
        return None
    target = "RGB" if mode == "CMYK" else mode
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        return ImageCms.buildTransform(source, _SRGB, mode, target)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _encoding(image: ImageFile.ImageFile, format: str, file: BinaryIO) -> dict[str, Any]:  # noqa: A002 - see above
    """As good as the original, and no better."""
    match format:
        case "JPEG":
            return _jpeg_tables(image)
        case "WEBP" if _is_lossless(image, file):
            return {"lossless": True, "quality": 0, "method": 1}
        case "WEBP":
            return {"quality": _WEBP_QUALITY, "method": 1}
        case "PNG":
            return {"compress_level": _PNG_LEVEL}
        case _:
            return {}


def _jpeg_tables(image: ImageFile.ImageFile) -> dict[str, Any]:
    tables: dict[int, list[int]] = getattr(image, "quantization", {})
    if image.mode not in _MODES["JPEG"] or not tables or max(map(max, tables.values())) > _MAX_BYTE:
        return {"quality": _JPEG_QUALITY}
    return {"qtables": tables, "subsampling": JpegImagePlugin.get_sampling(image)}


def _encode(picture: Image.Image, format: str, options: dict[str, Any]) -> bytes:  # noqa: A002 - see above
    out = io.BytesIO()
    try:
        picture.save(out, format, **options)
    except ValueError:
        if format != "WEBP":
            raise
        # A WebP says what each block is like within 512 KiB: too little for 40 megapixels full of detail.
        picture.save(out, format, quality=_LARGE_WEBP_QUALITY, method=1)
    return out.getvalue()


def _is_lossless(image: ImageFile.ImageFile, file: BinaryIO) -> bool:
    """By the name of its pixels' chunk, which stands in front, or behind a profile."""
    file.seek(0)
    head = file.read(_WEBP_HEAD_BYTES)
    return b"VP8L" in head and image.width * image.height <= _MAX_LOSSLESS_PIXELS


def _remake_animation(image: ImageFile.ImageFile) -> Answer:
    """As an animated WebP, whatever it was: a GIF encoded anew loses colours and grows.

    Raises:
        TooLarge: more than `MAX_PIXELS` in all its pictures, or too many of those
    """
    durations: list[int] = []
    while _seek(image, len(durations)):
        if len(durations) >= _MAX_FRAMES or (
            (len(durations) + 1) * image.width * image.height > MAX_PIXELS
        ):
            raise TooLarge
        image.load()
        durations.append(int(image.info.get("duration") or _DEFAULT_FRAME_MS))
    # A GIF that does not say so is played once.
    loop = image.info.get("loop", 1 if image.format == "GIF" else 0)
    out = io.BytesIO()
    first, *others = _take_frames(image, len(durations))
    first.save(
        out,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=loop,
        background=(0, 0, 0, 0),
        quality=_ANIMATION_QUALITY,
        method=0,
        icc_profile=None,
    )
    return _answer(out.getvalue(), first)


def _take_frames(image: ImageFile.ImageFile, count: int) -> Iterator[Image.Image]:
    """Each upright and in sRGB, as a picture of its own; the last one was loaded, and with it all that says how."""
    turn = _TURNS.get(_orientation(image))
    profile = image.info.get("icc_profile")
    # Made once: a thousand would take longer than a job has.
    transforms = {mode: _find_transform(mode, profile) for mode in ("RGB", "RGBA")}
    for number in range(count):
        image.seek(number)
        image.load()
        # A copy: the next frame is drawn over what the decoder holds.
        frame = to_colours(_to_8_bits(image))
        frame = _to_srgb(frame, transforms[frame.mode])
        frame.info = {}
        yield frame if turn is None else frame.transpose(turn)


def _seek(image: ImageFile.ImageFile, frame: int) -> bool:
    try:
        image.seek(frame)
    except EOFError:
        return False
    return True


def _answer(content: bytes, picture: Image.Image) -> Answer:
    renditions, placeholder = make_renditions(picture)
    fields = {
        "width": picture.width,
        "height": picture.height,
        "placeholder": placeholder,
        "renditions": [(name, width, height) for name, width, height, _ in renditions],
    }
    return Answer(fields, [content, *(encoded for *_, encoded in renditions)])
