"""A ThumbHash: a picture in about 25 bytes, for the moment before the picture is there.

The published algorithm of Evan Wallace (https://github.com/evanw/thumbhash, MIT): the lowest terms of the cosine
transform of lightness, of the two differences of colour and of opacity, four bits each.
"""

import base64
import math
from collections.abc import Iterator, Sequence

from PIL import Image

# The algorithm takes up to 100; the terms kept do not tell more than these from a hundred.
_MAX_SIDE = 32


def make_placeholder(image: Image.Image) -> str:
    """In base64. `image` is RGB or RGBA."""
    image = image.copy()
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    return base64.b64encode(hash_pixels(*image.size, image.convert("RGBA").tobytes())).decode()


def hash_pixels(width: int, height: int, rgba: bytes) -> bytes:
    """`rgba`: four bytes a pixel, row by row."""
    lightness, yellow, red, opacity = _split(rgba)
    has_alpha = min(opacity) < 1
    limit = 5 if has_alpha else 7
    columns = max(1, _round(limit * width / max(width, height)))
    rows = max(1, _round(limit * height / max(width, height)))
    is_wide = width > height

    size = (width, height)
    l_dc, l_ac, l_scale = _transform(lightness, size, max(3, columns), max(3, rows))
    p_dc, p_ac, p_scale = _transform(yellow, size, 3, 3)
    q_dc, q_ac, q_scale = _transform(red, size, 3, 3)

    head = (
        _round(63 * l_dc)
        | _round(31.5 + 31.5 * p_dc) << 6
        | _round(31.5 + 31.5 * q_dc) << 12
        | _round(31 * l_scale) << 18
        | has_alpha << 23
        | (rows if is_wide else columns) << 24
        | _round(63 * p_scale) << 27
        | _round(63 * q_scale) << 33
        | is_wide << 39
    )
    content = head.to_bytes(5, "little")
    terms = [*l_ac, *p_ac, *q_ac]
    if has_alpha:
        a_dc, a_ac, a_scale = _transform(opacity, size, 5, 5)
        content += bytes([_round(15 * a_dc) | _round(15 * a_scale) << 4])
        terms += a_ac
    return content + bytes(_pack(terms))


def _split(rgba: bytes) -> tuple[list[float], list[float], list[float], list[float]]:
    """Lightness, yellow against blue, red against green, opacity; what shows through is the mean colour."""
    opacity = [alpha / 255 for alpha in rgba[3::4]]
    total = sum(opacity)
    red, green, blue = (_blend(rgba[offset::4], opacity, total) for offset in range(3))
    pixels = list(zip(red, green, blue, strict=True))
    return (
        [(r + g + b) / 3 for r, g, b in pixels],
        [(r + g) / 2 - b for r, g, b in pixels],
        [r - g for r, g, _ in pixels],
        opacity,
    )


def _blend(values: bytes, opacity: Sequence[float], total: float) -> list[float]:
    shown = [value / 255 * alpha for value, alpha in zip(values, opacity, strict=True)]
    mean = sum(shown) / total if total else 0.0
    return [mean * (1 - alpha) + value for value, alpha in zip(shown, opacity, strict=True)]


def _transform(
    channel: Sequence[float], size: tuple[int, int], columns: int, rows: int
) -> tuple[float, list[float], float]:
    """The constant term, the others scaled to 0..1, and their scale."""
    width, height = size
    # Row by row first: a tenth of the multiplications.
    waves = [_wave(width, column) for column in range(columns)]
    lines = [channel[at : at + width] for at in range(0, len(channel), width)]
    sums = [[_dot(line, wave) for line in lines] for wave in waves]
    terms = [
        _dot(sums[column], _wave(height, row)) / (width * height)
        for row in range(rows)
        for column in range(columns)
        if column * rows < columns * (rows - row)
    ]
    constant, others = terms[0], terms[1:]
    scale = max(map(abs, others))
    return constant, [0.5 + 0.5 / scale * term for term in others] if scale else others, scale


def _wave(length: int, number: int) -> list[float]:
    return [math.cos(math.pi / length * number * (at + 0.5)) for at in range(length)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _pack(terms: Sequence[float]) -> Iterator[int]:
    nibbles = [_round(15 * term) for term in terms]
    nibbles += [0] * (len(nibbles) % 2)
    for low, high in zip(nibbles[::2], nibbles[1::2], strict=True):
        yield low | high << 4


def _round(value: float) -> int:
    """Half up, as the algorithm's own language does."""
    return math.floor(value + 0.5)
