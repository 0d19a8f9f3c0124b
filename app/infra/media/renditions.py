"""Smaller pictures of a picture, for lists and screens, and its placeholder."""

# Pillow leaves gaps in its types.
# pyright: reportUnknownMemberType=false

import io

from PIL import Image, WebPImagePlugin

from app.infra.media.placeholder import make_placeholder

_PLUGINS = (WebPImagePlugin,)

SIDES = {"medium": 1280, "small": 320}
"""The longer side, at most; nothing is enlarged. Each is made of the one before it."""

_QUALITY = 80
# 1280 x 960: 58 ms at 1, 130 ms at 4, of the same size within a few hundredths.
_METHOD = 1
# Pixels that are thrown together before the fine filter: half as long as without, and nobody sees it.
_GAP = 1.5
_STRIP_PIXELS = 1_000_000

# Behind the lock no plugin can be loaded any more.
Image.preinit()


def make_renditions(picture: Image.Image) -> tuple[list[tuple[str, int, int, bytes]], str]:
    """Name, width, height and WebP of each, and a thumbhash."""
    renditions: list[tuple[str, int, int, bytes]] = []
    encoded = b""
    for name, side in SIDES.items():
        if not encoded or max(picture.size) > side:
            picture = fit(picture, side)
            encoded = _encode(picture)
        renditions.append((name, *picture.size, encoded))
    return renditions, make_placeholder(picture)


def fit(picture: Image.Image, side: int) -> Image.Image:
    """In RGB or RGBA."""
    scale = min(1.0, side / max(picture.size))
    width, height = (max(1, round(length * scale)) for length in picture.size)
    columns, rows = (
        max(1, int(old / new / _GAP))
        for old, new in zip(picture.size, (width, height), strict=True)
    )
    box = (0.0, 0.0, picture.width / columns, picture.height / rows)
    reduced = _reduce(picture, columns, rows)
    return reduced.resize((width, height), Image.Resampling.LANCZOS, box=box)


def has_alpha(picture: Image.Image) -> bool:
    return picture.has_transparency_data


def to_colours(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA" if has_alpha(picture) else "RGB")


def _reduce(picture: Image.Image, columns: int, rows: int) -> Image.Image:
    """Each `columns` x `rows` pixels to one, strip by strip: colours and opacity of a whole picture,
    multiplied with each other on the way, would be twice its memory.
    """
    if columns == rows == 1:
        return to_colours(picture)
    mode = "RGBA" if has_alpha(picture) else "RGB"
    size = (-(-picture.width // columns), -(-picture.height // rows))
    reduced = Image.new(mode, size)
    step = rows * max(1, _STRIP_PIXELS // (picture.width * rows))
    for top in range(0, picture.height, step):
        strip = picture.crop((0, top, picture.width, min(top + step, picture.height)))
        reduced.paste(strip.convert(mode).reduce((columns, rows)), (0, top // rows))
    return reduced


def _encode(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.info = {}
    picture.save(out, "WEBP", quality=_QUALITY, method=_METHOD)
    return out.getvalue()
