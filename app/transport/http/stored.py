"""Answers out of the storage: ranges, conditions, `HEAD`, headers that let a browser run nothing.

RFC 9110, sections 13 and 14; RFC 6266 for names. Memory stays constant, whatever the size, and whoever
hangs up or ceases to read frees what the answer holds.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.kernel.problems import Problem
from app.transport.http.ranges import ByteRange, parse_ranges

# What a player in a page of ours may be shown, and nothing of it may run or load anything.
CONTENT_POLICY: Final = (
    "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
# Extension of ASGI: `{"type": ZERO_COPY, "file": fd, "offset": int, "count": int, "more_body": bool}`. Ours has
# `may_go_on` beside them, asked each time that the socket has taken some of it: where not, the rest stays away.
ZERO_COPY: Final = "http.response.zerocopysend"
# One of ours: `{"type": ABORT}` ends a connection whose answer cannot be finished.
ABORT: Final = "messenger.abort"

# A reader that takes less than this in so long has gone, whatever its connection says.
STALLED_SECONDS: Final = 60.0
# One that takes nothing for so long holds no more than what is on its way to it: what was read ahead is read again.
_PATIENCE_SECONDS: Final = 1.0
# What is read at once for a reader who has let us wait; twice as much each time that it does not.
_LEAST_WINDOW_BYTES: Final = 262_144
_MOST_WINDOW_BYTES: Final = 16_777_216
_ZERO_COPY_BYTES: Final = 16_777_216

_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_PLAIN_NAME: Final = re.compile(r"[^A-Za-z0-9!#$&+.^_`|~ ()\[\]{},@=-]")
# RFC 5987, attr-char.
_UNQUOTED: Final = "!#$&+-.^_`|~"

log = structlog.stdlib.get_logger("app.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is to be answered. `read(start, length)` gives its bytes; `open_file` a descriptor of the file that they
    lie in as they are, if there is one. Both raise problems. `may_go_on` is asked between pieces. `place` is held
    while they are sent, and raises a problem where there is none.
    """

    size: int
    etag: str
    media_type: str
    name: str
    is_shown: bool
    read: Callable[[int, int], AsyncGenerator[bytes]]
    open_file: Callable[[], Awaitable[int | None]] | None = None
    may_go_on: Callable[[], bool] = lambda: True
    place: Callable[[], AbstractAsyncContextManager[None]] = nullcontext


def answer_stored(request: Request, stored: Stored) -> Response:
    """The whole, a part, several, or that nothing has changed.

    Raises:
        RangeNotSatisfiable: range_not_satisfiable
    """
    headers = _headers(stored)
    if is_known(request, stored.etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = stored.media_type
    headers["Accept-Ranges"] = "bytes"
    ranges = _find_ranges(request, stored)
    if ranges is None:
        headers["Content-Length"] = str(stored.size)
        return _StoredAnswer(200, headers, stored, [ByteRange(0, stored.size)])
    if len(ranges) == 1:
        [part] = ranges
        headers["Content-Range"] = _content_range(part, stored.size)
        headers["Content-Length"] = str(part.length)
        return _StoredAnswer(206, headers, stored, ranges)
    boundary = secrets.token_hex(16)
    heads = [_part_head(boundary, part, stored) for part in ranges]
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    length = sum(len(head) for head in heads) + sum(part.length for part in ranges) + len(tail)
    headers["Content-Length"] = str(length)
    return _StoredAnswer(206, headers, stored, ranges, heads=heads, tail=tail)


def _headers(stored: Stored) -> dict[str, str]:
    """On `304` too. Nothing may keep it (the edge adds `no-store`): who may read it changes at any moment."""
    return {
        "ETag": f'"{stored.etag}"',
        "Content-Disposition": content_disposition(stored.name, is_shown=stored.is_shown),
        "Content-Security-Policy": CONTENT_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def content_disposition(name: str, *, is_shown: bool) -> str:
    """RFC 6266: a plain name for old clients, and the whole one where that is another."""
    kind = "inline" if is_shown else "attachment"
    plain = _PLAIN_NAME.sub("_", name)
    disposition = f'{kind}; filename="{plain}"'
    return (
        disposition
        if plain == name
        else f"{disposition}; filename*=UTF-8''{quote(name, safe=_UNQUOTED)}"
    )


def is_known(request: Request, etag: str) -> bool:
    """`If-None-Match`, by weak comparison."""
    values = request.headers.getlist("if-none-match")
    if not values:
        return False
    joined = ", ".join(values)
    return joined.strip() == "*" or f'"{etag}"' in _TAG.findall(joined)


def _find_ranges(request: Request, stored: Stored) -> Sequence[ByteRange] | None:
    """Only `GET` knows ranges. `If-Range` holds by strong comparison alone; a date never does: there is none."""
    header = request.headers.get("range")
    if header is None or request.method != "GET":
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != f'"{stored.etag}"':
        return None
    return parse_ranges(header, stored.size)


def _content_range(part: ByteRange, size: int) -> str:
    return f"bytes {part.start}-{part.end - 1}/{size}"


def _part_head(boundary: str, part: ByteRange, stored: Stored) -> bytes:
    lines = (
        f"\r\n--{boundary}",
        f"Content-Type: {stored.media_type}",
        f"Content-Range: {_content_range(part, stored.size)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class _StoredAnswer(Response):
    """The head leaves only when the first bytes are at hand: until then anything may still be refused."""

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        stored: Stored,
        ranges: Sequence[ByteRange],
        *,
        heads: Sequence[bytes] = (),
        tail: bytes = b"",
    ) -> None:
        self.status_code = status
        self.background = None
        self.body = b""
        self.init_headers(headers)
        self._stored = stored
        self._ranges = ranges
        self._heads = heads
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = _Line(scope, receive, send, self._stored.may_go_on)
        line.head = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        async with line:
            try:
                await self._serve(scope, line)
            except (Problem, TimeoutError, _CutOff) as error:
                if not line.has_begun:
                    raise
                log.warning("answer_cut_off", reason=getattr(error, "code", type(error).__name__))
                await line.cut()

    async def _serve(self, scope: Scope, line: "_Line") -> None:
        if scope["method"] == "HEAD":
            await line.send_body(b"", is_last=True)
            return
        async with self._stored.place():
            await self._send(scope, line)

    async def _send(self, scope: Scope, line: "_Line") -> None:
        opener = self._stored.open_file
        can_send = ZERO_COPY in (scope.get("extensions") or {})
        descriptor = await opener() if opener is not None and can_send else None
        if descriptor is None:
            await self._send_pieces(line)
            return
        try:
            await self._send_file(line, descriptor)
        finally:
            os.close(descriptor)

    async def _send_pieces(self, line: "_Line") -> None:
        for position, part in enumerate(self._ranges):
            if self._heads:
                await line.send_body(self._heads[position])
            async with aclosing(_Reading(self._stored.read, part)) as reading:
                while (piece := await reading.next()) is not None:
                    if not line.is_open():
                        return
                    with reading.letting_go():
                        await line.send_body(piece)
        await line.send_body(self._tail, is_last=True)

    async def _send_file(self, line: "_Line", descriptor: int) -> None:
        for position, part in enumerate(self._ranges):
            if self._heads:
                await line.send_body(self._heads[position])
            for offset in range(part.start, part.end, _ZERO_COPY_BYTES):
                count = min(_ZERO_COPY_BYTES, part.end - offset)
                await line.send_file(descriptor, offset, count)
                if not line.is_open():
                    return
        await line.send_body(self._tail, is_last=True)


class _Reading:
    """The bytes of a range, read for somebody who may cease to take them: then what was read ahead, and what it was
    read from, is let go, and goes on from there.
    """

    def __init__(self, read: Callable[[int, int], AsyncGenerator[bytes]], part: ByteRange) -> None:
        self._read = read
        self._at = self._until = part.start
        self._end = part.end
        # All of it in one go, as long as the reader keeps up.
        self._window = part.length
        self._pieces: AsyncGenerator[bytes] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def next(self) -> bytes | None:
        """The next piece; None: there are no others."""
        await self._wait_closed()
        while self._at < self._end:
            if self._pieces is None:
                self._until = min(self._at + self._window, self._end)
                self._pieces = self._read(self._at, self._until - self._at)
            piece = await anext(self._pieces, None)
            if piece is not None:
                self._at += len(piece)
                return piece
            self._pieces = None
            if self._at < self._until:
                return None
            self._widen()
        return None

    @contextmanager
    def letting_go(self) -> Generator[None]:
        """While the last piece is sent."""
        timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._let_go)
        try:
            yield
        finally:
            timer.cancel()

    async def aclose(self) -> None:
        self._let_go()
        await self._wait_closed()

    def _widen(self) -> None:
        self._window *= 2
        if self._window > _MOST_WINDOW_BYTES:
            self._window = self._end

    def _let_go(self) -> None:
        self._window = _LEAST_WINDOW_BYTES
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            self._closing = asyncio.create_task(_close(pieces), name="let-go-of-file")

    async def _wait_closed(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            await closing


async def _close(pieces: AsyncGenerator[bytes]) -> None:
    await pieces.aclose()


class _CutOff(Exception):  # noqa: N818 - says what is so
    """Who reads may not any more."""


class _Line:
    """The client's end: whether it is there, may still read, and does. The head goes with the first bytes."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, may_go_on: Callable[[], bool]
    ) -> None:
        self.head: Message = {}
        self.has_begun = False
        self._can_abort = ABORT in (scope.get("extensions") or {})
        self._receive = receive
        self._send = send
        self._may_go_on = may_go_on
        self._end: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._end = asyncio.create_task(self._wait_for_end(), name="await-disconnect")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._end is not None:
            self._end.cancel()
            await asyncio.gather(self._end, return_exceptions=True)

    def is_open(self) -> bool:
        """Raises:
        _CutOff
        """
        if not self._may_go_on():
            raise _CutOff
        return self._end is not None and not self._end.done()

    async def send_body(self, body: bytes, *, is_last: bool = False) -> None:
        await self._begin()
        await self._send_in_time(
            {"type": "http.response.body", "body": body, "more_body": not is_last}
        )

    async def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Whoever does it watches its progress."""
        await self._begin()
        message: Message = {
            "type": ZERO_COPY,
            "file": descriptor,
            "offset": offset,
            "count": count,
            "more_body": True,
            "may_go_on": self._may_go_on,
        }
        await self._send(message)

    async def cut(self) -> None:
        """End the connection: without all of its bytes the answer is void, and the client sees that it is."""
        if not self._can_abort:
            raise ClientDisconnect
        await self._send({"type": ABORT})
        if self._end is not None:
            await asyncio.wait([self._end], timeout=STALLED_SECONDS)

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._send_in_time(self.head)

    async def _send_in_time(self, message: Message) -> None:
        async with asyncio.timeout(STALLED_SECONDS):
            await self._send(message)

    async def _wait_for_end(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
