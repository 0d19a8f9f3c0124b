"""What a device's state consists of and how it moves: positions in scopes, and the changes applied to them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]
USER = "user"


@dataclass(frozen=True, slots=True)
class Update:
    """A durable update of a scope, as the server numbered it."""

    type: str
    scope: str
    seq: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reset:
    """The scope must be read again over HTTP; its updates follow from `seq` on."""

    scope: str
    seq: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The scope is no longer ours: left, removed, or deleted."""

    scope: str


@dataclass(frozen=True, slots=True)
class Voided:
    """The server's log is another one (restored from a backup): everything held is void."""

    epoch: str


Change = Update | Reset | Forgotten | Voided


@dataclass(slots=True)
class Position:
    """Where a device stands: the epoch of the log and the last `seq` applied in each scope."""

    epoch: str | None = None
    cursors: dict[str, int] = field(default_factory=dict[str, int])

    def copy(self) -> "Position":
        return Position(self.epoch, dict(self.cursors))

    def move(self, changes: Iterable[Change]) -> None:
        """Advance by changes that were applied; the one rule by which every store keeps its cursors."""
        for change in changes:
            match change:
                case Update():
                    self.cursors[change.scope] = change.seq
                    begun = find_begun(change)
                    if begun is not None:
                        self.cursors.setdefault(*begun)
                case Reset():
                    self.cursors[change.scope] = change.seq
                case Forgotten():
                    self.cursors.pop(change.scope, None)
                case Voided():
                    self.epoch = change.epoch
                    self.cursors.clear()


def find_begun(update: Update) -> tuple[str, int] | None:
    """The chat that a `chat_created` names and the number to follow it from; None for a chat that is gone."""
    if update.type != "chat_created" or update.scope != USER:
        return None
    chat = update.data.get("chat") or update.data
    return (f"chat:{chat['id']}", chat["seq"]) if "seq" in chat else None


def find_ended(update: Update) -> tuple[str, int] | None:
    """The chat whose membership this update ends, and the last number of that membership."""
    if update.type == "chat_removed" and update.scope == USER:
        # A private chat taken off my list comes back with its next message: it is followed on.
        if update.data.get("reason") == "deleted":
            return None
        return f"chat:{update.data['chat_id']}", update.data["seq"]
    if update.type == "chat_deleted" and update.scope != USER:
        return update.scope, update.seq
    return None
