"""Objects of the storage as plain bytes: sealed when they are written, opened when they are read."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from app.infra.cipher.chunks import CHUNK_BYTES, ObjectCipher, open_chunks, seal_chunks
from app.infra.storage.port import Storage
from app.settings import FileSettings

_NAME_BYTES = 24


def make_object_name() -> str:
    """192 random bits: it tells nothing, and is never used twice."""
    return secrets.token_urlsafe(_NAME_BYTES)


def choose_chunk_size(settings: FileSettings) -> int:
    """Of objects that are written from now on; 0: in plain."""
    return CHUNK_BYTES if settings.encrypt else 0


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is there. `size` is that of the plain bytes; also a `MediaSource`."""

    storage: Storage
    name: str
    cipher: ObjectCipher
    size: int
    chunk_size: int

    def open(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """Raises:
        ObjectMissing, ChunkInvalid
        StorageUnavailable: storage_unavailable
        """
        return open_chunks(
            self.cipher,
            self._read,
            size=self.size,
            start=start,
            length=length,
            chunk_size=self.chunk_size,
        )

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes, fewer only at the end."""
        length = max(0, min(length, self.size - start))
        async with aclosing(self.open(start, length)) as pieces:
            return b"".join([piece async for piece in pieces])

    def _read(self, start: int, length: int) -> AsyncIterator[bytes]:
        return self.storage.read(self.name, start=start, length=length)


async def write_object(
    storage: Storage,
    name: str,
    chunks: AsyncIterable[bytes],
    *,
    cipher: ObjectCipher,
    chunk_size: int,
) -> int:
    """Gives the bytes that it takes in the storage.

    Raises:
        StorageFull: storage_full
        StorageUnavailable: storage_unavailable
    """
    async with aclosing(seal_chunks(cipher, chunks, chunk_size)) as sealed:
        return await storage.write(name, sealed)


async def one_piece(content: bytes) -> AsyncGenerator[bytes]:
    yield content
