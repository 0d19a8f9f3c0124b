"""One open socket: what goes out of it, never waiting, and in bounded memory.

Nobody who sends ever waits for a reader: a frame is handed over at once, or it queues in front of
this one socket. Over half of the limit signals are dropped; over the limit the socket is closed
with 4409 and its client resumes.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.scopes import Scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.line import AsgiLine, AsgiMessage, Line, Send
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import EXTENSION

Receive = Callable[[], Awaitable[AsgiMessage]]

_DRAIN_POLL_SECONDS = 0.02
# A replay waits this long for a client that takes nothing.
_STALLED_SECONDS = 30.0
# Of the queue: what a replay leaves in it before it sends more.
_ROOM_SHARE = 4


class Connection:
    """A socket of a signed-in user; `chat_id` is set when it follows that chat alone.

    `scopes` are those that it follows; of those in `told` its client may stand elsewhere than `hello` said.
    `expires_at` (seconds of the event loop's clock) is when the token that opened it ends,
    `last_frame_at` when its client was last heard.
    """

    __slots__ = (
        "__weakref__",
        "_line",
        "_receive",
        "chat_id",
        "close_code",
        "expires_at",
        "id",
        "is_ready",
        "last_frame_at",
        "queue_bytes",
        "scopes",
        "session_id",
        "told",
        "user_id",
    )

    def __init__(
        self,
        asgi_scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        *,
        user_id: UserId,
        session_id: SessionId,
        chat_id: ChatId | None,
        queue_bytes: int,
        expires_at: float,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.user_id = user_id
        self.session_id = session_id
        self.chat_id = chat_id
        self.queue_bytes = queue_bytes
        self.expires_at = expires_at
        self.last_frame_at = 0.0
        self.scopes: list[Scope] = []
        self.told: set[Scope] | None = None
        self.is_ready = False
        self.close_code: int | None = None
        self._receive = receive
        extensions = cast("dict[str, object]", asgi_scope.get("extensions") or {})
        self._line = cast("Line | None", extensions.get(EXTENSION)) or AsgiLine(send)

    @property
    def has_given_up(self) -> bool:
        """The handler was cancelled because the client took nothing, not even the close frame."""
        return self._line.has_given_up

    def note_told(self, scope: Scope) -> None:
        """The client was told where it stands in a scope, or that it is none of its scopes any more."""
        if self.told is None:
            self.told = set()
        self.told.add(scope)

    def waiting_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._line.waiting_bytes()

    def has_room(self) -> bool:
        """The client has taken most of what was sent: a replay may go on, and held frames fit in."""
        return self.waiting_bytes() <= self.queue_bytes // _ROOM_SHARE

    def send(self, frame: OutFrame) -> None:
        """Hand over a frame that must not be lost: where there is no room, the socket closes."""
        if self.close_code is not None:
            return
        waiting = self.waiting_bytes()
        if waiting and waiting + len(frame) > self.queue_bytes:
            self.close(CloseCode.TOO_SLOW)
        else:
            self._line.write(frame)

    def send_signal(self, frame: OutFrame) -> None:
        """Hand over a frame that may be lost, and is when the client lags."""
        if self.close_code is None and self.waiting_bytes() + len(frame) <= self.queue_bytes // 2:
            self._line.write(frame)

    async def wait_for_room(self) -> None:
        """Wait until `has_room`; for replays, which bring their own pace."""
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + _STALLED_SECONDS
        # The transport tells nobody when its buffer empties below a mark of our choice.
        while self.close_code is None and not self.has_room():
            if loop.time() > patience_ends:
                self.close(CloseCode.TOO_SLOW)
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def receive(self) -> AsgiMessage:
        """The next ASGI message of the client."""
        return await self._receive()

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close behind what waits; the loop that receives then ends. A second call does nothing."""
        if self.close_code is None:
            self.close_code = code
            self._line.close(code, reason)

    def mark_lost(self) -> None:
        """The client is gone: nothing can be sent any more."""
        if self.close_code is None:
            self.close_code = CloseCode.NORMAL
