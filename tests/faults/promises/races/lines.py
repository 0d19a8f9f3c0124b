"""HTTP/1.1 over connections that can be cut at any moment; far cheaper a call than a full client.

Only what the server sends is read: every answer of it has a length or no body.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.tcp_proxy import reset

Job = Callable[[], Awaitable[None]]
_PATIENCE_SECONDS = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class NoAnswer(Exception):  # noqa: N818 - what happened
    """The line broke, or we cut it: whether the call was done is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is None where there is none."""

    status: int
    body: Any = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """The problem's word."""
        return "" if self.is_success else self.body["code"]


class Line:
    """One connection; one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> Answer:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        content = await self._reader.readexactly(int(length[1])) if length else b""
        return Answer(int(head[9:12]), json.loads(content) if content else None)

    @property
    def is_closed(self) -> bool:
        """By the server."""
        return self._reader.at_eof() or self._writer.is_closing()

    def cut(self) -> None:
        reset(self._writer)


class Door:
    """Where one worker is called: connections are kept and used again. `losses`: answers that went lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.losses = 0
        self._idle: list[Line] = []

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str = "",
        cut_after: float | None = None,
    ) -> Answer:
        """One call, cut after so many seconds if they are given.

        Raises:
            NoAnswer
        """
        request = _write_request(method, path, body, token)
        line: Line | None = None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if cut_after is None else cut_after):
                line = self._take_idle() or await self._open()
                answer = await line.ask(request)
        except (OSError, EOFError, TimeoutError) as error:
            self.losses += 1
            if line is not None:
                line.cut()
            raise NoAnswer from error
        self._idle.append(line)
        return answer

    def close(self) -> None:
        """Forget the connections, as after the worker's restart."""
        while self._idle:
            self._idle.pop().cut()

    def _take_idle(self) -> Line | None:
        """None that the server has closed meanwhile, for having been idle too long."""
        while self._idle:
            line = self._idle.pop()
            if not line.is_closed:
                return line
        return None

    async def _open(self) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", self.port))


def _write_request(method: str, path: str, body: object, token: str) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if content:
        lines.append("Content-Type: application/json")
    lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


async def run_all(jobs: Sequence[Job], *, at_once: int) -> None:
    """Each job once, so many at the same time; the first failure ends them all."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
