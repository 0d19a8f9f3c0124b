"""Uploads byte by byte: for what no well-behaved client sends, and for lines that break."""

import asyncio
import json
from pathlib import Path
from typing import Any, Self

from app.infra.storage.names import MARKER
from tests.support.people import API

BOUNDARY = "limit-of-a-part"
FILE_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
).encode()
FORM_END = f"\r\n--{BOUNDARY}--\r\n".encode()


class RawUpload:
    """One connection with an upload under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_chunked = False

    @classmethod
    async def open(
        cls,
        port: int,
        token: str | None,
        *,
        length: int | None = None,
        path: str = f"{API}/files/upload",
        headers: tuple[str, ...] = (),
    ) -> Self:
        """`length`: the Content-Length that is claimed; None: chunked. The head is sent at once."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        upload = cls(reader, writer)
        upload._is_chunked = length is None
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: a",
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
            "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}",
            *headers,
        ]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        return upload

    async def send(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        await self._writer.drain()

    async def end(self) -> None:
        if self._is_chunked:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def answer(self) -> tuple[int, Any]:
        """Status and body, however much of the upload was sent."""
        async with asyncio.timeout(60):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            fields = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines[1:])
            }
            body = await self._reader.readexactly(int(fields.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), json.loads(body) if body else None

    def cut(self) -> None:
        """As a line that breaks."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()


def list_objects(var_dir: Path) -> list[Path]:
    """Everything of files in the local storage, halves of objects too."""
    paths = (var_dir / "files").rglob("*")
    return sorted(path for path in paths if path.is_file() and path.name != MARKER)
