"""The simulated database: chats, memberships and the log of updates, and what a statement sees of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum

from app.features.gateway.logbook import Pages, make_pages
from app.features.gateway.queries import Following, Standing
from app.features.updates.frames import render_update
from app.features.updates.log import Head
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import Scope, ScopeKind, chat_scope, user_scope
from app.transport.feature import LoggedUpdate

_THEN = datetime(2026, 1, 1, tzinfo=UTC)
Pair = tuple[UserId, ChatId]


class Kind(Enum):
    PRIVATE = 0
    GROUP = 1
    CHANNEL = 2


@dataclass
class Chat:
    id: ChatId
    kind: Kind
    is_history_visible: bool = True
    is_deleted: bool = False
    last_message_id: int = 0
    # Who has taken a private chat off their list.
    closed_by: set[UserId] = field(default_factory=set)


@dataclass
class Stay:
    """A user in a chat: entitled to updates above `joined_seq` up to `last_seq` (None: it goes on)."""

    joined_seq: int
    first_visible_id: int
    last_seq: int | None = None

    def covers(self, seq: int) -> bool:
        return self.joined_seq < seq and (self.last_seq is None or seq <= self.last_seq)


class Log:
    """All that is committed. One call of a method that changes it is one transaction."""

    def __init__(self) -> None:
        self.epoch = "epoch-1"
        self.rows: dict[Scope, list[LoggedUpdate]] = {}
        self.pruned: dict[Scope, int] = {}
        # Rows that cannot be filled in, by some fault of theirs.
        self.broken: set[tuple[Scope, int]] = set()
        # Memberships that ended without an update in the scope.
        self.removals: dict[Scope, int] = {}
        self.chats: dict[ChatId, Chat] = {}
        self.stays: dict[Pair, list[Stay]] = {}
        self._announced: list[Announcement] = []

    # What is true now.

    def head(self, scope: Scope) -> int:
        return len(self.rows[scope])

    def stay(self, user_id: UserId, chat_id: ChatId) -> Stay | None:
        """The present one."""
        stays = self.stays.get((user_id, chat_id))
        is_in = stays and stays[-1].last_seq is None and not self.chats[chat_id].is_deleted
        return stays[-1] if is_in else None

    def members(self, chat_id: ChatId) -> list[UserId]:
        pairs = [pair for pair in self.stays if pair[1] == chat_id]
        return [user_id for user_id, _ in pairs if self.stay(user_id, chat_id)]

    def scopes_of(self, user_id: UserId) -> dict[Scope, int]:
        """What a user follows, with the newest numbers."""
        chats = [chat for user, chat in self.stays if user == user_id and self.stay(user, chat)]
        scopes = [user_scope(user_id), *map(chat_scope, chats)]
        return {scope: self.head(scope) for scope in scopes}

    def is_pruned(self, scope: Scope, seq: int) -> bool:
        """Whether what comes behind `seq` is not in the log any more."""
        return seq < self.pruned.get(scope, 0)

    def is_broken(self, scope: Scope, after: int, upto: int) -> bool:
        """Whether one of these rows cannot be filled in."""
        return any((scope, seq) in self.broken for seq in range(after + 1, upto + 1))

    # Transactions: each returns what leaves after its commit.

    def take(self) -> list[Announcement]:
        announced, self._announced = self._announced, []
        return announced

    def settle(self, user_id: UserId) -> None:
        self.rows[user_scope(user_id)] = []

    def create(self, chat: Chat, members: Sequence[UserId]) -> None:
        scope = chat_scope(chat.id)
        self.chats[chat.id] = chat
        self.rows[scope] = []
        for user_id in members:
            self.stays[user_id, chat.id] = [Stay(0, 0)]
            self._append(user_scope(user_id), "chat_created", chat.id)
        if chat.kind is Kind.GROUP:
            self._write(chat)

    def write(self, chat: Chat, *, is_filled: bool) -> None:
        """A message; `is_filled`: it leaves with its frame, as after a group commit."""
        self._write(chat, is_filled=is_filled)

    def edit(self, chat: Chat, message_id: int) -> None:
        self._append(chat_scope(chat.id), "message_edited", message_id)

    def tell(self, user_id: UserId) -> None:
        """Something that concerns the user alone."""
        self._append(user_scope(user_id), "contacts_changed", None, has_frame=True)

    def admit(self, chat: Chat, user_id: UserId) -> None:
        scope = chat_scope(chat.id)
        first_visible_id = 0 if chat.is_history_visible else chat.last_message_id + 1
        stay = Stay(self.head(scope), first_visible_id)
        self.stays.setdefault((user_id, chat.id), []).append(stay)
        self._append(user_scope(user_id), "chat_created", chat.id)
        if chat.kind is Kind.GROUP:
            self._append(scope, "members_changed", chat.id, joined=[user_id])
            self._write(chat)
        else:
            self._append(scope, "chat_updated", chat.id)

    def dismiss(self, chat: Chat, user_id: UserId) -> None:
        scope = chat_scope(chat.id)
        stay = self.stays[user_id, chat.id][-1]
        ended = None
        if chat.kind is Kind.GROUP:
            self._append(scope, "members_changed", chat.id, left=[user_id])
        else:
            self.removals[scope] = self.removals.get(scope, 0) + 1
            ended = (chat.id, self.removals[scope])
        stay.last_seq = self.head(scope)
        if chat.kind is Kind.CHANNEL and self.head(scope) % 2:
            # The number of members, where a minute has passed.
            self._append(scope, "chat_updated", chat.id)
        self._remove(chat, user_id, "left", ended)
        if chat.kind is Kind.GROUP:
            self._write(chat)

    def delete(self, chat: Chat) -> None:
        """For all who are in it; its last update tells."""
        self._append(chat_scope(chat.id), "chat_deleted", chat.id, has_frame=True)
        for user_id in self.members(chat.id):
            self.stays[user_id, chat.id][-1].last_seq = self.head(chat_scope(chat.id))
        chat.is_deleted = True

    def close(self, chat: Chat, user_id: UserId) -> None:
        """Off the user's list until something is written in it; it is followed all the time."""
        chat.closed_by.add(user_id)
        self._remove(chat, user_id, "deleted")

    def reopen(self, chat: Chat, user_id: UserId) -> None:
        chat.closed_by.discard(user_id)
        self._append(user_scope(user_id), "chat_created", chat.id)

    def prune(self, scope: Scope, upto: int) -> None:
        self.pruned[scope] = max(self.pruned.get(scope, 0), upto)

    def copy(self) -> "Log":
        """A backup."""
        copy = Log()
        copy.epoch = self.epoch
        copy.rows = {scope: list(rows) for scope, rows in self.rows.items()}
        copy.pruned, copy.removals = dict(self.pruned), dict(self.removals)
        copy.broken = set(self.broken)
        copy.chats = {
            chat.id: replace(chat, closed_by=set(chat.closed_by)) for chat in self.chats.values()
        }
        copy.stays = {pair: [replace(it) for it in stays] for pair, stays in self.stays.items()}
        return copy

    def restore(self, backup: "Log") -> None:
        """All that came behind the backup is gone, and its numbers are given out again."""
        epoch = self.epoch
        vars(self).update(vars(backup.copy()))
        self.epoch = epoch
        self.renew_epoch()

    def renew_epoch(self) -> None:
        self.epoch = f"epoch-{int(self.epoch[6:]) + 1}"

    # Statements: each sees what is committed at the moment it is called.

    def read_standing(self, user_id: UserId) -> Standing:
        pairs = [pair for pair in self.stays if pair[0] == user_id]
        found = self.read_followings(pairs)
        chats = {following.chat_id: following for following in found.values()}
        return Standing(self.head(user_scope(user_id)), chats)

    def read_followings(self, pairs: Iterable[Pair]) -> dict[Pair, Following]:
        found: dict[Pair, Following] = {}
        for user_id, chat_id in pairs:
            stay = self.stay(user_id, chat_id)
            if stay is not None:
                seq = self.head(chat_scope(chat_id))
                first = MessageId(stay.first_visible_id)
                removals = self.removals.get(chat_scope(chat_id), 0)
                found[user_id, chat_id] = Following(chat_id, seq, stay.joined_seq, first, removals)
        return found

    def read_heads(self, scopes: Iterable[Scope]) -> dict[Scope, Head]:
        return {
            scope: Head(self.head(scope), self.removals.get(scope, 0))
            for scope in scopes
            if scope in self.rows
        }

    def read_rows(self, ranges: Mapping[Scope, tuple[int, int]], limit: int) -> list[LoggedUpdate]:
        rows: list[LoggedUpdate] = []
        for scope in sorted(ranges):
            after, upto = ranges[scope]
            oldest = max(after, self.pruned.get(scope, 0))
            rows += self.rows[scope][oldest : min(upto, self.head(scope))]
        return rows[:limit]

    def fill(
        self, ranges: Mapping[Scope, tuple[int, int]], rows: Sequence[LoggedUpdate], limit: int
    ) -> Pages:
        contents = [
            None if (row.scope, row.seq) in self.broken else self._fill(row) for row in rows
        ]
        return make_pages(ranges, rows, contents, limit=limit)

    def _fill(self, row: LoggedUpdate) -> dict[str, object]:
        match row.type:
            case "new_message" | "message_edited":
                return {"id": row.subject_id, "chat_id": row.scope.id, **row.data["content"]}
            case "chat_created":
                return self._fill_created(UserId(row.scope.id), ChatId(row.subject_id or 0))
            case "chat_removed":
                return {"chat_id": row.subject_id, **row.data["content"]}
            case "chat_updated":
                return {"id": row.subject_id}
            case "members_changed":
                return {"chat_id": row.subject_id, "members_count": 0, "members": []}
            case _:
                return {"chat_id": row.subject_id}

    def _fill_created(self, user_id: UserId, chat_id: ChatId) -> dict[str, object]:
        """The chat as it is when this is read; for whoever is not in it (any more) a tombstone."""
        chat = self.chats[chat_id]
        if self.stay(user_id, chat_id) is None:
            return {"id": chat_id, "is_removed": True}
        return {
            "id": chat_id,
            "type": chat.kind.name.lower(),
            "seq": self.head(chat_scope(chat_id)),
        }

    def _write(self, chat: Chat, *, is_filled: bool = True) -> None:
        scope = chat_scope(chat.id)
        chat.last_message_id = self.head(scope) + 1
        chat.closed_by.clear()
        content = {"text": f"message {chat.last_message_id}"}
        message_id = chat.last_message_id
        self._append(
            scope, "new_message", message_id, data={"content": content}, has_frame=is_filled
        )

    def _remove(
        self, chat: Chat, user_id: UserId, reason: str, ended: tuple[ChatId, int] | None = None
    ) -> None:
        content = {"seq": self.head(chat_scope(chat.id)), "reason": reason}
        scope = user_scope(user_id)
        data = {"content": content}
        self._append(scope, "chat_removed", chat.id, data=data, has_frame=True, ended=ended)

    def _append(
        self,
        scope: Scope,
        update_type: str,
        subject_id: int | None,
        *,
        data: Mapping[str, object] | None = None,
        has_frame: bool = False,
        joined: Sequence[UserId] = (),
        left: Sequence[UserId] = (),
        ended: tuple[ChatId, int] | None = None,
    ) -> None:
        references: dict[str, object] = dict(data or {})
        if ended is not None:
            references["_ended"] = ended
        if update_type == "message_edited":
            references["content"] = {"text": f"edited {subject_id}"}
        references |= {"_joined": list(joined), "_left": list(left)}
        seq = self.head(scope) + 1
        row = LoggedUpdate(scope, seq, update_type, subject_id, references, _THEN)
        self.rows[scope].append(row)
        frame = render_update(update_type, scope, seq, self._fill(row)) if has_frame else None
        removals = self.removals.get(scope, 0)
        self._announced.append(
            Announcement(scope, seq, frame, tuple(joined), tuple(left), removals, ended)
        )


def is_of_chat(scope: Scope) -> bool:
    return scope.kind is ScopeKind.CHAT
