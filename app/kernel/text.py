"""Rules of names and usernames, and how words are folded for comparison; no text is changed."""

import re
import unicodedata

from app.kernel.entities import utf16_length
from app.kernel.problems import FieldError, Invalid

MAX_NAME_LENGTH = 64
MAX_NAME_WORDS = 16

# They turn the reading direction of what stands behind them: "gpj.exe" reads as "exe.jpg".
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Letters and symbols by category, yet nothing is drawn.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Not Cn, "unassigned": emoji newer than Python's tables are in it.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_BLANK_CATEGORIES = frozenset({"Zs", "Cf", "Mn", "Me"})
_ACCENTS = re.compile("[\u0300-\u036f]")

_USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{4,31}")
# Words that people would take for the service itself, or that stand in links and paths.
_RESERVED_USERNAMES = frozenset(
    {
        "about",
        "account",
        "admin",
        "administrator",
        "android",
        "anonymous",
        "blocked",
        "channel",
        "channels",
        "chats",
        "contact",
        "contacts",
        "deleted",
        "desktop",
        "developer",
        "developers",
        "download",
        "everyone",
        "group",
        "groups",
        "health",
        "helpdesk",
        "invite",
        "invites",
        "joinchat",
        "login",
        "logout",
        "mention",
        "messages",
        "messenger",
        "moderator",
        "notifications",
        "official",
        "owner",
        "password",
        "phone",
        "policy",
        "premium",
        "privacy",
        "proxy",
        "register",
        "saved",
        "savedmessages",
        "search",
        "security",
        "server",
        "service",
        "services",
        "session",
        "sessions",
        "settings",
        "share",
        "signin",
        "signup",
        "staff",
        "status",
        "stickers",
        "support",
        "sysadmin",
        "system",
        "telegram",
        "telegrambot",
        "terms",
        "undefined",
        "update",
        "updates",
        "upload",
        "username",
        "users",
        "verification",
        "verify",
        "webapp",
        "webmaster",
        "websocket",
    }
)


class NameInvalid(Invalid):
    code = "name_invalid"
    title = "The name cannot be used"


class TextInvalid(Invalid):
    code = "text_invalid"
    title = "The text cannot be used"


class UsernameInvalid(Invalid):
    code = "username_invalid"
    title = "The username cannot be used"


def clean_name(text: str, *, field: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """`text` as it came, if it can stand as a name; `max_length` in UTF-16 code units.

    Raises:
        name_invalid: over-long, nothing visible in it, control or bidi-override characters.
    """
    fault = _find_fault(text, max_length=max_length, allowed="")
    if fault is None and is_blank(text):
        fault = "must have a visible character"
    if fault is not None:
        raise NameInvalid(errors=[FieldError(field, fault)])
    return text


def clean_about(text: str, *, field: str, max_length: int) -> str:
    """`text` as it came, if it can stand as a bio or description, which may be empty.

    Raises:
        text_invalid: over-long, control characters other than line feeds, bidi overrides.
    """
    fault = _find_fault(text, max_length=max_length, allowed="\n")
    if fault is not None:
        raise TextInvalid(errors=[FieldError(field, fault)])
    return text


def is_blank(text: str) -> bool:
    """Whether nothing of `text` would be seen on a screen."""
    return all(
        character in _INVISIBLE or unicodedata.category(character) in _BLANK_CATEGORIES
        for character in text
    )


def fold(text: str) -> str:
    """How words are compared: compatibility forms, case and accents do not matter."""
    # Twice: folding case can bring out new compatibility forms (Unicode 3.13, definition D147).
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))


def name_words(text: str) -> list[str]:
    """The folded words of a name or of a search, each once, in order, at most `MAX_NAME_WORDS`."""
    visible = "".join(
        character for character in fold(text) if unicodedata.category(character) != "Cf"
    )
    spaced = "".join(character if _is_part_of_word(character) else " " for character in visible)
    return list(dict.fromkeys(spaced.split()))[:MAX_NAME_WORDS]


def check_username(username: str, *, field: str = "username") -> str:
    """The key under which `username` is unique among users and chats: its lower case.

    Raises:
        username_invalid: not 5 to 32 of `[A-Za-z0-9_]` from a letter on, or a reserved word.
    """
    if not _USERNAME.fullmatch(username):
        message = "must be 5 to 32 Latin letters, digits or underscores and begin with a letter"
        raise UsernameInvalid(errors=[FieldError(field, message)])
    key = username.lower()
    if key in _RESERVED_USERNAMES:
        raise UsernameInvalid(errors=[FieldError(field, "is reserved")])
    return key


def _find_fault(text: str, *, max_length: int, allowed: str) -> str | None:
    if utf16_length(text) > max_length:
        return f"must have at most {max_length} characters"
    for character in text:
        if character in BIDI_CONTROLS:
            return "must not change the direction of writing"
        if character not in allowed and unicodedata.category(character) in _REFUSED_CATEGORIES:
            return "must not have control characters"
    return None


def _is_part_of_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) in {"Mn", "Mc"}
