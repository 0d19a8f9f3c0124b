"""Which kinds of tracks an MP4 has, wherever in the file its list of them lies: recorders write it last.

ISO/IEC 14496-12: a file is a row of boxes, each with its length and four letters; `moov` holds a `trak` for each
track, whose `mdia` names its kind in `hdlr`. Only heads of boxes are read, the samples are skipped.
"""

# ruff: noqa: PLR2004 - bits and lengths of the format

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from app.infra.media.port import MediaSource

# What is fetched at once: mostly it holds a `trak` up to the name of its kind.
_WINDOW_BYTES: Final = 4096
# Whatever a file says of itself, it is read no further than this.
_MAX_READS: Final = 64
_MAX_BOXES: Final = 1000
_WAY: Final = (b"moov", b"trak", b"mdia", b"hdlr")


class _Exhausted(Exception):  # noqa: N818 - says what is so
    """The file asks for more reads than any that is sound."""


async def find_track_kinds(source: MediaSource) -> frozenset[bytes]:
    """`vide`, `soun` and others of the format; empty: it has no list of tracks that could be found."""
    kinds: set[bytes] = set()
    try:
        async with aclosing(_Reader(source).walk(0, source.size, _WAY)) as found:
            async for kind in found:
                kinds.add(kind)
    except _Exhausted:
        return frozenset()
    return frozenset(kinds)


class _Reader:
    def __init__(self, source: MediaSource) -> None:
        self._source = source
        self._start = 0
        self._window = b""
        self._reads = 0
        self._boxes = 0

    async def walk(self, start: int, end: int, way: Sequence[bytes]) -> AsyncGenerator[bytes]:
        """The kinds in all boxes that this way leads to. One that is cut off counts as far as it goes."""
        at = start
        while at + 8 <= end:
            name, content, behind = await self._box(at, end)
            if behind <= at:
                return
            if name == way[0] and len(way) > 1:
                async with aclosing(self.walk(content, min(behind, end), way[1:])) as found:
                    async for kind in found:
                        yield kind
            elif name == way[0]:
                yield (await self._read(content, 12))[8:]
            at = behind

    async def _box(self, at: int, end: int) -> tuple[bytes, int, int]:
        """The name of the box, where its content begins, and where the next one does."""
        self._boxes += 1
        if self._boxes > _MAX_BOXES:
            raise _Exhausted
        head = await self._read(at, 16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 0:
            return name, at + 8, end
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
            return name, at + 16, at + length if length >= 16 else at
        return name, at + 8, at + length if length >= 8 else at

    async def _read(self, at: int, length: int) -> bytes:
        """Fewer bytes only at the end of the file."""
        offset = at - self._start
        if not 0 <= offset <= len(self._window) - length:
            self._reads += 1
            if self._reads > _MAX_READS:
                raise _Exhausted
            self._start, offset = at, 0
            self._window = await self._source.read(at, _WINDOW_BYTES)
        return self._window[offset : offset + length]
