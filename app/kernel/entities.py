"""Message entities in Telegram's shape: marked parts of a text, measured in UTF-16 code units.

https://core.telegram.org/api/entities
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypedDict, cast
from urllib.parse import urlsplit

from app.kernel.ids import MAX_USER_ID, UserId
from app.kernel.problems import FieldError, Invalid

MAX_ENTITIES = 100
MAX_URL_LENGTH = 2048
LINK_SCHEMES = frozenset({"http", "https", "mailto", "tg"})

_LAST_OF_FIRST_PLANE = 0xFFFF
_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,64}")
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\\<>\"]")


class EntitiesInvalid(Invalid):
    code = "entities_invalid"
    title = "The entities do not fit the text"


class EntityType(StrEnum):
    """The closed set of what a part of a text can be."""

    MENTION = "mention"
    HASHTAG = "hashtag"
    CASHTAG = "cashtag"
    BOT_COMMAND = "bot_command"
    URL = "url"
    EMAIL = "email"
    PHONE_NUMBER = "phone_number"
    BOLD = "bold"
    ITALIC = "italic"
    UNDERLINE = "underline"
    STRIKETHROUGH = "strikethrough"
    SPOILER = "spoiler"
    BLOCKQUOTE = "blockquote"
    EXPANDABLE_BLOCKQUOTE = "expandable_blockquote"
    CODE = "code"
    PRE = "pre"
    TEXT_LINK = "text_link"
    TEXT_MENTION = "text_mention"


class EntityDocument(TypedDict):
    """An entity on the wire and in a stored message."""

    type: str
    offset: int
    length: int
    url: NotRequired[str]
    user_id: NotRequired[int]
    language: NotRequired[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """`offset` and `length` are UTF-16 code units; the part lies wholly inside its text."""

    type: EntityType
    offset: int
    length: int
    url: str | None = None
    user_id: UserId | None = None
    language: str | None = None


def check_entities(text: str, raw: Sequence[Mapping[str, object]]) -> list[Entity]:
    """The entities of `text` from outside, sorted by offset; of two that begin together the longer.

    A member whose value is None counts as absent.

    Raises:
        entities_invalid: too many, an unknown type or member, a part outside the text or through
            the middle of a surrogate pair, an unsafe link. Names the entity, never repeats a value.
    """
    if len(raw) > MAX_ENTITIES:
        raise EntitiesInvalid(errors=[FieldError("entities", f"at most {MAX_ENTITIES} entities")])
    if not raw:
        return []
    size = utf16_length(text)
    # Without a character beyond the first plane no offset can split a pair.
    inside_pairs = frozenset[int]() if size == len(text) else _offsets_inside_pairs(text)
    entities: list[Entity] = []
    for position, item in enumerate(raw):
        try:
            entities.append(_check_entity(item, size=size, inside_pairs=inside_pairs))
        except _FaultError as fault:
            error = FieldError(f"entities.{position}.{fault.member}", fault.message)
            raise EntitiesInvalid(errors=[error]) from fault
    entities.sort(key=lambda entity: (entity.offset, -entity.length))
    return entities


def utf16_length(text: str) -> int:
    """How many UTF-16 code units `text` has: what every length in the contract is measured in."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def utf16_slice(text: str, offset: int, length: int) -> str:
    """The part of `text` that an entity marks."""
    raw = text.encode("utf-16-le", "surrogatepass")
    return raw[offset * 2 : (offset + length) * 2].decode("utf-16-le", "surrogatepass")


def render_entities(entities: Iterable[Entity]) -> list[EntityDocument]:
    """As on the wire and in a sealed body: absent members are left out."""
    documents: list[EntityDocument] = []
    for entity in entities:
        document: EntityDocument = {
            "type": entity.type.value,
            "offset": entity.offset,
            "length": entity.length,
        }
        if entity.url is not None:
            document["url"] = entity.url
        if entity.user_id is not None:
            document["user_id"] = entity.user_id
        if entity.language is not None:
            document["language"] = entity.language
        documents.append(document)
    return documents


class _FaultError(Exception):
    """One entity breaks a rule at one member."""

    def __init__(self, member: str, message: str) -> None:
        super().__init__(message)
        self.member = member
        self.message = message


_TYPES: dict[object, EntityType] = {kind.value: kind for kind in EntityType}
# The member that a type has beyond type, offset and length, and whether it must be there.
_EXTRA: dict[EntityType, tuple[str, bool]] = {
    EntityType.TEXT_LINK: ("url", True),
    EntityType.TEXT_MENTION: ("user_id", True),
    EntityType.PRE: ("language", False),
}
_MEMBERS = frozenset({"url", "user_id", "language"})


def _check_entity(item: Mapping[str, object], *, size: int, inside_pairs: frozenset[int]) -> Entity:
    members = {name: value for name, value in item.items() if value is not None}
    kind = _check_type(members.pop("type", None))
    offset, length = _check_part(
        members.pop("offset", None),
        members.pop("length", None),
        size=size,
        inside_pairs=inside_pairs,
    )
    extra, is_required = _EXTRA.get(kind, ("", False))
    if is_required and extra not in members:
        raise _FaultError(extra, f"{kind.value} needs it")
    for name in members:
        if name != extra:
            # A name that is not ours is the sender's text: it is not repeated.
            member = name if name in _MEMBERS else "type"
            raise _FaultError(member, f"{kind.value} has no such member")
    return Entity(
        type=kind,
        offset=offset,
        length=length,
        url=_check_url(members["url"]) if "url" in members else None,
        user_id=_check_user_id(members["user_id"]) if "user_id" in members else None,
        language=_check_language(members["language"]) if "language" in members else None,
    )


def _check_type(value: object) -> EntityType:
    kind = _TYPES.get(value) if isinstance(value, str) else None
    if kind is None:
        raise _FaultError("type", "unknown type")
    return kind


def _check_part(
    offset: object, length: object, *, size: int, inside_pairs: frozenset[int]
) -> tuple[int, int]:
    if not _is_integer(offset) or cast("int", offset) < 0:
        raise _FaultError("offset", "must be an integer from 0")
    if not _is_integer(length) or cast("int", length) < 1:
        raise _FaultError("length", "must be an integer from 1")
    start, end = cast("int", offset), cast("int", offset) + cast("int", length)
    if start >= size:
        raise _FaultError("offset", "lies behind the end of the text")
    if end > size:
        raise _FaultError("length", "reaches behind the end of the text")
    if start in inside_pairs:
        raise _FaultError("offset", "splits a surrogate pair")
    if end in inside_pairs:
        raise _FaultError("length", "splits a surrogate pair")
    return start, end - start


def _is_integer(value: object) -> bool:
    """`True` is an int to Python, never to us."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check_url(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_URL_LENGTH:
        raise _FaultError("url", f"must be 1 to {MAX_URL_LENGTH} characters")
    if not is_safe_link(value):
        raise _FaultError("url", "must be an http, https, mailto or tg link")
    return value


def is_safe_link(url: str) -> bool:
    """Whether a client may offer `url`: an allowed scheme, and no character that disguises it."""
    if _UNSAFE_IN_URL.search(url):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme not in LINK_SCHEMES:
        return False
    if parts.scheme in {"http", "https"}:
        return bool(host)
    return len(url) > len(parts.scheme) + 1


def _check_user_id(value: object) -> UserId:
    if not _is_integer(value) or not 1 <= cast("int", value) <= MAX_USER_ID:
        raise _FaultError("user_id", "must be the id of a user")
    return UserId(cast("int", value))


def _check_language(value: object) -> str:
    if not isinstance(value, str) or not _LANGUAGE.fullmatch(value):
        raise _FaultError("language", "must be 1 to 64 letters, digits or + # . _ -")
    return value


def _offsets_inside_pairs(text: str) -> frozenset[int]:
    """The offsets between the two halves of a surrogate pair."""
    offsets: set[int] = set()
    position = 0
    for character in text:
        if ord(character) > _LAST_OF_FIRST_PLANE:
            offsets.add(position + 1)
            position += 2
        else:
            position += 1
    return frozenset(offsets)
