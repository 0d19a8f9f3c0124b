"""Wire models of the gateway's own frames and of POST /updates/difference."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.transport.http.fields import Seq, StrictModel

MAX_SCOPES = 1000
MAX_UPDATES = 1000

WireScope = Annotated[str, Field(pattern=r"^(user|chat:[1-9][0-9]{0,15})$")]
State = Annotated[
    dict[WireScope, Seq],
    Field(
        max_length=MAX_SCOPES,
        description="`user` or `chat:<id>` -> the last `seq` that was applied",
    ),
]
Epoch = Annotated[str, Field(max_length=64)]


class PingFrame(StrictModel):
    """Answered by `pong`; shows that both ends live."""


class AuthFrame(StrictModel):
    """Proof that the session goes on: an access token or a ticket of the same session."""

    token: Annotated[str, Field(min_length=1, max_length=2048)]


class ResumeFrame(StrictModel):
    """The scopes that are behind the numbers of `hello`; everything missed is replayed, then `resumed`."""

    epoch: Epoch
    state: State


OWN_FRAMES: dict[str, type[BaseModel]] = {
    "ping": PingFrame,
    "auth": AuthFrame,
    "resume": ResumeFrame,
}


class DifferenceRequest(StrictModel):
    """`state` of the last answer, or empty at the first call."""

    epoch: Epoch
    state: Annotated[dict[WireScope, Seq], Field(max_length=10_000)]
    limit: Annotated[int, Field(ge=1, le=MAX_UPDATES)] = 500


class ScopeReset(BaseModel):
    """Read the scope again over HTTP; `seq` 0: there is no such scope for you."""

    scope: str
    seq: int


class Update(BaseModel):
    """As it came, or would have come, over the socket."""

    type: str
    scope: str
    seq: int
    data: dict[str, object]


class Difference(BaseModel):
    """Apply `updates` in order, read `resets` again, keep `state`; call again while `has_more`."""

    epoch: str
    updates: list[Update]
    resets: list[ScopeReset]
    state: dict[str, int]
    has_more: bool
