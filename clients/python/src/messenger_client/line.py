"""One WebSocket connection as events in order: frames, and how it ended."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from messenger_client.changes import Frame
from messenger_client.options import Options
from messenger_client.problems import Problem, Unreachable

_MAX_WAITING = 512
# The server's frames are far smaller; a line that brings more is none of its.
_MAX_FRAME_BYTES = 4_194_304
_NO_CODE = 1006
_CLOSING_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over. 1006: it broke without a word."""

    code: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The answer of `POST /updates/difference`, in its turn among the frames."""

    answer: Mapping[str, Any]


Event = Frame | Closed | Difference


class Line:
    """An open socket. `events` ends with `Closed`; answers go to whoever asked."""

    def __init__(self, socket: ClientConnection, base_url: str, options: Options) -> None:
        self.base_url = base_url
        self.events: asyncio.Queue[Event] = asyncio.Queue(_MAX_WAITING)
        self._socket = socket
        self._options = options
        self._answers: dict[str, asyncio.Future[Frame]] = {}
        self._has_news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, base_url: str, ticket: str, options: Options) -> Self:
        """Connect to the socket of everything.

        Raises:
            Unreachable
        """
        try:
            socket = await connect(
                _socket_url(base_url, ticket, options),
                compression=None,
                max_size=_MAX_FRAME_BYTES,
                open_timeout=options.connect_timeout,
                close_timeout=_CLOSING_SECONDS,
                ping_interval=None,  # our own pings tell the server as well that we are here
                proxy=options.proxy,
                user_agent_header=options.user_agent,
            )
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise Unreachable(f"no socket: {type(error).__name__}") from error
        return cls(socket, base_url, options)

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._fail_answers()
        if kind is None:
            await self._socket.close()
        else:
            self._socket.transport.abort()

    async def send(self, frame: Frame) -> None:
        """Hand over a frame. One that a dead line swallows is missed by its answer alone."""
        try:
            async with asyncio.timeout(self._options.request_timeout):
                await self._socket.send(json.dumps(frame))
        except TimeoutError as error:
            raise Unreachable("the line takes nothing") from error
        except ConnectionClosed as error:
            raise self._ended() from error

    async def ask(self, frame_type: str, data: object) -> Frame:
        """Send a frame and wait for its answer.

        Raises:
            Problem: the server refused.
            Unreachable: the connection broke or nothing came; the outcome is unknown.
        """
        request_id = uuid.uuid4().hex
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            await self.send({"type": frame_type, "request_id": request_id, "data": data})
            async with asyncio.timeout(self._options.request_timeout):
                frame = await answer
        except TimeoutError as error:
            raise Unreachable(f"no answer to {frame_type}") from error
        finally:
            self._answers.pop(request_id, None)
            if answer.done() and not answer.cancelled():
                # Marks it as seen, also where sending failed first.
                answer.exception()
        if frame["type"] == "error":
            raise Problem(frame["error"].get("status", 400), frame["error"])
        return frame

    async def stay_alive(self, every: float) -> None:
        """Ping for as long as the line lives.

        Raises:
            Unreachable: it is dead: nothing came for too long.
        """
        clock = asyncio.get_running_loop().time
        while True:
            asked_at = clock()
            self._has_news.clear()
            await self.send({"type": "ping", "data": {}})
            await self._hear()
            await asyncio.sleep(max(0.0, every - (clock() - asked_at)))

    async def _hear(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.pong_timeout):
                    await self._has_news.wait()
            except TimeoutError as error:
                # While we are behind ourselves, the answer waits among what we have not read.
                if not self.events.full():
                    raise Unreachable("the line is dead") from error
            else:
                return

    async def _read(self) -> None:
        try:
            async for raw in self._socket:
                self._has_news.set()
                frame = json.loads(raw)
                waiting = self._answers.pop(str(frame.get("request_id")), None)
                if waiting is None:
                    await self.events.put(frame)
                elif not waiting.done():
                    waiting.set_result(frame)
        except (ConnectionClosed, ValueError):
            self._has_news.set()
        self._fail_answers()
        await self.events.put(Closed(self._close_code()))

    def _fail_answers(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._ended())

    def _close_code(self) -> int:
        return self._socket.close_code or _NO_CODE

    def _ended(self) -> Unreachable:
        """Whoever notices the end first tells why."""
        return Unreachable(f"closed with {self._close_code()}")


def _socket_url(base_url: str, ticket: str, options: Options) -> str:
    parts = urlsplit(base_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit(
        (scheme, parts.netloc, f"{parts.path}{options.api_prefix}/ws/{ticket}", "", "")
    )


def is_answer(frame: Frame) -> bool:
    """An ack, a pong or an error: nothing that concerns updates."""
    return frame.get("type") in {"ack", "pong", "error"}
