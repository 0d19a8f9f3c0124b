"""What every device may be sent and must apply, judged by the log at the moment it happens."""

from dataclasses import dataclass, field
from typing import Any

from messenger_client import Forgotten, Reset, Update, Voided

from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, parse_wire_scope
from tests.unit.simulation.log import Log, is_of_chat

_CREATED = "chat_created"


class Wrong(AssertionError):  # noqa: N818 - says what happened
    """A promise was broken."""


@dataclass
class Applied:
    """What a device's store holds: where it stands in each scope, and of which epoch that is."""

    user_id: UserId
    epoch: str | None = None
    cursors: dict[str, int] = field(default_factory=dict)
    # What the last question to the server named.
    asked: dict[str, int] = field(default_factory=dict)
    updates: int = 0
    resets: int = 0


class Judge:
    """Raises `Wrong`."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._scopes: dict[tuple[UserId, str], Scope] = {}

    # What is sent.

    def see(self, user_id: UserId, frame: dict[str, Any]) -> None:
        """A durable update reaches a device, by socket or over HTTP."""
        scope = self._scope(user_id, frame["scope"])
        seq = frame["seq"]
        if scope not in self.log.rows or not 0 < seq <= self.log.head(scope):
            raise Wrong(f"{user_id} was sent {frame}, which is not committed")
        if self.log.rows[scope][seq - 1].type != frame["type"]:
            raise Wrong(f"{user_id} was sent {frame}, but the log holds another update there")
        if not is_of_chat(scope):
            return
        stays = self.log.stays.get((user_id, ChatId(scope.id)), [])
        stay = next((it for it in stays if it.covers(seq)), None)
        if stay is None:
            raise Wrong(f"{user_id} was sent {frame}, but was not in the chat then: {stays}")
        if frame["type"] in {"new_message", "message_edited"}:
            is_told = "text" in frame["data"]
            if is_told and frame["data"]["id"] < stay.first_visible_id:
                raise Wrong(f"{user_id} was sent {frame} from before their time")

    def was_in_twice(self, user_id: UserId, wire: str) -> bool:
        """Who comes in again may be sent what they were sent before: the Chat tells of it, too."""
        scope = self._scope(user_id, wire)
        return is_of_chat(scope) and len(self.log.stays[user_id, ChatId(scope.id)]) > 1

    # What is applied.

    def apply(self, applied: Applied, change: object) -> None:
        match change:
            case Update(update_type, wire, seq, data):
                self._apply_update(applied, update_type, wire, seq, data)
            case Reset(wire, seq):
                self._apply_reset(applied, wire, seq)
            case Forgotten(wire):
                self._forget(applied, wire)
            case Voided(epoch):
                if epoch == applied.epoch:
                    raise Wrong("voided by the epoch that it was of")
                applied.epoch = epoch
                applied.cursors.clear()
            case _:
                raise Wrong(f"unknown change {change}")

    def _apply_update(
        self, applied: Applied, update_type: str, wire: str, seq: int, data: dict[str, Any]
    ) -> None:
        rows = self.log.rows[self._scope(applied.user_id, wire)]
        if rows[seq - 1].type != update_type:
            raise Wrong(f"{applied.user_id} applied another update than {wire} {seq}")
        cursor = applied.cursors.get(wire)
        if cursor is None or seq != cursor + 1:
            raise Wrong(f"{applied.user_id} applied {wire} {seq} behind {cursor}")
        applied.cursors[wire] = seq
        applied.updates += 1
        if update_type == _CREATED and "seq" in data:
            begun = f"chat:{data['id']}"
            if begun not in applied.cursors:
                applied.cursors[begun] = data["seq"]

    def _apply_reset(self, applied: Applied, wire: str, seq: int) -> None:
        """Only where the log cannot, or must not, close the gap."""
        scope = self._scope(applied.user_id, wire)
        if seq > self.log.head(scope):
            raise Wrong(f"{wire} was reset to {seq}, which is not committed")
        cursor = applied.cursors.get(wire)
        if cursor is not None:
            if seq < cursor:
                raise Wrong(f"{wire} was reset from {cursor} back to {seq}")
            asked = min(cursor, applied.asked.get(wire, cursor))
            if not self._is_reset_due(applied.user_id, scope, asked, seq):
                raise Wrong(f"{applied.user_id}: {wire} was reset from {cursor} to {seq}")
        applied.cursors[wire] = seq
        applied.resets += 1

    def _is_reset_due(self, user_id: UserId, scope: Scope, cursor: int, seq: int) -> bool:
        stays = self.log.stays.get((user_id, ChatId(scope.id)), []) if is_of_chat(scope) else []
        if stays and (len(stays) > 1 or seq == cursor):
            # Who comes in again may be sent all of this membership, whatever they were told before.
            cursor = min(cursor, stays[-1].joined_seq)
        if self.log.is_pruned(scope, cursor) or self.log.is_broken(scope, cursor, seq):
            return True
        return any(cursor < stay.joined_seq for stay in stays)

    def _forget(self, applied: Applied, wire: str) -> None:
        scope = self._scope(applied.user_id, wire)
        cursor = applied.cursors.pop(wire, None)
        if cursor is None or not is_of_chat(scope):
            raise Wrong(f"{wire} was forgotten, which {applied.user_id} did not follow")
        # They may be in it again: then another update tells.
        stays = self.log.stays.get((applied.user_id, ChatId(scope.id)), [])
        if stays and all(stay.last_seq is None for stay in stays):
            raise Wrong(f"{wire} was forgotten at {cursor}, but {applied.user_id} was not put out")

    def _scope(self, user_id: UserId, wire: str) -> Scope:
        scope = self._scopes.get((user_id, wire))
        if scope is None:
            scope = parse_wire_scope(wire, user_id)
            if scope is None:
                raise Wrong(f"there is no scope {wire}")
            self._scopes[user_id, wire] = scope
        return scope
