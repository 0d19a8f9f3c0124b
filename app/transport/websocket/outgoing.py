"""Frames on their way out: serialised once, the same bytes for every socket."""

from collections.abc import Mapping

import orjson
from websockets.frames import Frame, Opcode


class OutFrame:
    """One text frame. Each form is made when the first socket asks for it and shared by all others."""

    __slots__ = ("_message", "_wire", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._wire: bytes | None = None
        self._message: dict[str, str] | None = None

    @property
    def wire(self) -> bytes:
        """With the header of RFC 6455, unmasked: what goes into the TCP connection."""
        if self._wire is None:
            self._wire = Frame(Opcode.TEXT, self.payload).serialize(mask=False)
        return self._wire

    @property
    def message(self) -> dict[str, str]:
        """As an ASGI message."""
        if self._message is None:
            self._message = {"type": "websocket.send", "text": self.payload.decode()}
        return self._message

    def __len__(self) -> int:
        return len(self.payload)


def render_frame(
    frame_type: str,
    data: Mapping[str, object] | None = None,
    *,
    request_id: str | int | None = None,
    error: Mapping[str, object] | None = None,
) -> OutFrame:
    """A frame that is no update: `{"type", "request_id"?, "data"?, "error"?}`."""
    body: dict[str, object] = {"type": frame_type}
    if request_id is not None:
        body["request_id"] = request_id
    if data is not None:
        body["data"] = data
    if error is not None:
        body["error"] = error
    return OutFrame(orjson.dumps(body))
