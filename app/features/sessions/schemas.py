"""Wire models of sessions and tokens."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.transport.http.fields import ChatIdField, StrictModel

Token = Annotated[str, Field(min_length=1, max_length=512)]


class RefreshToken(StrictModel):
    refresh_token: Token


class TicketRequest(StrictModel):
    chat_id: ChatIdField | None = None


class TokenPair(BaseModel):
    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Field(description="Seconds that the access token lives.")]


class CookieTokens(BaseModel):
    """The tokens themselves are in cookies."""

    expires_in: Annotated[int, Field(description="Seconds that the access token lives.")]


class CsrfToken(BaseModel):
    csrf_token: Annotated[str, Field(description="For the header `X-CSRF-Token`.")]


class Ticket(BaseModel):
    ticket: str
    expires_in: Annotated[int, Field(description="Seconds in which it must be used.")]


class Session(BaseModel):
    id: int
    kind: str
    device_name: str | None
    place: Annotated[
        str | None,
        Field(
            description="The network of its last sign-in or refresh, in part.",
            examples=["192.0.x.x", "2001:db8:x"],
        ),
    ]
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    last_used_at: Annotated[
        str,
        Field(description="Exact to a minute.", json_schema_extra={"format": "date-time"}),
    ]
    expires_at: Annotated[
        str,
        Field(
            description="When it ends unless it is refreshed.",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    is_current: bool


class SessionList(BaseModel):
    items: list[Session]
    next_cursor: str | None
