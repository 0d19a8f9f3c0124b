"""Bytes for a reader who ceases to take them: what was read ahead is let go, and nothing is lost."""

import asyncio
import os
from collections.abc import AsyncGenerator
from unittest.mock import patch

import pytest

from app.transport.http.ranges import ByteRange
from app.transport.http.stored import _Reading  # pyright: ignore[reportPrivateUsage]

pytestmark = pytest.mark.anyio

KIB = 1024
PIECE = 256 * KIB
CONTENT = os.urandom(64 * PIECE + 1)


class Source:
    """Remembers what was asked for; `closed` is set whenever one reading is over."""

    def __init__(self, *, cut_at: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.closed = asyncio.Event()
        self._content = CONTENT[:cut_at]

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        self.asked.append((start, length))
        try:
            end = min(start + length, len(self._content))
            for at in range(start, end, PIECE):
                yield self._content[at : min(at + PIECE, end)]
        finally:
            self.closed.set()


def read(source: Source) -> _Reading:
    return _Reading(source.read, ByteRange(0, len(CONTENT)))


async def rest_of(reading: _Reading) -> bytes:
    pieces: list[bytes] = []
    while (piece := await reading.next()) is not None:
        with reading.letting_go():
            pieces.append(piece)
    return b"".join(pieces)


async def test_a_reader_who_keeps_up_reads_all_in_one_go() -> None:
    source = Source()
    assert await rest_of(read(source)) == CONTENT
    assert source.asked == [(0, len(CONTENT))]


async def test_while_a_reader_stalls_nothing_is_held_and_then_it_goes_on() -> None:
    source = Source()
    reading = read(source)
    first = await reading.next()
    with patch("app.transport.http.stored._PATIENCE_SECONDS", 0), reading.letting_go():
        async with asyncio.timeout(30):
            await source.closed.wait()
    assert first is not None
    assert first + await rest_of(reading) == CONTENT
    # Who has stalled once has to show that he does not any more.
    windows = [length for _, length in source.asked[1:]]
    assert windows[:6] == [PIECE, 2 * PIECE, 4 * PIECE, 8 * PIECE, 16 * PIECE, 32 * PIECE]
    assert len(windows) == 7


async def test_an_object_that_is_shorter_than_it_was_ends() -> None:
    source = Source(cut_at=3 * PIECE)
    assert await rest_of(read(source)) == CONTENT[: 3 * PIECE]


async def test_who_hangs_up_while_it_stalls_leaves_nothing_open() -> None:
    source = Source()
    reading = read(source)
    await reading.next()
    await reading.aclose()
    assert source.closed.is_set()
