"""Scopes: the streams in which updates are numbered. A chat's is seen by its members, a user's by that user alone."""

from enum import IntEnum
from typing import NamedTuple

from app.kernel.ids import MAX_ID, ChatId, UserId


class ScopeKind(IntEnum):
    """The order of the values is the order of locking: chats before users."""

    CHAT = 1
    USER = 2


class Scope(NamedTuple):
    """Sorts in the order of locking: by kind, then by id."""

    kind: ScopeKind
    id: int

    @property
    def wire(self) -> str:
        """`chat:<id>`, or `user`: a client knows only its own user scope."""
        return f"chat:{self.id}" if self.kind is ScopeKind.CHAT else "user"


def chat_scope(chat_id: ChatId) -> Scope:
    return Scope(ScopeKind.CHAT, chat_id)


def user_scope(user_id: UserId) -> Scope:
    return Scope(ScopeKind.USER, user_id)


def parse_wire_scope(text: str, user_id: UserId) -> Scope | None:
    """The scope that `user_id` means by `text`; None if it is not the name of a scope."""
    if text == "user":
        return user_scope(user_id)
    prefix, _, digits = text.partition(":")
    if prefix != "chat" or not (digits.isascii() and digits.isdigit()) or digits.startswith("0"):
        return None
    if len(digits) > len(str(MAX_ID)) or int(digits) > MAX_ID:
        return None
    return Scope(ScopeKind.CHAT, int(digits))
