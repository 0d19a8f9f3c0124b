"""Types of input fields: strict, bounded, and the same for bodies, paths, queries and frames.

`Field` types are for JSON (an integer is an integer), `Path` types for text in a URL (`10`, never
`1_0`, `+1`, ` 1` or `01`); the latter serve query parameters too.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from app.kernel.clock import parse_time
from app.kernel.entities import utf16_length
from app.kernel.ids import MAX_ID, MAX_USER_ID, ChatId, FileId, MessageId, SessionId, UserId

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100

_DIGITS = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_UUID = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"


class StrictModel(BaseModel):
    """A request body or frame: unknown fields refused, nothing converted, values never in messages.

    Closed sets of words are `Literal`s; an enum needs `Field(strict=False)`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class TextLength:
    """Bounds of a text in UTF-16 code units, as clients count: `Annotated[str, TextLength(1, 4096)]`."""

    minimum: int
    maximum: int

    def __get_pydantic_core_schema__(
        self, source: type[object], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        result = handler(schema)
        result["minLength"] = self.minimum
        result["maxLength"] = self.maximum
        return result

    def check(self, text: str) -> str:
        """`text`, unchanged; a pydantic error otherwise."""
        # One character is one or two units: most texts are decided without counting.
        if len(text) < self.minimum:
            raise PydanticCustomError(
                "string_too_short",
                "Text should have at least {minimum} characters",
                {"minimum": self.minimum},
            )
        if len(text) * 2 > self.maximum and utf16_length(text) > self.maximum:
            raise PydanticCustomError(
                "string_too_long",
                "Text should have at most {maximum} UTF-16 code units",
                {"maximum": self.maximum},
            )
        return text


def _parse_digits(value: object) -> object:
    """Text of a URL as an integer; defaults come as integers already."""
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise PydanticCustomError(
                "int_digits", "Input should be a positive integer in plain digits"
            )
        return int(value)
    return value


def _parse_flag(value: object) -> object:
    if isinstance(value, str):
        if value not in {"true", "false"}:
            raise PydanticCustomError("bool_word", "Input should be true or false")
        return value == "true"
    return value


def _parse_rfc3339(value: object) -> object:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise PydanticCustomError("rfc3339", "Input should be an RFC 3339 time with an offset")
    try:
        return parse_time(value.upper())
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "rfc3339", "Input should be an RFC 3339 time that exists"
        ) from None


# In JSON.
Id = Annotated[int, Field(ge=1, le=MAX_ID)]
UserIdField = Annotated[UserId, Field(ge=1, le=MAX_USER_ID)]
ChatIdField = Annotated[ChatId, Field(ge=1, le=MAX_ID)]
MessageIdField = Annotated[MessageId, Field(ge=1, le=MAX_ID)]
SessionIdField = Annotated[SessionId, Field(ge=1, le=MAX_ID)]
FileIdField = Annotated[FileId, Field(ge=1, le=MAX_ID)]
Seq = Annotated[int, Field(ge=0, le=2**31 - 1)]

# In paths and queries.
PathId = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_parse_digits)]
UserIdPath = Annotated[UserId, Field(ge=1, le=MAX_ID), BeforeValidator(_parse_digits)]
ChatIdPath = Annotated[ChatId, Field(ge=1, le=MAX_ID), BeforeValidator(_parse_digits)]
MessageIdPath = Annotated[MessageId, Field(ge=1, le=MAX_ID), BeforeValidator(_parse_digits)]
SessionIdPath = Annotated[SessionId, Field(ge=1, le=MAX_ID), BeforeValidator(_parse_digits)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT), BeforeValidator(_parse_digits)]
QueryFlag = Annotated[bool, BeforeValidator(_parse_flag)]
Cursor = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_-]+$")]

# Texts of fixed form.
ClientMessageId = Annotated[str, Field(pattern=_UUID, json_schema_extra={"format": "uuid"})]
Rfc3339 = Annotated[
    datetime,
    BeforeValidator(_parse_rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
