"""The hash of a picture against another implementation of the algorithm (thumbhash-python 1.0.1)."""

import pytest

from app.infra.media.placeholder import hash_pixels


@pytest.mark.parametrize(
    ("width", "height", "is_opaque", "expected"),
    [
        (31, 17, True, "1f080624845686863543662096b659c39f6fc6"),
        (9, 29, False, "9ff7851202296774790676858d60f79c65785079a59666"),
        (23, 23, True, "1ff8050f06626767556468026515a5a77849f643e78bf302"),
    ],
)
def test_the_hash_is_the_published_one(
    width: int, height: int, *, is_opaque: bool, expected: str
) -> None:
    pixels = bytes(
        value
        for y in range(height)
        for x in range(width)
        for value in (
            (x * x * 7 + y * 13) % 256,
            (x * 11 + y * y * 3) % 256,
            (x * 5 + y * 17) % 256,
            255 if is_opaque else (x * 9 + y * 6 + 40) % 256,
        )
    )
    assert hash_pixels(width, height, pixels).hex() == expected


def test_a_picture_of_one_colour_and_one_that_is_not_there_have_a_hash() -> None:
    assert len(hash_pixels(1, 1, bytes([10, 20, 30, 255]))) == 24
    assert len(hash_pixels(2, 2, bytes(16))) == 25
