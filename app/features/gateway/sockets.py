"""The life of one socket: frames in, acks and errors out, in bounded work.

Frames of one socket are handled one after the other, in order; `ping` and `auth` overtake. A
client that sends faster than it is served waits at its own TCP connection, and one that sends
faster than the cap is closed with 4429.
"""

import asyncio
import logging
from collections import deque
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.features.chats.errors import ChatNotFound
from app.features.gateway.connect import Admission, admit
from app.features.gateway.errors import OtherChat
from app.features.gateway.runtime import Gateway
from app.features.gateway.schemas import AuthFrame, PingFrame, ResumeFrame
from app.features.sessions.authenticate import authenticate_socket
from app.features.sessions.errors import TokenRefused
from app.infra.database.errors import DatabaseUnavailable
from app.infra.deadline import begin_call
from app.infra.logging.context import current_log_context
from app.infra.services import Services
from app.infra.tokens.opaque import Purpose, is_token
from app.kernel.events import SecurityEvent
from app.kernel.problems import Invalid, Problem, RateLimited
from app.transport.feature import FrameKind
from app.transport.http.client_address import find_address
from app.transport.http.origins import comes_from_own_page
from app.transport.http.problems import INTERNAL_ERROR_CODE, field_errors
from app.transport.http.refusals import find_subject, record_refusal
from app.transport.http.strict_json import JsonValue
from app.transport.limits import LimitClass, is_spent, take
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.frames import (
    FrameContext,
    IncomingFrame,
    MalformedFrame,
    RequestId,
    UnknownFrame,
    is_too_large,
    parse_frame,
    render_error,
)
from app.transport.websocket.outgoing import render_frame

_MAX_WAITING_FRAMES = 32
_BURST = 6
_ROUTE = "/ws"

_log = logging.getLogger(__name__)


def socket_endpoint(*, of_chat: bool) -> ASGIApp:
    """The ASGI application behind a WebSocket route, without the cost of a framework per socket."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        gateway = cast("Gateway", scope["app"].state.gateway)
        parameters = cast("dict[str, str]", scope["path_params"])
        chat_text = parameters["chat_id"] if of_chat else None
        await receive()
        settings = gateway.services.settings
        listed = {*settings.websocket.allowed_origins, *settings.browser.cors_origins}
        if not comes_from_own_page(scope, listed):
            details = {"route": _ROUTE, "code": "origin_refused"}
            gateway.services.events.record(SecurityEvent("permission_refused", details=details))
            await send({"type": "websocket.close", "code": int(CloseCode.NOT_ALLOWED)})
            return
        call = begin_call()
        answer = await _admit(gateway, scope, token=parameters["token"], chat_text=chat_text)
        call.end()
        if gateway.is_stopping:
            answer = CloseCode.SERVICE_RESTART
        await send({"type": "websocket.accept"})
        if isinstance(answer, Admission):
            await Socket(gateway, answer, scope, receive, send).live()
        else:
            code = _record_close(gateway, answer, subject=find_subject(parameters))
            await send({"type": "websocket.close", "code": int(code)})

    return _Endpoint(serve)


async def _admit(
    gateway: Gateway, scope: Scope, *, token: str, chat_text: str | None
) -> Admission | CloseCode | TokenRefused:
    """As `admit`; what is asked too often is not even looked at."""
    services, address = gateway.services, find_address(scope)
    if is_token(token, Purpose.TICKET) and is_spent(services, address):
        # A ticket costs a transaction, be it good or not: guessing them must not.
        return CloseCode.TOO_MANY
    answer = await admit(services, gateway.hub, token=token, chat_text=chat_text)
    if isinstance(answer, TokenRefused):
        return await _count_refusal(services, address) or answer
    return answer


async def _count_refusal(services: Services, address: str) -> CloseCode | None:
    """Bad tokens count as those of requests do: for the address."""
    try:
        await take(services, LimitClass.API, user_id=None, address=address)
    except RateLimited:
        return CloseCode.TOO_MANY
    return None


class _Endpoint:
    """Starlette takes a function for one that wants its WebSocket object."""

    def __init__(self, serve: ASGIApp) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


class Socket:
    """An admitted socket."""

    __slots__ = (
        "_allowance",
        "_allowed_at",
        "_gateway",
        "_inbox",
        "_opening",
        "_worker",
        "connection",
    )

    def __init__(
        self, gateway: Gateway, admission: Admission, scope: Scope, receive: Receive, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        session = admission.session
        left = (session.expires_at - gateway.services.clock.now()).total_seconds()
        self._gateway = gateway
        self._inbox: deque[IncomingFrame] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._allowed_at = loop.time()
        self._allowance = float(gateway.services.settings.websocket.frames_per_second * _BURST)
        self.connection = Connection(
            scope,
            receive,
            send,
            user_id=session.user_id,
            session_id=session.session_id,
            chat_id=admission.chat_id,
            queue_bytes=gateway.services.settings.websocket.queue_bytes,
            expires_at=loop.time() + left,
        )
        self.connection.last_frame_at = loop.time()

    async def live(self) -> None:
        """Until either end closes."""
        connection = self.connection
        self._gateway.add(connection)
        try:
            self._opening = asyncio.create_task(self._open())
            await self._receive_frames()
        except asyncio.CancelledError:
            if not connection.has_given_up:
                raise
        finally:
            connection.mark_lost()
            self._gateway.remove(connection)
            if self._opening is not None:
                self._opening.cancel()

    async def _open(self) -> None:
        gateway = self._gateway
        await gateway.leader.lead(self.connection, gateway.catchup.greet(self.connection))
        # Nothing but the connection is kept of the opening of an idle socket.
        self._opening = None

    async def _receive_frames(self) -> None:
        while True:
            message = await self.connection.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self.connection.close_code is None:
                await self._take(message.get("text"))

    async def _take(self, text: str | None) -> None:
        if text is None:
            self.connection.close(CloseCode.MALFORMED, "frames are text")
        elif is_too_large(text):
            self.connection.close(CloseCode.TOO_LARGE)
        elif not self._is_allowed():
            details = {"limit": "frames"}
            events = self._gateway.services.events
            events.record(SecurityEvent("rate_limited", details=details))
            self.connection.close(CloseCode.TOO_MANY)
        else:
            try:
                frame = parse_frame(text)
            except MalformedFrame:
                self.connection.close(CloseCode.MALFORMED)
                return
            await self._dispatch(frame)

    def _is_allowed(self) -> bool:
        """A token bucket: the long-run rate, and a burst."""
        rate = self._gateway.services.settings.websocket.frames_per_second
        now = asyncio.get_running_loop().time()
        self._allowance = min(rate * _BURST, self._allowance + (now - self._allowed_at) * rate) - 1
        self._allowed_at = now
        self.connection.last_frame_at = now
        return self._allowance >= 0

    async def _dispatch(self, frame: IncomingFrame) -> None:
        if frame.type in {"ping", "auth"}:
            await self._handle(frame)
            return
        if frame.type == "resume":
            named = frame.data.get("state")
            self._gateway.catchup.keep(self.connection, named if isinstance(named, dict) else ())
        else:
            self._gateway.catchup.release(self.connection)
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(frame)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        if len(self._inbox) >= _MAX_WAITING_FRAMES:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        """Handle what waits; a handler that has begun ends its work also when the socket has gone."""
        try:
            if self._opening is not None:
                await asyncio.wait([self._opening])
            while self._inbox and self.connection.close_code is None:
                await self._handle(self._inbox.popleft())
        finally:
            self._worker = None
            self._inbox = None

    async def _handle(self, frame: IncomingFrame) -> None:
        call = begin_call()
        if frame.type == "resume":
            call.end()  # page by page, as fast as the client reads
        try:
            await self._answer(frame)
        except Problem as problem:
            self._record(problem, frame)
            self.connection.send(render_error(problem, frame.request_id))
            if isinstance(problem, DatabaseUnavailable):
                self._refuse_waiting(problem)
        except Exception:  # noqa: BLE001 - an edge: a bug closes no socket, the log holds the trace
            _log.exception("frame_failed", extra={"frame": frame.type})
            self.connection.send(_render_failure(frame.request_id))
        finally:
            call.end()

    def _refuse_waiting(self, problem: DatabaseUnavailable) -> None:
        """What came while that one waited for the database would wait as long, one after the other."""
        while self._inbox and self._inbox[0].type != "resume":
            self.connection.send(render_error(problem, self._inbox.popleft().request_id))

    def _record(self, problem: Problem, frame: IncomingFrame) -> None:
        """The type of a frame that nobody knows is the client's own word."""
        is_known = frame.type in self._gateway.frames or frame.type in {"auth", "resume"}
        route = f"{_ROUTE} {frame.type}" if is_known else _ROUTE
        problem.subject = find_subject(frame.data)
        record_refusal(self._gateway.services.events, problem, route=route)

    async def _answer(self, frame: IncomingFrame) -> None:
        if self._gateway.is_over(self.connection):
            raise TokenRefused
        match frame.type:
            case "ping":
                _parse(PingFrame, frame.data)
                self.connection.send(render_frame("pong", {}, request_id=frame.request_id))
            case "auth":
                await self._count(LimitClass.API)
                expires_in = await self._extend(_parse(AuthFrame, frame.data))
                self._acknowledge(frame, {"expires_in": expires_in})
            case "resume":
                await self._resume(frame)
            case _:
                await self._call_slice(frame)

    async def _call_slice(self, frame: IncomingFrame) -> None:
        connection = self.connection
        try:
            kind, data = self._read(frame)
        except Problem:
            # What is refused before it is counted in its own class is a call all the same.
            await self._count(LimitClass.API)
            raise
        context = FrameContext(
            self._gateway.services,
            connection.user_id,
            connection.session_id,
            connection.chat_id,
            connection,
        )
        # Who sends is counted by the slice, which knows what a send costs.
        if kind.limit is not LimitClass.SENDS:
            await self._count(kind.limit)
        result = await kind.handle(context, data)
        if result or frame.request_id is not None:
            self._acknowledge(frame, result or {})

    def _read(self, frame: IncomingFrame) -> tuple[FrameKind, Any]:
        kind = self._gateway.frames.get(frame.type)
        if kind is None:
            raise UnknownFrame
        data = _parse(kind.model, frame.data)
        own_chat = self.connection.chat_id
        if own_chat is not None and getattr(data, "chat_id", own_chat) != own_chat:
            raise OtherChat
        return kind, data

    async def _count(self, limit: LimitClass) -> None:
        await take(self._gateway.services, limit, user_id=self.connection.user_id)

    def _acknowledge(self, frame: IncomingFrame, data: "dict[str, Any] | bytes") -> None:
        """`bytes` are JSON that was rendered before."""
        content = orjson.Fragment(data) if isinstance(data, bytes) else data
        self.connection.send(
            render_frame("ack", cast("dict[str, object]", content), request_id=frame.request_id)
        )

    async def _extend(self, data: AuthFrame) -> int:
        """The socket lives on as long as this token."""
        gateway, connection = self._gateway, self.connection
        session = await authenticate_socket(
            gateway.services, data.token, chat_id=connection.chat_id
        )
        if (session.user_id, session.session_id) != (connection.user_id, connection.session_id):
            raise TokenRefused
        left = (session.expires_at - gateway.services.clock.now()).total_seconds()
        connection.expires_at = asyncio.get_running_loop().time() + left
        return int(left)

    async def _resume(self, frame: IncomingFrame) -> None:
        try:
            await self._count(LimitClass.CATCH_UP)
            data = _parse(ResumeFrame, frame.data)
        except Problem:
            self._gateway.catchup.abandon(self.connection)
            raise
        course = self._gateway.catchup.resume(
            self.connection, epoch=data.epoch, state=data.state, request_id=frame.request_id
        )
        await self._gateway.leader.lead(self.connection, course)


def _record_close(
    gateway: Gateway, answer: CloseCode | TokenRefused, *, subject: str | None = None
) -> CloseCode:
    """The code to close with. What is a refusal is recorded as over HTTP; whoever counts tells of 4429."""
    code = CloseCode.NOT_SIGNED_IN if isinstance(answer, TokenRefused) else answer
    # Whoever walks along the ids of chats is seen at this door too.
    problem = ChatNotFound() if answer is CloseCode.NOT_ALLOWED else answer
    if isinstance(problem, Problem):
        problem.subject = subject
        record_refusal(gateway.services.events, problem, route=_ROUTE)
    return code


def _parse(model: type[BaseModel], data: dict[str, JsonValue]) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid(errors=field_errors(cast("list[dict[str, object]]", faults))) from None


def _render_failure(request_id: RequestId | None) -> Any:
    context = current_log_context()
    document: dict[str, object] = {
        "type": f"/problems/{INTERNAL_ERROR_CODE}",
        "title": "Internal server error",
        "status": 500,
        "detail": "Something went wrong on our side",
        "code": INTERNAL_ERROR_CODE,
        "request_id": context.request_id if context else "",
    }
    return render_frame("error", request_id=request_id, error=document)
