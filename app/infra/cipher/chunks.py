"""Objects of the storage as chunks that can be opened one by one: AES-256-GCM in the STREAM construction.

Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance
(CRYPTO 2015). The nonce of a chunk is its number and whether it is the last one; each object has a key of
its own and is written once, so no nonce repeats, and no chunk can be moved, left out or cut off. All chunks
but the last hold `chunk_size` bytes; behind each stands its tag. Every object has at least one chunk.

A `chunk_size` of 0 is an object without a cipher.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK_BYTES: Final = 262_144
TAG_BYTES: Final = 16

# What is read and opened in one hop to a thread, for a reader who keeps up: measured, a hop costs half as much as
# opening a chunk. Others have one chunk a hop, and nothing is read ahead for them: who stalls holds what was read.
_MOST_CHUNKS_A_HOP: Final = 4
# Who takes each chunk within this (2.5 MiB/s), and has taken more than the sockets between us take by themselves,
# keeps up.
_PROMPT_SECONDS: Final = 0.1
_PROMPT_CHUNKS: Final = 16
_NUMBER_BYTES: Final = 11


class ChunkInvalid(Exception):  # noqa: N818 - says what is found, not what was done
    """A stored object was changed, cut, moved, or belongs to another key. Holds no part of it."""


class ObjectCipher:
    """The key of one object. `on_invalid` hears of a chunk that does not open."""

    __slots__ = ("_cipher", "_on_invalid")

    def __init__(self, secret: bytes, *, on_invalid: Callable[[], None] = lambda: None) -> None:
        """`secret`: 32 bytes that seal nothing else."""
        self._cipher = AESGCM(secret)
        self._on_invalid = on_invalid

    def seal(self, number: int, chunk: bytes | bytearray | memoryview, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(number, is_last=is_last), chunk, None)

    def open(self, number: int, sealed: bytes | memoryview, *, is_last: bool) -> bytes:
        """Raises:
        ChunkInvalid
        """
        try:
            return self._cipher.decrypt(_nonce(number, is_last=is_last), sealed, None)
        except (InvalidTag, ValueError):
            self._on_invalid()
            msg = f"chunk {number} of an object does not open"
            raise ChunkInvalid(msg) from None


def sealed_size(size: int, chunk_size: int) -> int:
    """How many bytes an object of `size` bytes takes in the storage."""
    return size if chunk_size == 0 else size + TAG_BYTES * count_chunks(size, chunk_size)


def count_chunks(size: int, chunk_size: int) -> int:
    return max(1, -(-size // chunk_size))


async def seal_chunks(
    cipher: ObjectCipher, chunks: AsyncIterable[bytes], chunk_size: int
) -> AsyncGenerator[bytes]:
    """The object as it is stored, whatever pieces its bytes come in; holds one chunk at a time."""
    if chunk_size == 0:
        async for piece in chunks:
            yield piece
        return
    number = 0
    waiting = bytearray()
    async for piece in chunks:
        waiting += piece
        # Only when more is there than one chunk: the last one has to be known for it.
        while len(waiting) > chunk_size:
            chunk = bytes(memoryview(waiting)[:chunk_size])
            del waiting[:chunk_size]
            yield await asyncio.to_thread(cipher.seal, number, chunk, is_last=False)
            number += 1
    yield await asyncio.to_thread(cipher.seal, number, bytes(waiting), is_last=True)


async def open_chunks(
    cipher: ObjectCipher,
    read: Callable[[int, int], AsyncIterator[bytes]],
    *,
    size: int,
    start: int,
    length: int,
    chunk_size: int,
) -> AsyncGenerator[bytes]:
    """`length` bytes from `start` on of an object of `size` bytes. `read(start, length)` reads what is
    stored; it is asked once, for the chunks that are touched.

    Raises:
        ChunkInvalid
    """
    if length <= 0:
        return
    if chunk_size == 0:
        async with aclosing(_as_generator(read(start, length))) as pieces:
            async for piece in pieces:
                yield piece
        return
    whole = chunk_size + TAG_BYTES
    first, last = start // chunk_size, (start + length - 1) // chunk_size
    final = count_chunks(size, chunk_size) - 1
    stored_start = first * whole
    stored_end = min((last + 1) * whole, sealed_size(size, chunk_size))
    skipped, left = start - first * chunk_size, length
    number = first
    async with (
        aclosing(_as_generator(read(stored_start, stored_end - stored_start))) as pieces,
        aclosing(_Groups(pieces, whole)) as groups,
    ):
        while group := await groups.take():
            opened = await asyncio.to_thread(_open_group, cipher, group, number, final, whole)
            number += len(opened)
            began, patience = time.monotonic(), len(opened) * _PROMPT_SECONDS
            while opened:
                # Out of the list: whoever stalls at the last chunk holds that one alone.
                part = opened.pop()[skipped:][:left]
                skipped = 0
                left -= len(part)
                if part:
                    yield part
            groups.note_pace(is_prompt=time.monotonic() - began < patience)
    if left:
        msg = "an object is shorter than it was"
        raise ChunkInvalid(msg)


def _open_group(
    cipher: ObjectCipher, group: bytes, number: int, final: int, whole: int
) -> list[bytes]:
    """Its chunks, the first one at the end."""
    view = memoryview(group)
    opened = [
        cipher.open(
            number + position, view[start : start + whole], is_last=number + position == final
        )
        for position, start in enumerate(range(0, len(group), whole))
    ]
    opened.reverse()
    return opened


class _Groups:
    """The same bytes in groups of chunks, as many as suit the reader. `whole`: a chunk as it is stored."""

    def __init__(self, pieces: AsyncGenerator[bytes], whole: int) -> None:
        self._pieces = pieces
        self._whole = whole
        self._count = 1
        self._prompt = 0
        self._rest = b""
        self._coming: asyncio.Future[bytes] | None = None

    async def take(self) -> bytes:
        """The next group; empty: there are no others. For who keeps up, one more is fetched meanwhile."""
        coming, self._coming = self._coming, None
        group = await (self._gather() if coming is None else coming)
        if self._count == _MOST_CHUNKS_A_HOP:
            # The end is a value: an exception that a future keeps would keep this frame with its megabyte, and
            # that the future, until the collector comes by. Measured: 150 MB over a gigabyte in parts.
            self._coming = asyncio.ensure_future(self._gather())
        return group

    def note_pace(self, *, is_prompt: bool) -> None:
        """How the reader took the last group."""
        self._prompt = self._prompt + self._count if is_prompt else 0
        self._count = _MOST_CHUNKS_A_HOP if self._prompt >= _PROMPT_CHUNKS else 1

    async def aclose(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)

    async def _gather(self) -> bytes:
        size = self._count * self._whole
        gathered, held = [self._rest], len(self._rest)
        self._rest = b""
        while held < size and (piece := await anext(self._pieces, None)) is not None:
            gathered.append(piece)
            held += len(piece)
        joined = b"".join(gathered)
        self._rest = joined[size:]
        return joined[:size]


async def _as_generator(items: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """What can be closed, whatever it was."""
    try:
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big") + bytes((is_last,))
