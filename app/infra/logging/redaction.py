"""What may never reach a log line, and how it is cut out of whatever does.

Two nets: members of an event are blanked by their name, and every text is searched for what looks
like a token, a phone number or a path that holds one.
"""

import re
from collections.abc import Mapping
from typing import Final, cast

HIDDEN: Final = "***"
_MAX_TEXT = 32_768

# Names of members that hold something personal or secret, whatever it looks like.
_SECRET_NAMES: Final = frozenset(
    {
        *(
            "phone",
            "phones",
            "to",
            "code",
            "token",
            "ticket",
            "password",
            "secret",
            "authorization",
            "cookie",
        ),
        *(
            "access_token",
            "refresh_token",
            "password_token",
            "csrf_token",
            "verification_id",
            "api_key",
            "key",
        ),
        *(
            "text",
            "body",
            "content",
            "title",
            "description",
            "bio",
            "username",
            "first_name",
            "last_name",
        ),
        *(
            "device_name",
            "query",
            "q",
            "sdp",
            "candidate",
            "frame",
            "payload",
            "data",
            "params",
            "parameters",
        ),
        *("headers", "path", "url", "query_string"),
    }
)
# Ours, from a closed set or made by us: searching them costs time and would spoil long names.
_SAFE_NAMES: Final = frozenset(
    {"event", "request_id", "route", "method", "level", "logger", "status", "ms", "client", "head"}
)

_PATTERNS: Final = re.compile(
    r"""
      (?P<socket>/ws/(?:chat/[^/\s"'?\#]*/)?)[^\s"'?\#]+     # /ws/{token}, /ws/chat/{id}/{token}
    | (?P<invite>/invites/)[^\s"'/?\#]+
    | (?P<bearer>\b(?i:bearer|basic)\s+)[^\s"',;]+
    | (?P<account>://)[^\s/@"']+@                             # user:password@ of a database address
    | (?P<parameters>\[parameters:\s)[^\n]*                  # of a statement, in SQLAlchemy's errors
    | (?P<detail>\bDETAIL:\s).*                               # values of a row, in PostgreSQL's errors
    | (?P<named>\b(?i:\w*token|ticket|password|secret|code|otp|phone|text)["']?\s{0,3}[=:]\s{0,3})
      (?!%)(?:"[^"]*"|'[^']*'|[^\s,;&)}\]]+)
    | \beyJ[\w-]{4,500}\.[\w-]+\.?[\w-]*                      # JSON Web Token
    | (?:\+|%2[Bb])[\d\s().-]{6,22}\d                         # phone number with a plus
    | \b(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[A-Z])(?=[\w-]{0,80}[a-z])[\w-]{24,}   # token_urlsafe
    | \b(?=[\w-]{0,80}[A-Z])(?=[\w-]{0,80}[a-z])[\w-]{40,}
    | \b[0-9a-f]{32,}\b                                       # hash or key
    """,
    re.VERBOSE | re.ASCII | re.MULTILINE,
)

# C0 but tab, DEL, C1, line separators, direction marks: they forge lines or drive a terminal.
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def redact_text(text: str) -> str:
    """`text` without what looks like a secret or a phone number; the rest of a very long one is cut off."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + " (cut)"
    return _PATTERNS.sub(_keep_prefix, text)


def redact_members(members: Mapping[str, object]) -> dict[str, object]:
    """The members of an event, the secret ones blanked, the others searched."""
    return {
        name: value if name in _SAFE_NAMES else _redact_member(name, value)
        for name, value in members.items()
    }


def escape_controls(text: str) -> str:
    r"""On one line, whatever was in it: `\n`, `\x1b`, `\u202e` as words."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub(_escape, text)


def _keep_prefix(match: re.Match[str]) -> str:
    prefix = match[match.lastgroup] if match.lastgroup else ""
    return f"{prefix}{HIDDEN}"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def _redact_member(name: str, value: object) -> object:
    if value is None:
        return None
    if name.lower() in _SECRET_NAMES:
        return HIDDEN
    if isinstance(value, Mapping):
        return redact_members(
            {str(key): item for key, item in cast("Mapping[object, object]", value).items()}
        )
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact_member("", item) for item in cast("list[object]", value)]
    if isinstance(value, (bool, int, float)):
        return value
    return redact_text(str(value))
