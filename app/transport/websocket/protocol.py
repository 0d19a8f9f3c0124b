"""uvicorn's WebSocket protocol as `python -m app` runs it: the same framing, five things added.

1. It offers the application the ASGI extension `messenger.pipe`, so that a frame that goes to 500
   sockets is serialised once and not 500 times, and so that what waits in front of a slow reader can
   be counted.
2. A frame over the limit is closed with 4413, not 1009.
3. A peer that answers no ping is dropped at once, also when unsent bytes wait in front of it:
   closing in order would wait for a dead line to take them.
4. A stop closes with 1012, a socket that is still being opened too, and reads on until the client has
   answered: closing the line at once would reset it under a client that is sending, and the code be
   lost. Nobody holds the stop up for long.
5. The kernel keeps little for a slow reader, so that its queue is what fills, and 4409 what comes of it.
"""

import asyncio
import contextlib
import socket
from typing import cast

from starlette.types import Scope
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, WebSocketScope
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode as StandardCloseCode
from websockets.server import ServerProtocol

from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.line import CLOSING_SECONDS
from app.transport.websocket.outgoing import OutFrame

EXTENSION = "messenger.pipe"
_LINGER_SECONDS = 3.0
_STOP_SECONDS = 2.0
# Else 2.8 MB were measured: at 50 kB/s a pong is overdue before the queue behind that is full.
_UNSENT_BYTES = 131_072


class Pipe:
    """The socket itself, for the application: a `Line`."""

    __slots__ = ("_protocol",)
    has_given_up = False

    def __init__(self, protocol: "FrameProtocol") -> None:
        self._protocol = protocol

    @property
    def has_left(self) -> bool:
        """Whether the connection has ended."""
        return self._protocol.disconnected

    def write(self, frame: OutFrame) -> None:
        protocol = self._protocol
        if not protocol.close_sent and not protocol.transport.is_closing():
            protocol.transport.write(frame.wire)

    def waiting_bytes(self) -> int:
        return self._protocol.transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        self._protocol.close_now(code, reason)
        # The close frame waits behind what the peer has not taken, and so might wait for ever.
        self._protocol.loop.call_later(CLOSING_SECONDS, self._protocol.transport.abort)


def find_pipe(scope: Scope) -> Pipe | None:
    """What the server offers with this socket; None: it is another server, or compresses."""
    extensions = cast("dict[str, object]", scope.get("extensions") or {})
    pipe = extensions.get(EXTENSION)
    return pipe if isinstance(pipe, Pipe) else None


class _Framing(ServerProtocol):
    """The framing of `websockets` with our close code for large frames."""

    def fail(self, code: int, reason: str = "") -> None:
        if code == StandardCloseCode.MESSAGE_TOO_BIG:
            code, reason = CloseCode.TOO_LARGE, "frame too large"
        super().fail(code, reason)

    def send_close(self, code: int | None = None, reason: str = "") -> None:
        if code == StandardCloseCode.INVALID_DATA:
            code, reason = CloseCode.MALFORMED, "text is not UTF-8"
        super().send_close(code, reason)


class AnsweringProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, which takes a handshake that was refused by a whole answer for one without, and logs an error."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


class FrameProtocol(AnsweringProtocol):
    """For `uvicorn.Config(ws=FrameProtocol)`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        if not config.ws_per_message_deflate:
            self.conn = _Framing(max_size=config.ws_max_size, logger=self.logger)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        line = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # What is under way to a reader does not count: a fast line is as fast as before.
            with contextlib.suppress(OSError):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def run_asgi(self) -> None:
        # With an extension (deflate) a frame is not the same bytes for everyone.
        if not self.conn.extensions:
            extensions = cast("dict[str, object]", self.scope.get("extensions"))
            extensions[EXTENSION] = Pipe(self)
        await super().run_asgi()
        # It holds our pipe. Left to the garbage collector, thousands that end at once would be thousands of cycles.
        self.scope = cast("WebSocketScope", {})

    def close_now(self, code: int, reason: str) -> None:
        """As the ASGI message `websocket.close`, without waiting until the peer has read."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self._send_now({"type": "websocket.close", "code": code, "reason": reason})

    def _send_now(self, message: ASGISendEvent) -> None:
        """Whatever waits in front of the peer."""
        sending = self.send(message)
        was_writable = self.writable.is_set()
        self.writable.set()
        try:
            sending.send(None)  # runs to its end: only `writable` could have stopped it
        except StopIteration:
            pass
        finally:
            sending.close()
            if not was_writable:
                self.writable.clear()

    def shutdown(self) -> None:
        """The server stops."""
        self.stop_keepalive()
        if self.close_sent or self.initial_response is not None:
            self.transport.close()
        elif self.handshake_complete:
            self.close_now(CloseCode.SERVICE_RESTART, "")
        else:
            self._turn_away()
        self.loop.call_later(_STOP_SECONDS, self.transport.abort)

    def _turn_away(self) -> None:
        """Accept a socket that the application still thinks about, only to say 1012.

        To an HTTP status a browser would say no more than that it failed, and a proxy that something is broken.
        """
        self._send_now({"type": "websocket.accept"})
        self.stop_keepalive()
        self.close_now(CloseCode.SERVICE_RESTART, "")
        self.disconnected = True  # for the application, which may answer now what it likes

    def handle_parser_exception(self) -> None:
        """Keep reading (and discarding) for a moment.

        Closing a TCP connection with unread bytes resets it, and the client never sees the code.
        """
        if self.close_sent:
            return
        closed = self.conn.close_sent
        if closed is not None:
            event: dict[str, object] = {
                "type": "websocket.disconnect",
                "code": closed.code,
                "reason": closed.reason,
            }
            self.queue.put_nowait(cast("ASGIReceiveEvent", event))
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            # A client that has read the close frame to this end closes at once.
            self.transport.write_eof()
        self.close_sent = True
        self.close_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
