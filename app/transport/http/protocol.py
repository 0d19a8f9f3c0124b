"""uvicorn's HTTP protocol as `python -m app` runs it: nine things added.

1. A deadline for the head of a request. Measured: without one, half a request line keeps a connection
   for ever, and a few thousand of them the server.
2. A stop leaves idle connections open for a moment: a proxy may be sending a request on one of them,
   and must not repeat it elsewhere if that was a POST. Whoever asks is told to close.
3. A body that nobody asked for has deadlines too, between its pieces and in all. Measured: an answered
   request whose body never ends keeps its connection for ever, for its first byte ends the patience with
   idle connections.
4. What uvicorn refuses itself (no HTTP, too many connections) is refused in our words and headers.
5. Files that lie in the storage as they are go out without being copied, see `zero_copy.py`.
6. The head is bounded while it comes. Measured: 20 MB of fields on one connection, which the edge would refuse
   once they are whole, were 385 MB of memory. Trailers are bounded alike, and are no part of it.
7. Who takes nothing of an answer for a while is cut off: closing waits for what is unsent, for ever.
8. Whoever is refused while the body still comes gets to read why: closing at once would reset the line, and
   with it the answer. What comes is dropped for a while, as nginx's `lingering_close` does it, unless it drips.
9. Few requests wait for the answers to earlier ones, and no upgrade does: another protocol would take the line
   from them, and leave their tasks for good.
"""

import asyncio
import contextlib
import os
import select
import socket
import sys
from http import HTTPStatus
from typing import ClassVar, Final, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong

from app.kernel.problems import BadRequest, Problem, Unavailable, UriTooLong
from app.transport.http.middleware import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    HeadersTooLarge,
    make_request_id,
)
from app.transport.http.problems import problem_response
from app.transport.http.security_headers import SECURITY_HEADERS, add_missing
from app.transport.http.zero_copy import ZeroCopyApp

# RFC 9110 section 4.1 asks for 8,000 at least. With method and version it stays within what the second
# parser, that of WebSocket handshakes, takes as a line.
MAX_TARGET_BYTES: Final = 8_000
# Of a head that is within the bounds, its separators included: `: ` and a line end for each field.
_MAX_UNFINISHED_BYTES: Final = MAX_TARGET_BYTES + MAX_HEADER_BYTES + 4 * MAX_HEADERS + 64
_RETRY_SECONDS = 5
# Of a body that nobody wants, from one look at it to the next: whoever sends less only means to stay.
_LEAST_LEFTOVER_BYTES: Final = 4_096
# Requests that wait for the answers to earlier ones. Measured: 126 KB of them in one read were 15.8 MB.
_MOST_PIPELINED: Final = 16
# Of Linux' tcp_info: `tcpi_bytes_acked`, since 4.1.
_TAKEN_AT: Final = 120


class _HeadRefused(Exception):  # noqa: N818 - says what happened
    """Out of a callback of the parser, which then parses no further."""


class HttpProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=HttpProtocol)`: the whole head within `head_seconds`, or the end."""

    head_seconds: ClassVar[float] = 10.0
    drain_seconds: ClassVar[float] = 0.5
    # Those of nginx: how often one looks whether more of an unwanted body comes, and for how long.
    leftover_seconds: ClassVar[float] = 5.0
    lingering_seconds: ClassVar[float] = 30.0
    unread_seconds: ClassVar[float] = 90.0
    _leftover_timer: asyncio.TimerHandle | None = None
    _lingers_until = 0.0
    # Since the last look.
    _come_bytes = 0
    # It was refused because there are too many: its place is wanted.
    _is_overfull = False
    # Its answer says that the connection ends, and its body still comes.
    _ends_softly = False
    _unread_timer: asyncio.TimerHandle | None = None
    _is_within_message = False
    _is_within_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _is_draining = False
    # What came since the parser last got on: a head or trailers without an end.
    _unfinished_bytes = 0
    _excess: Problem | None = None
    # What comes is dropped unparsed.
    _is_deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn
        super().connection_made(transport)
        # It would answer for us.
        self._max_connections = self.limit_concurrency
        self.limit_concurrency = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        self._come_bytes += len(data)
        if self._is_deaf:
            return
        self._unfinished_bytes += len(data)
        super().data_received(data)
        if self._unfinished_bytes:
            self._judge_unfinished()

    def on_message_begin(self) -> None:
        if self._ends_softly:
            self._is_deaf = True
            raise _HeadRefused
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._excess = BadRequest("These are too many requests at once")
            raise _HeadRefused
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._is_within_message = self._is_within_head = True
        self._unfinished_bytes = 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            self._excess = UriTooLong()
            raise _HeadRefused

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn's, bounded. Not by calling it: with ten fields a request that was measured."""
        headers = self.headers
        if len(headers) >= MAX_HEADERS:
            self._excess = HeadersTooLarge()
            raise _HeadRefused
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._unfinished_bytes = 0
        self._stop_timer()
        app = cast("ASGIApp", cast("object", self.app))
        self._is_overfull = self._is_full()
        sender = ZeroCopyApp(refuse_overload if self._is_overfull else app, self._soften)
        self.app = sender
        earlier = self.cycle
        super().on_headers_complete()
        # It raises for a target that is none.
        self._is_within_head = False
        self.app = app
        sender.cycle = self.cycle
        if self.cycle is not earlier:
            # Trailers must not be merged into the head (RFC 9110, 6.5.1), which a proxy has seen and them not.
            self.headers = []
        if self._is_draining and not self._is_idle():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_within_message = False
        self._unfinished_bytes = 0
        if self._leftover_timer is not None:
            # All of what nobody wanted has come.
            self._leftover_timer.cancel()
            self._leftover_timer = None
            if self._ends_softly:
                self._close()
            elif not self.transport.is_closing():
                self._expect_next()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()
            return
        if self.cycle.response_complete:
            # Up to 128 KiB that nobody has read.
            self.cycle.body = bytearray()
        if self._ends_softly:
            self._unset_keepalive_if_required()
            if self._is_within_message:
                self._end_softly()
            else:
                self._close()
            if self._is_draining:
                self.loop.call_later(self.drain_seconds, self._close_if_idle)
            return
        # A pipelined request is another message, with its own application to read it.
        if self._is_within_body() and self.cycle.response_complete:
            self._watch_leftover()

    def send_400_response(self, msg: str) -> None:
        """The bytes were no HTTP, or too many of it."""
        if self._is_deaf:
            return
        self._refuse(self._excess or BadRequest("This is not an HTTP request"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        for timer in (self._leftover_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # Closing waits for what is unsent.
        self._watch_reader()

    def shutdown(self) -> None:
        """The server stops."""
        self._is_draining = True
        if self._is_idle():
            self.loop.call_later(self.drain_seconds, self._close_if_idle)
        elif not self._ends_softly:
            super().shutdown()

    def handle_websocket_upgrade(self) -> None:
        if not self._is_idle():
            # Another protocol would take the line from answers that are due on it.
            self._refuse(BadRequest("The line is not free for another protocol"))
            return
        if self._is_full():
            self.transport.write(render_refusal(_overload()))
            self._close()
            return
        super().handle_websocket_upgrade()
        opened = self.transport.get_protocol()
        if isinstance(opened, WebSocketsSansIOProtocol) and not opened.handshake_initiated:
            # Its own parser did not take the head, and it would say nothing for ever.
            is_large = isinstance(opened.conn.handshake_exc, HeaderLineTooLong)
            self.transport.write(render_refusal(HeadersTooLarge() if is_large else BadRequest()))
            self.transport.close()
            # Nobody tells us any more when it is gone.
            self.loop.call_later(self.unread_seconds, self.transport.abort)
        elif self._is_draining:
            # The server has told all connections to shut down before there was this one.
            cast("HttpToolsProtocol", opened).shutdown()
        # It refers to us: until the garbage collector found both they would stay in memory.
        self.parser = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue] - as uvicorn does

    def _judge_unfinished(self) -> None:
        if self._is_deaf:
            return
        if self._unfinished_bytes > _MAX_UNFINISHED_BYTES:
            self._refuse(HeadersTooLarge())
        elif self._head_timer is None and not self._is_within_message and self._is_idle():
            # An empty line between two requests is none.
            self._expect_next()

    def _expect_next(self) -> None:
        """The patience with idle connections goes on: whatever comes has ended it."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _refuse(self, problem: Problem) -> None:
        """Parse no more; answer where this request's answer is due, and end."""
        self._is_deaf = True
        self._stop_timer()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        is_within_body = self._is_within_body()
        if not is_within_body and not self._is_idle():
            # What was asked before is answered first.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not is_within_body or not (self.pipeline or self.cycle.response_started):
            self.transport.write(render_refusal(problem))
        if cycle is not None:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        self._end_softly()

    def _soften(self, cycle: RequestResponseCycle) -> None:
        """The last piece of an answer is about to be written, behind which uvicorn would close."""
        if cycle is self.cycle and self._is_within_body() and not cycle.keep_alive:
            cycle.keep_alive = self._ends_softly = True

    def _end_softly(self) -> None:
        """Drop what still comes: closing at once would reset the line before the answer is read."""
        self.flow.resume_reading()
        # TLS has no such half: the line is closed when all has come.
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self._watch_leftover()

    def _watch_leftover(self) -> None:
        if self._leftover_timer is None:
            seconds = 0.0 if self._is_overfull else self.lingering_seconds
            self._lingers_until = self.loop.time() + seconds
            self._look_later()

    def _look_later(self) -> None:
        self._come_bytes = 0
        self._leftover_timer = self.loop.call_later(self.leftover_seconds, self._judge_leftover)

    def _judge_leftover(self) -> None:
        if self.transport.get_write_buffer_size():
            self._watch_reader()
            self._look_later()
        elif self._come_bytes >= _LEAST_LEFTOVER_BYTES and self.loop.time() < self._lingers_until:
            self._look_later()
        else:
            self.transport.abort()

    def _is_within_body(self) -> bool:
        return self._is_within_message and not self._is_within_head

    def _is_full(self) -> bool:
        """This connection is among those that count."""
        most = self._max_connections
        return most is not None and max(len(self.connections), len(self.tasks)) > most

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _close_if_idle(self) -> None:
        if self.transport.is_closing() or not self._is_idle():
            return
        is_unsent = bool(self.transport.get_write_buffer_size())
        if self._leftover_timer is not None:
            if not is_unsent:
                self.transport.abort()
        elif is_unsent:
            # Closing waits for it.
            self._close()
        elif end_unless_asked(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()

    def _close(self) -> None:
        """When all is sent."""
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        if self.transport.get_write_buffer_size() and self._unread_timer is None:
            self._unread_timer = self.loop.call_later(
                self.unread_seconds, self._judge_reader, self._count_taken()
            )

    def _judge_reader(self, before: int) -> None:
        """Whoever takes as little as a byte meanwhile goes on, in the pace that holds for files."""
        self._unread_timer = None
        if self.transport.get_write_buffer_size() and self._count_taken() <= before:
            self.transport.abort()
        else:
            self._watch_reader()

    def _count_taken(self) -> int:
        """In bytes, since the beginning of the line; where the system does not tell, those that wait, below zero.

        What waits says little by itself: the system holds megabytes, and more is written meanwhile.
        """
        line = self.transport.get_extra_info("socket")
        if line is not None and sys.platform == "linux":
            with contextlib.suppress(OSError):
                told = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TAKEN_AT + 8)
                if len(told) == _TAKEN_AT + 8:
                    return int.from_bytes(told[_TAKEN_AT:], sys.byteorder)
        return -self.transport.get_write_buffer_size()

    def _expect_head(self) -> None:
        # Not started anew by each drop of a slow head.
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._judge_head)

    def _judge_head(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            # It may have come: it is we who do not look.
            self._expect_head()
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


async def refuse_overload(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application that takes nothing on."""
    response = problem_response(_overload())
    add_missing(response.raw_headers, _own_headers())
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def render_refusal(problem: Problem) -> bytes:
    """A whole answer, for where there is no application to make it."""
    response = problem_response(problem)
    add_missing(response.raw_headers, (*_own_headers(), (b"connection", b"close")))
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join((*lines, b"", bytes(response.body)))


def _overload() -> Unavailable:
    return Unavailable("There are too many connections", retry_after=_RETRY_SECONDS)


def _own_headers() -> list[tuple[bytes, bytes]]:
    marks = [(b"x-request-id", make_request_id().encode()), (b"cache-control", b"no-store")]
    return [*marks, *SECURITY_HEADERS]


def end_unless_asked(fd: int) -> bool:
    """Send no more to a peer, unless it has said something that nobody has read: closing would reset that.

    To be called right before the transport is closed: uvloop closes it in its next turn only, and a peer that
    asks meanwhile is reset too. Measured with 200 connections: 3 requests lost in 8 stops, and now none.
    """
    with socket.socket(fileno=os.dup(fd)) as connection:
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        if readable.poll(0):
            return False
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    return True
