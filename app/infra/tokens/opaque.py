"""Opaque tokens: 256 random bits with a prefix that tells their purpose. Only their SHA-256 is ever
stored.

The prefix keeps one kind from standing in for another, and lets secret scanners find a leaked one.
"""

import hashlib
import secrets
from enum import StrEnum

_RANDOM_BYTES = 32
_RANDOM_CHARACTERS = 43


class Purpose(StrEnum):
    REFRESH = "rt_"
    TICKET = "wt_"
    PASSWORD = "pt_"  # noqa: S105 - a prefix


def new_token(purpose: Purpose) -> str:
    return purpose + secrets.token_urlsafe(_RANDOM_BYTES)


def is_token(token: str, purpose: Purpose) -> bool:
    """Whether `token` has the form of such a token; says nothing about whether it was ever
    issued.
    """
    return (
        token.isascii()
        and token.startswith(purpose)
        and len(token) == len(purpose) + _RANDOM_CHARACTERS
    )


def hash_token(token: str, purpose: Purpose) -> bytes | None:
    """The 32 bytes under which a token is stored; None if it has not the form of this purpose.

    A plain hash is enough: 256 random bits cannot be searched.
    """
    return hashlib.sha256(token.encode()).digest() if is_token(token, purpose) else None
