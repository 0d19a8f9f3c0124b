"""A record as one line: JSON for the file, words for the console. Both are redacted, neither can be forged."""

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, cast

import orjson

from app.infra.logging.context import current_log_context
from app.infra.logging.redaction import escape_controls, redact_members, redact_text
from app.kernel.clock import format_time

_ATTRIBUTE: Final = "safe_event"
_COLORS: Final = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

_PRINTABLE: Final = range(0x20, 0x7F)

Event = dict[str, object]


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only: what a terminal would obey is an escape here."""

    def format(self, record: logging.LogRecord) -> str:
        event = safe_event(record)
        line = {
            "timestamp": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **event,
        }
        encoded = orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode(
            "utf-8", "replace"
        )
        return encoded if encoded.isascii() and "\x7f" not in encoded else _to_ascii(encoded)


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, event, members; a trace is indented below, so that it starts no line."""

    def __init__(self, *, colored: bool) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        event = dict(safe_event(record))
        trace = cast("str", event.pop("exception", ""))
        name = escape_controls(str(event.pop("event", "")))
        members = " ".join(f"{key}={escape_controls(str(value))}" for key, value in event.items())
        level = record.levelname
        if self._colored:
            level = f"\x1b[{_COLORS.get(level, '0')}m{level:<8}\x1b[0m"
        line = f"{_timestamp(record)} {level:<8} {name}  {members}".rstrip()
        return line + "".join(f"\n    | {escape_controls(part)}" for part in trace.splitlines())


def safe_event(record: logging.LogRecord) -> Event:
    """Event, context, members and trace of a record, redacted once for all handlers."""
    known = cast("Event | None", record.__dict__.get(_ATTRIBUTE))
    if known is not None:
        return known
    event = _event(record)
    context = current_log_context()
    if context is not None:
        event["request_id"] = context.request_id
        if context.user_id is not None:
            event.setdefault("user_id", context.user_id)
            event.setdefault("session_id", context.session_id)
    if record.exc_info and record.exc_info[0] is not None:
        event["exception"] = redact_text(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        event["stack"] = redact_text(record.stack_info)
    record.__dict__[_ATTRIBUTE] = event
    return event


def is_terminal() -> bool:
    return sys.stderr.isatty()


def _event(record: logging.LogRecord) -> Event:
    members = cast("object", record.msg)  # logging lets it be anything
    if isinstance(members, Mapping):
        return redact_members(cast("Mapping[str, object]", members))
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        # Arguments that do not fit must not lose the line, nor print themselves unseen.
        message = str(record.msg)
    return {"event": redact_text(message)}


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return format_time(moment)


def _to_ascii(line: str) -> str:
    r"""Every other character as JSON's `\uXXXX`, astral ones as their pair."""
    units = line.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if code in _PRINTABLE else f"\\u{code:04x}" for code in codes)
