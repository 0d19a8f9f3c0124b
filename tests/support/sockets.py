"""A client's WebSocket: waits for frames by condition, never by the clock."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]
Where = Callable[[Frame], bool] | dict[str, Any] | None
TIMEOUT_SECONDS = 30.0


class FrameRefused(Exception):  # noqa: N818 - what happened
    """The server answered a frame with an error; `problem` is its document."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.code: str = problem["code"]


class Socket:
    """One connection. `frames` are all since `hello`, in order; `expect` takes each only once."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._unread: list[Frame] = []
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self.frames: list[Frame] = []
        self.hello: dict[str, Any] = {}
        self.close_code: int | None = None

    @classmethod
    async def open(
        cls, url: str, *, origin: str | None = None, hello: bool = True, **options: Any
    ) -> Self:
        """Connect; with `hello` wait for it, all its parts together in `.hello`."""
        settings = {
            "compression": None,
            "max_size": None,
            "ping_interval": None,
            "proxy": None,
            **options,
        }
        socket = cls(await connect(url, origin=origin, **settings))
        socket._reader = asyncio.create_task(socket._read())
        if hello:
            await socket._take_hello()
        return socket

    async def close(self) -> None:
        if self.close_code is None:
            await self._connection.close()
        if self._reader:
            await self._reader

    def abort(self) -> None:
        """Cut the line without a close frame."""
        self._connection.transport.abort()

    @property
    def response_headers(self) -> Headers:
        """Those of the answer to the handshake."""
        assert self._connection.response is not None
        return self._connection.response.headers

    @property
    def state(self) -> dict[str, int]:
        """The scopes of `hello` and their numbers."""
        return self.hello["state"]

    async def send_raw(self, data: str | bytes) -> None:
        await self._connection.send(data)

    async def send_frame(
        self, type_: str, data: object = None, request_id: str | None = None
    ) -> None:
        frame: Frame = {"type": type_, "data": {} if data is None else data}
        if request_id is not None:
            frame["request_id"] = request_id
        await self.send_raw(json.dumps(frame))

    async def request(
        self, type_: str, data: object = None, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Send a frame and wait for its answer: the data of its ack.

        Raises:
            FrameRefused: it was answered by an error.
        """
        request_id = str(uuid.uuid4())
        await self.send_frame(type_, data, request_id)
        answer = await self._take(
            lambda frame: frame.get("request_id") == request_id,
            f"the answer to {type_}",
            timeout_seconds,
        )
        if answer["type"] == "error":
            raise FrameRefused(answer["error"])
        assert answer["type"] in {"ack", "pong", "resumed"}, answer
        return answer.get("data") or {}

    async def refused(self, type_: str, data: object, code: str) -> dict[str, Any]:
        """Send a frame that must be answered by the problem `code`; answers its document."""
        problem: dict[str, Any] = {}
        try:
            answer = await self.request(type_, data)
        except FrameRefused as refusal:
            problem = refusal.problem
        assert problem, f"{type_} was acknowledged with {answer} instead of {code}"
        assert {"type", "title", "status", "detail", "code"} <= problem.keys()
        assert problem["code"] == code, problem
        return problem

    async def expect(
        self,
        type_: str,
        where: Where = None,
        *,
        scope: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Frame:
        """The next frame of this type whose data has what `where` names."""

        def fits(frame: Frame) -> bool:
            if frame["type"] != type_ or (scope is not None and frame.get("scope") != scope):
                return False
            return _fits(frame, where)

        return await self._take(
            fits,
            f"{type_} {where if isinstance(where, dict) else ''} {scope or ''}",
            timeout_seconds,
        )

    async def expect_message(self, message_id: int) -> Frame:
        return await self.expect("new_message", lambda frame: frame["data"].get("id") == message_id)

    async def follow(self, chat: dict[str, Any]) -> None:
        """Wait until a chat that began meanwhile is told.

        It is told as it is when it is read: of what was said before then no frame comes.
        """
        await self.expect("chat_created", {"id": chat["id"]}, scope="user")

    async def expect_close(self, code: int, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until the server closes with this code."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: self.close_code is not None)
        assert self.close_code == code, f"closed with {self.close_code}, not {code}"

    async def closed(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until the server closes, whatever the code."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: self.close_code is not None)

    async def settle(self) -> None:
        """What this worker had queued for us before has arrived now."""
        await self.request("ping")

    def seen(self, type_: str, where: Where = None) -> list[Frame]:
        """All frames of this type so far, taken or not."""
        return [frame for frame in self.frames if frame["type"] == type_ and _fits(frame, where)]

    def seqs(self, scope: str) -> list[int]:
        """The numbers of the updates of a scope in the order of arrival."""
        return [
            frame["seq"] for frame in self.frames if frame.get("scope") == scope and "seq" in frame
        ]

    async def _take(
        self, fits: Callable[[Frame], bool], wanted: str, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> Frame:
        found: list[Frame] = []

        def arrived() -> bool:
            for position, frame in enumerate(self._unread):
                if fits(frame):
                    found.append(self._unread.pop(position))
                    return True
            return self.close_code is not None

        try:
            async with asyncio.timeout(timeout_seconds), self._news:
                await self._news.wait_for(arrived)
        except TimeoutError:
            recent = [_short(frame) for frame in self.frames[-12:]]
            raise AssertionError(
                f"{wanted} did not come in {timeout_seconds} s; the last frames: {recent}"
            ) from None
        if not found:
            raise AssertionError(f"closed with {self.close_code} while waiting for {wanted}")
        return found[0]

    async def _take_hello(self) -> None:
        part = await self.expect("hello")
        self.hello = part["data"]
        while part["data"].get("more"):
            part = await self.expect("hello")
            self.hello["state"] |= part["data"]["state"]
        self.frames.clear()

    async def _read(self) -> None:
        try:
            async for raw in self._connection:
                frame: Frame = json.loads(raw)
                async with self._news:
                    self.frames.append(frame)
                    self._unread.append(frame)
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        finally:
            async with self._news:
                self.close_code = self._connection.close_code or 1006
                self._news.notify_all()


def _fits(frame: Frame, where: Where) -> bool:
    if callable(where):
        return where(frame)
    data = frame.get("data") or {}
    return all(data.get(key) == value for key, value in (where or {}).items())


def _short(frame: Frame) -> str:
    return json.dumps(frame)[:160]
