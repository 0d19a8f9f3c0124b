"""Frames from clients: bounded, strictly parsed, `{"type", "data"?, "request_id"?}`."""

from dataclasses import dataclass

from app.infra.services import Services
from app.kernel.ids import MAX_ID, ChatId, SessionId, UserId
from app.kernel.problems import NotFound, Problem
from app.transport.http.problems import problem_document
from app.transport.http.strict_json import JsonValue, parse_json
from app.transport.websocket.connection import Connection
from app.transport.websocket.outgoing import OutFrame, render_frame

MAX_FRAME_BYTES = 65_536
_MAX_REQUEST_ID = 128
_MAX_TYPE = 64
_MEMBERS = frozenset({"type", "data", "request_id"})

RequestId = str | int


class MalformedFrame(Exception):  # noqa: N818 - says what is found
    """Closes the socket with 4400: what follows cannot be trusted either."""


class UnknownFrame(NotFound):
    code = "unknown_frame_type"
    title = "There is no such frame type"


@dataclass(frozen=True, slots=True)
class IncomingFrame:
    type: str
    data: dict[str, JsonValue]
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class FrameContext:
    """Who sent a frame. `chat_id` is set on the socket of one chat, which takes frames for it alone."""

    services: Services
    user_id: UserId
    session_id: SessionId
    chat_id: ChatId | None
    connection: Connection


def is_too_large(text: str) -> bool:
    """Whether the frame takes more than 64 KiB as UTF-8."""
    if len(text) * 4 <= MAX_FRAME_BYTES:
        return False
    return len(text) > MAX_FRAME_BYTES or len(text.encode(errors="replace")) > MAX_FRAME_BYTES


def parse_frame(text: str) -> IncomingFrame:
    """A frame as the client meant it.

    Raises:
        MalformedFrame: it is no JSON object with a `type`.
    """
    try:
        body = parse_json(text)
    except Problem as problem:
        raise MalformedFrame(problem.detail) from problem
    if not isinstance(body, dict) or not body.keys() <= _MEMBERS:
        raise MalformedFrame("a frame is an object with `type`, `data` and `request_id` alone")
    frame_type, data, request_id = body.get("type"), body.get("data"), body.get("request_id")
    if not isinstance(frame_type, str) or not 0 < len(frame_type) <= _MAX_TYPE:
        raise MalformedFrame("`type` must be a word")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise MalformedFrame("`data` must be an object")
    return IncomingFrame(frame_type, data, _read_request_id(request_id))


def render_error(problem: Problem, request_id: RequestId | None) -> OutFrame:
    """`{"type": "error", "request_id"?, "error": {problem}}`."""
    document = problem_document(problem)
    if problem.retry_after is not None:
        document["retry_after"] = problem.retry_after
    return render_frame("error", request_id=request_id, error=document)


def _read_request_id(value: JsonValue) -> RequestId | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_REQUEST_ID):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID:
        return value
    raise MalformedFrame("`request_id` must be a string of at most 128 characters or an integer")
