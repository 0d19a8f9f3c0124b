"""Names of files as people see them: as they were given, without what a file system or a screen could trip over."""

import unicodedata
from typing import Final

from app.kernel.entities import utf16_length
from app.kernel.text import BIDI_CONTROLS, is_blank

MAX_LENGTH: Final = 255
"""In UTF-16 code units: what file systems take."""
_MAX_EXTENSION: Final = 16
_DROPPED: Final = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_NAMELESS: Final = "file"


def clean_original_name(name: str) -> str:
    """The last part of a path, without control characters and overrides of the direction of writing, at most
    `MAX_LENGTH` long with its extension kept; never empty.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(
        character
        for character in last
        if character not in BIDI_CONTROLS and unicodedata.category(character) not in _DROPPED
    ).strip()
    if is_blank(kept) or not kept.strip("."):
        return _NAMELESS
    return _shorten(kept)


def _shorten(name: str) -> str:
    if utf16_length(name) <= MAX_LENGTH:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > _MAX_EXTENSION:
        stem, dot, extension = name, "", ""
    room = MAX_LENGTH - utf16_length(dot + extension)
    return _cut(stem, room).rstrip() + dot + extension


def _cut(text: str, units: int) -> str:
    """The longest beginning of at most so many UTF-16 code units; no character is halved."""
    encoded = text.encode("utf-16-le")[: 2 * units]
    return encoded.decode("utf-16-le", errors="ignore")
