"""The `call` frame. What two devices negotiate (SDP, candidates) is theirs: relayed, never read."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.transport.http.fields import ChatIdField, ClientMessageId, StrictModel

MAX_BYTES = 32_768


class CallFrame(StrictModel):
    """`call_id` is made by the caller and names the call in every further frame."""

    call_id: ClientMessageId
    chat_id: ChatIdField
    kind: Literal["audio", "video"]
    action: Literal["offer", "ringing", "answer", "candidate", "reject", "busy", "hangup"]
    sdp: Annotated[str, Field(max_length=MAX_BYTES)] | None = None
    candidate: dict[str, JsonValue] | Annotated[str, Field(max_length=MAX_BYTES)] | None = None
    reason: Annotated[str, Field(max_length=200)] | None = None
