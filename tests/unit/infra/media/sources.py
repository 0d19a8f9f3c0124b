"""Files in memory, and one that need not be there at all."""

from collections.abc import Callable


class Bytes:
    """A file, and how much of it was read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.read_bytes = 0

    @property
    def size(self) -> int:
        return len(self._content)

    async def read(self, start: int, length: int) -> bytes:
        piece = self._content[start : start + length]
        self.read_bytes += len(piece)
        return piece


class Spread:
    """`head`, then so many bytes of nothing, then `tail`."""

    def __init__(self, head: bytes, gap: int, tail: bytes = b"") -> None:
        self._head, self._gap, self._tail = head, gap, tail
        self.read_bytes = 0

    @property
    def size(self) -> int:
        return len(self._head) + self._gap + len(self._tail)

    async def read(self, start: int, length: int) -> bytes:
        self.read_bytes += length
        end = len(self._head) + self._gap
        piece = self._head[start : start + length]
        piece += bytes(max(0, min(end, start + length) - max(start, len(self._head))))
        if start + length > end:
            piece += self._tail[max(0, start - end) : start + length - end]
        return piece


class Watched(Bytes):
    """Tells when it is read."""

    def __init__(self, content: bytes, on_read: Callable[[], None]) -> None:
        super().__init__(content)
        self._on_read = on_read

    async def read(self, start: int, length: int) -> bytes:
        self._on_read()
        return await super().read(start, length)


class Repeated:
    """The same bytes over and over."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content, self.size = content, size
        self.read_bytes = 0

    async def read(self, start: int, length: int) -> bytes:
        self.read_bytes += length
        skip = start % len(self._content)
        copies = -(-(skip + length) // len(self._content))
        return (self._content * copies)[skip : skip + length]
