"""One strict JSON parser for HTTP bodies and WebSocket frames.

What one database or client would read differently from another never gets past here: duplicate
keys, NaN and infinities, lone surrogates, U+0000, other encodings than UTF-8, endless numbers.
"""

import json
import math
import re
from typing import NoReturn, cast

from app.kernel.problems import BadRequest, FieldError, Invalid

MAX_DEPTH = 32
MAX_COMMAS = 20_000  # bounds members and items together; the longest text holds 4096
_MAX_NUMBER_LENGTH = 40

JsonValue = dict[str, "JsonValue"] | list["JsonValue"] | str | int | float | bool | None

# Matches an unterminated string too, to the end, so that no search starts twice: linear.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


class MalformedJson(BadRequest):
    code = "malformed_json"
    title = "The body is not valid JSON"


class JsonTooComplex(Invalid):
    code = "json_too_complex"
    title = "The JSON is nested too deeply or has too many members"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, errors=[FieldError("body", detail)])


class _RefusedError(ValueError):
    """A fault that the grammar allows and we do not."""


def parse_json(raw: bytes | str) -> JsonValue:
    """The value of a JSON document; objects as dicts, all strings valid Unicode without U+0000.

    Raises:
        MalformedJson: malformed_json
        JsonTooComplex: json_too_complex (depth over 32, over 20,000 members)
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        raise MalformedJson("The body is not UTF-8") from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise JsonTooComplex(f"JSON is nested more than {MAX_DEPTH} levels deep")
    if text.count(",") > MAX_COMMAS:
        raise JsonTooComplex(f"JSON has more than {MAX_COMMAS} members")
    try:
        value, end = cast("tuple[JsonValue, int]", _decoder.raw_decode(text, _skip_space(text, 0)))
        if _skip_space(text, end) != len(text):
            raise MalformedJson("There is something behind the JSON value")
    except _RefusedError as refusal:
        raise MalformedJson(str(refusal)) from None
    except (ValueError, RecursionError):
        raise MalformedJson from None
    # Few bodies hold such an escape at all, and in those it may be an innocent `\\u0000`: look closer.
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        _refuse_bad_strings(value)
    return value


def _skip_space(text: str, position: int) -> int:
    length = len(text)
    while position < length and text[position] in " \t\r\n":
        position += 1
    return position


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        match token[0]:
            case "{" | "[":
                depth += 1
                deepest = max(deepest, depth)
                if deepest > MAX_DEPTH:
                    break
            case "}" | "]":
                depth -= 1
            case _:
                pass
    return deepest


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonValue:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "An object names the same member twice"
        raise _RefusedError(msg)
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_LENGTH:
        msg = "A number is too long"
        raise _RefusedError(msg)
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits) if len(digits) <= _MAX_NUMBER_LENGTH else math.inf
    if not math.isfinite(number):
        msg = "A number is too long or too large"
        raise _RefusedError(msg)
    return number


def _constant(_name: str) -> NoReturn:
    msg = "NaN and infinities are not JSON"
    raise _RefusedError(msg)


def _refuse_bad_strings(value: JsonValue) -> None:
    """Depth is bounded by now, so recursion is too."""
    match value:
        case str():
            if "\0" in value:
                raise MalformedJson("A string holds U+0000")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise MalformedJson("A string holds half of a surrogate pair") from None
        case dict():
            for key, member in value.items():
                _refuse_bad_strings(key)
                _refuse_bad_strings(member)
        case list():
            for item in value:
                _refuse_bad_strings(item)
        case _:
            pass


# With these hooks the C scanner still runs: Python is called per object and number only.
_decoder = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)
