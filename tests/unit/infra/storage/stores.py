"""What the tests of every storage ask of it, and the bytes that they store."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from app.infra.storage.port import Storage
from app.settings import FileSettings
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


def new_bucket(server: S3Server, prefix: str = "", *, port: int | None = None) -> FileSettings:
    """Settings that name a new bucket; `port` of a proxy in between."""
    bucket = f"files-{secrets.token_hex(8)}"
    server.make_bucket(bucket)
    return files_at(server.url(bucket, prefix, port=port))


def files_at(url: str, **others: object) -> FileSettings:
    keys = {"storage_access_key": ACCESS_KEY, "storage_secret_key": SECRET_KEY}
    return FileSettings(_env_file=None, storage_url=url, **(keys | others))


def new_name() -> str:
    return secrets.token_urlsafe(24)


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def put(storage: Storage, *pieces: bytes) -> str:
    """A new object of these pieces; answers its name."""
    name = new_name()
    assert await storage.write(name, stream(pieces)) == sum(map(len, pieces))
    return name


async def get(storage: Storage, name: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([piece async for piece in storage.read(name, start=start, length=length)])


async def names(storage: Storage) -> set[str]:
    return {name async for name, _ in storage.list_names()}


class Store:
    """Answers every request with one status and one S3 code."""

    def __init__(self, status: int, code: str) -> None:
        self._answer = f"<Error><Code>{code}</Code><Message>No.</Message></Error>" if code else ""
        self._status = status

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            body = b"" if head.startswith(b"head") else self._answer.encode()
            writer.write(
                f"HTTP/1.1 {self._status} X\r\ncontent-length: {len(body)}\r\n"
                "content-type: application/xml\r\nconnection: close\r\n\r\n".encode()
            )
            writer.write(body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def run_store(status: int, code: str = "") -> AsyncIterator[str]:
    """A store that says nothing else; answers its STORAGE_URL."""
    server = await asyncio.start_server(Store(status, code).serve, "127.0.0.1", 0)
    async with server:
        yield f"s3://bucket?endpoint=http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
