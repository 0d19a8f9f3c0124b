"""What server and decoder say to each other over their one pipe, and the decoder's end of it.

The decoder owns nothing: it asks for the bytes it wants, piece by piece, and gives back what it made of them.
"""

import io
import json
import socket
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADER = struct.Struct(">cI")
"""The kind of a message, and the bytes that follow."""
SPAN = struct.Struct(">QI")
"""A place in the file and a number of bytes."""

READY = b"H"  # JSON: whether the decoder has locked itself in
JOB = b"J"  # JSON: format, size, CPU seconds
READ = b"R"  # a SPAN; answered by DATA of exactly so many bytes, fewer only at the end of the file
DATA = b"D"
RESULT = b"A"  # JSON: fields and the sizes of the parts, which follow, each as DATA
BROKEN = b"B"
TOO_LARGE = b"L"

BLOCK_BYTES = 262_144
"""What is asked for at once: a chunk of the cipher's."""
MAX_MESSAGE_BYTES = 65_536
"""Of all but DATA."""
_CACHED_BLOCKS = 16


class TooLarge(Exception):  # noqa: N818 - says what is found, not what was done
    """The decoder will not take this on."""


@dataclass(frozen=True, slots=True)
class Job:
    format: str
    size: int
    cpu_seconds: int


@dataclass(frozen=True, slots=True)
class Answer:
    fields: Mapping[str, Any]
    parts: Sequence[bytes]


class Pipe:
    """The decoder's end. Raises EOFError when the server is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def say_ready(self, *, is_locked: bool) -> None:
        self._send(READY, json.dumps({"is_locked": is_locked}).encode())

    def next_job(self) -> Job:
        job = json.loads(self._receive(JOB))
        return Job(format=job["format"], size=job["size"], cpu_seconds=job["cpu_seconds"])

    def read(self, start: int, length: int) -> bytes:
        self._send(READ, SPAN.pack(start, length))
        return self._receive(DATA)

    def answer(self, answer: Answer) -> None:
        sizes = [len(part) for part in answer.parts]
        self._send(RESULT, json.dumps({"fields": dict(answer.fields), "sizes": sizes}).encode())
        for part in answer.parts:
            self._send(DATA, part)

    def refuse(self, reason: bytes) -> None:
        self._send(reason, b"")

    def _send(self, kind: bytes, content: bytes) -> None:
        try:
            self._connection.sendall(HEADER.pack(kind, len(content)))
            self._connection.sendall(content)
        except OSError as error:
            raise EOFError from error

    def _receive(self, expected: bytes) -> bytes:
        kind, length = HEADER.unpack(self._receive_exactly(HEADER.size))
        if kind != expected:
            raise EOFError
        return self._receive_exactly(length)

    def _receive_exactly(self, length: int) -> bytes:
        content = bytearray(length)
        view = memoryview(content)
        while view:
            count = self._connection.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(content)


class SourceFile(io.RawIOBase):
    """The file of a job, for libraries that read and seek. The last blocks stay: a container's tracks lie apart."""

    def __init__(self, pipe: Pipe, size: int) -> None:
        super().__init__()
        self._pipe = pipe
        self._size = size
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError("negative position")
        self._position = origin + offset
        return self._position

    def readinto(
        self, buffer: Any
    ) -> int:  # Any: what the buffer protocol takes has no name in 3.11
        if self._position >= self._size:
            return 0
        number, skip = divmod(self._position, BLOCK_BYTES)
        piece = self._block(number)[skip : skip + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _block(self, number: int) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            start = number * BLOCK_BYTES
            block = self._pipe.read(start, min(BLOCK_BYTES, self._size - start))
        self._blocks[number] = block
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block
