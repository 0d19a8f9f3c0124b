"""Objects in chunks: whatever pieces they come in, whatever part is read, and nothing opens that was touched."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.infra.cipher.chunks import (
    TAG_BYTES,
    ChunkInvalid,
    ObjectCipher,
    open_chunks,
    seal_chunks,
    sealed_size,
)
from app.infra.cipher.envelope import DataKey

pytestmark = pytest.mark.anyio

CHUNK = 64
WHOLE = CHUNK + TAG_BYTES
SECRET = bytes(range(32))


class Spy:
    """Bytes in a storage, given in pieces of odd sizes; remembers what was read of them."""

    def __init__(self, stored: bytes, *, piece: int = 37) -> None:
        self.stored = stored
        self.piece = piece
        self.asked: list[tuple[int, int]] = []

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        self.asked.append((start, length))
        end = min(start + length, len(self.stored))
        for position in range(start, end, self.piece):
            yield self.stored[position : min(position + self.piece, end)]


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def seal(content: bytes, *, piece: int = 50, chunk_size: int = CHUNK) -> bytes:
    cipher = ObjectCipher(SECRET)
    sealed = seal_chunks(cipher, in_pieces(content, piece), chunk_size)
    return b"".join([part async for part in sealed])


async def read(
    stored: bytes, size: int, start: int, length: int, *, chunk_size: int = CHUNK
) -> bytes:
    opened = open_chunks(
        ObjectCipher(SECRET),
        Spy(stored).read,
        size=size,
        start=start,
        length=length,
        chunk_size=chunk_size,
    )
    return b"".join([part async for part in opened])


@given(st.data())
async def test_every_part_of_an_object_is_what_was_sealed(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=6 * CHUNK))
    stored = await seal(content, piece=data.draw(st.integers(1, 3 * CHUNK)))
    assert len(stored) == sealed_size(len(content), CHUNK)
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - start))
    assert await read(stored, len(content), start, length) == content[start : start + length]


async def test_a_range_reads_the_chunks_that_it_touches_and_no_others() -> None:
    content = os.urandom(10 * CHUNK + 5)
    spy = Spy(await seal(content))
    cipher = ObjectCipher(SECRET)
    opened = open_chunks(
        cipher, spy.read, size=len(content), start=3 * CHUNK + 1, length=CHUNK, chunk_size=CHUNK
    )
    assert b"".join([part async for part in opened]) == content[3 * CHUNK + 1 : 4 * CHUNK + 1]
    assert spy.asked == [(3 * WHOLE, 2 * WHOLE)]


@given(st.data())
async def test_whatever_is_changed_does_not_open(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=4 * CHUNK))
    stored = await seal(content)
    place = data.draw(st.integers(0, len(stored) - 1))
    changed = bytearray(stored)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ChunkInvalid):
        await read(bytes(changed), len(content), 0, len(content))


async def test_chunks_cannot_be_swapped_cut_off_repeated_or_added() -> None:
    content = os.urandom(4 * CHUNK)
    stored = await seal(content)
    one, two, three, four = (stored[i * WHOLE : (i + 1) * WHOLE] for i in range(4))
    for size, forged in (
        (4 * CHUNK, two + one + three + four),
        (4 * CHUNK, one + two + three),
        (3 * CHUNK, one + two + three),
        (4 * CHUNK, one + one + three + four),
        (5 * CHUNK, one + two + three + four + four),
        (4 * CHUNK, one + two + three + four[:-1]),
    ):
        with pytest.raises(ChunkInvalid):
            await read(forged, size, 0, size)


async def test_an_empty_object_is_sealed_too() -> None:
    stored = await seal(b"")
    assert len(stored) == TAG_BYTES == sealed_size(0, CHUNK)


async def test_without_a_cipher_the_bytes_stay_as_they_are() -> None:
    content = os.urandom(1000)
    assert await seal(content, chunk_size=0) == content
    assert await read(content, 1000, 10, 500, chunk_size=0) == content[10:510]


async def test_each_object_has_a_key_of_its_own_and_a_new_version_changes_none() -> None:
    key = DataKey("blob:5", {1: SECRET})
    newer = DataKey("blob:5", {1: SECRET, 2: os.urandom(32)})
    sealed = key.object_cipher("one").seal(0, b"content", is_last=True)
    assert newer.object_cipher("one").open(0, sealed, is_last=True) == b"content"
    for other in (
        key.object_cipher("two"),
        DataKey("blob:5", {1: os.urandom(32)}).object_cipher("one"),
    ):
        with pytest.raises(ChunkInvalid):
            other.open(0, sealed, is_last=True)


async def test_who_stops_in_the_middle_closes_what_is_read() -> None:
    content = os.urandom(100 * CHUNK)
    stored = await seal(content)
    closed: list[bool] = []

    async def source(start: int, length: int) -> AsyncIterator[bytes]:
        try:
            for position in range(start, start + length, WHOLE):
                yield stored[position : position + WHOLE]
        finally:
            closed.append(True)

    opened = open_chunks(
        ObjectCipher(SECRET),
        source,
        size=len(content),
        start=0,
        length=len(content),
        chunk_size=CHUNK,
    )
    assert await anext(opened) == content[:CHUNK]
    await opened.aclose()
    assert closed == [True]


async def test_what_was_read_needs_no_collector_to_go() -> None:
    """An object of many parts would hold a megabyte of each."""
    stored = await seal(bytes(10 * CHUNK))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert await read(stored, 10 * CHUNK, 0, 10 * CHUNK) == bytes(10 * CHUNK)
        # What the loop still holds of the last one it lets go now.
        await asyncio.sleep(0)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("keeps_up", [True, False])
async def test_only_for_who_keeps_up_is_anything_read_ahead(keeps_up: bool) -> None:
    """Or each of thousands who stall would hold megabytes."""
    count = 100
    stored = await seal(bytes(count * CHUNK))
    given = 0

    async def source(start: int, length: int) -> AsyncIterator[bytes]:
        nonlocal given
        for position in range(start, start + length, WHOLE):
            given += 1
            yield stored[position : position + WHOLE]

    opened = open_chunks(
        ObjectCipher(SECRET),
        source,
        size=count * CHUNK,
        start=0,
        length=count * CHUNK,
        chunk_size=CHUNK,
    )
    ahead: list[int] = []
    with patch("app.infra.cipher.chunks._PROMPT_SECONDS", 60 if keeps_up else -1):
        async with aclosing(opened):
            async for _ in opened:
                # Whatever is fetched meanwhile has been.
                await asyncio.sleep(0)
                ahead.append(given - len(ahead) - 1)
    assert ahead[:10] == [0] * 10
    assert (max(ahead) > 4) is keeps_up
    if not keeps_up:
        assert max(ahead) == 0
