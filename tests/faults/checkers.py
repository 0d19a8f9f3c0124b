"""What was promised, judged by the log: pure functions from evidence to anomalies.

Anomalies carry the names of Jepsen's kafka checker where there is one: lost-write, duplicate,
inconsistent-offsets, nonmonotonic-poll, poll-skip, unseen, g1a.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from messenger_client import Change, Forgotten, Reset, Update, Voided

from tests.faults.journal import Call, Outcome

UNREAD_CAP = 1000
_SERVICE = "service"
_CONTENT_TYPES = frozenset({"new_message", "message_edited", "message_deleted"})


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`name` is what kind of promise was broken."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True, slots=True)
class LogRow:
    """A row of the update log; `scope` is `chat:<id>` or `user:<id>`."""

    scope: str
    seq: int
    type: str
    subject_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A stored message; its text is sealed and no part of the evidence."""

    id: int
    chat_id: int
    seq: int
    sender_id: int
    type: str = "text"
    client_message_id: str | None = None
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A membership: updates of the chat with `after < seq <= upto` are the member's to see."""

    after: int
    upto: int | None = None

    def holds(self, seq: int) -> bool:
        return self.after < seq and (self.upto is None or seq <= self.upto)


Spans = Mapping[tuple[int, int], Sequence[Span]]


@dataclass(slots=True)
class Device:
    """What one device applied, in order over all scopes; `user` stands for the scope of `user_id`.

    `began`: its cursors before the first change; `ended`: those it holds after the last.
    """

    name: str
    user_id: int
    began: Mapping[str, int]
    changes: Sequence[Change]
    ended: Mapping[str, int]

    def log_scope(self, wire: str) -> str:
        return f"user:{self.user_id}" if wire == "user" else wire


# The log itself.


def check_log(
    base: Mapping[str, int], rows: Sequence[LogRow], heads: Mapping[str, int]
) -> list[Anomaly]:
    """Each scope's numbers run from where they stood (`base`, else 0) to the head, without a hole."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.scope].append(row.seq)
    found: list[Anomaly] = []
    for scope in sorted({*numbers, *heads}):
        start, head = base.get(scope, 0), heads.get(scope, 0)
        seqs = numbers.get(scope, [])
        found += [
            Anomaly("duplicate", f"{scope} has the number {seq} {count} times")
            for seq, count in Counter(seqs).items()
            if count > 1
        ]
        missing = sorted(set(range(start + 1, head + 1)) - set(seqs))
        if missing:
            found.append(Anomaly("hole", f"{scope} lacks {_short(missing)} of {start + 1}..{head}"))
        beyond = sorted(seq for seq in seqs if seq > head or seq <= start)
        if beyond:
            found.append(
                Anomaly("hole", f"{scope} has {_short(beyond)} outside {start + 1}..{head}")
            )
    return found


def check_ids(rows: Sequence[LogRow], messages: Sequence[MessageRow]) -> list[Anomaly]:
    """Inside a chat ids grow with `seq`, and each message stands in the log where its row says."""
    places = {row.subject_id: (row.scope, row.seq) for row in rows if row.type == "new_message"}
    found = [
        Anomaly(
            "inconsistent-offsets",
            f"message {message.id} says chat:{message.chat_id} {message.seq}, the log {place}",
        )
        for message in messages
        if (place := places.get(message.id)) != (f"chat:{message.chat_id}", message.seq)
    ]
    stored = {message.id for message in messages}
    found += [
        Anomaly("g1a", f"the log names message {subject}, which was never stored ({place})")
        for subject, place in places.items()
        if subject not in stored
    ]
    newest: dict[int, MessageRow] = {}
    for message in sorted(messages, key=lambda it: (it.chat_id, it.seq)):
        earlier = newest.get(message.chat_id)
        if earlier is not None and earlier.id >= message.id:
            found.append(
                Anomaly(
                    "inconsistent-offsets",
                    f"chat:{message.chat_id}: {earlier.seq} is message {earlier.id}, "
                    f"{message.seq} is {message.id}",
                )
            )
        newest[message.chat_id] = message
    return found


# Sends: what was answered, held against what is stored.


def check_sends(calls: Sequence[Call], messages: Sequence[MessageRow]) -> list[Anomaly]:
    """Acknowledged sends are stored once, unknown ones at most once, refused ones never.

    Calls with one `client_message_id` are tries of one send.
    """
    rows: dict[tuple[int, str], list[MessageRow]] = defaultdict(list)
    for message in messages:
        if message.client_message_id is not None:
            rows[message.sender_id, message.client_message_id].append(message)
    tries: dict[tuple[int, str], list[Call]] = defaultdict(list)
    for call in calls:
        if call.action == "send":
            tries[call.user_id, call.about["client_message_id"]].append(call)
    found: list[Anomaly] = []
    for key, attempts in tries.items():
        found += _check_one_send(attempts, rows.get(key, []))
    found += [
        Anomaly("g1a", f"message {stored[0].id} was never sent by anybody ({key[1]})")
        for key, stored in rows.items()
        if key not in tries
    ]
    return found


def _check_one_send(attempts: Sequence[Call], stored: Sequence[MessageRow]) -> Iterator[Anomaly]:
    about = attempts[0].about
    where = f"{about['client_message_id']} of {attempts[0].device} to chat:{about['chat_id']}"
    acknowledged = [call for call in attempts if call.outcome is Outcome.OK]
    if len(stored) > 1:
        ids = [message.id for message in stored]
        yield Anomaly("duplicate", f"{where} is stored as {ids}")
    if acknowledged and not stored:
        yield Anomaly("lost-write", f"{where} was acknowledged as {acknowledged[0].answer}")
    answered = {call.answer["id"] for call in acknowledged}
    if len(answered) > 1:
        yield Anomaly("duplicate", f"{where} was answered with {sorted(answered)}")
    if stored and answered and answered != {stored[0].id}:
        yield Anomaly(
            "inconsistent-offsets", f"{where} was answered {answered}, stored as {stored[0].id}"
        )
    if stored and all(call.outcome is Outcome.FAIL for call in attempts):
        yield Anomaly("g1a", f"{where} was refused ({attempts[0].answer}) and is stored")
    if acknowledged and stored and stored[0].chat_id != about["chat_id"]:
        yield Anomaly("inconsistent-offsets", f"{where} is stored in chat:{stored[0].chat_id}")


def check_changes(calls: Sequence[Call], rows: Sequence[LogRow]) -> list[Anomaly]:
    """An acknowledged edit or deletion is in the log; a deletion for everyone only once."""
    edited = Counter(row.subject_id for row in rows if row.type == "message_edited")
    deleted = Counter(row.subject_id for row in rows if row.type == "message_deleted")
    found = [
        Anomaly("duplicate", f"message {message_id} was deleted {count} times")
        for message_id, count in deleted.items()
        if count > 1
    ]
    for action, logged in (("edit", edited), ("delete", deleted)):
        asked = Counter(
            call.about["message_id"]
            for call in calls
            if call.action == action and call.outcome is Outcome.OK
        )
        found += [
            Anomaly(
                "lost-write",
                f"{action} of {message_id}: {count} acknowledged, {logged[message_id]} logged",
            )
            for message_id, count in asked.items()
            if logged[message_id] < count
        ]
    return found


# Devices: what was applied, held against the log.


def check_order(devices: Iterable[Device], rows: Sequence[LogRow]) -> list[Anomaly]:
    """One order for everyone: every number stands for the same update on every device and in the log."""
    log = {(row.scope, row.seq): row for row in rows}
    found: list[Anomaly] = []
    for device in devices:
        for change in device.changes:
            if not isinstance(change, Update):
                continue
            scope = device.log_scope(change.scope)
            row = log.get((scope, change.seq))
            shown = f"{device.name} applied {scope} {change.seq} {change.type}"
            if row is None:
                found.append(Anomaly("g1a", f"{shown}, which the log does not hold"))
            elif row.type != change.type or not _has_same_subject(change, row):
                found.append(
                    Anomaly(
                        "inconsistent-offsets",
                        f"{shown} of {change.data.get('id')}; the log: {row.type} of {row.subject_id}",
                    )
                )
    return found


def _has_same_subject(change: Update, row: LogRow) -> bool:
    return change.type not in _CONTENT_TYPES or _message_of(change).get("id") == row.subject_id


def check_polls(devices: Iterable[Device], heads: Mapping[str, int], spans: Spans) -> list[Anomaly]:
    """Each device's applied list is a contiguous run per scope up to the head of each of its scopes."""
    return [anomaly for device in devices for anomaly in _Walk(device, heads, spans).judge()]


class _Walk:
    """One device's changes in order, with the cursors that they lead to."""

    def __init__(self, device: Device, heads: Mapping[str, int], spans: Spans) -> None:
        self._device = device
        self._heads = heads
        self._spans = spans
        self._cursors = dict(device.began)
        self._applied: set[tuple[str, int]] = set()
        self._found: list[Anomaly] = []

    def judge(self) -> list[Anomaly]:
        for change in self._device.changes:
            match change:
                case Update():
                    self._update(change)
                case Reset():
                    self._reset(change)
                case Forgotten():
                    self._forget(change)
                case Voided():
                    self._flag("unjustified-reset", f"voided by epoch {change.epoch}")
        self._judge_end()
        return self._found

    def _update(self, update: Update) -> None:
        scope, seq = update.scope, update.seq
        cursor = self._cursors.get(scope)
        if cursor is None:
            self._flag("poll-skip", f"{scope} {seq} of a scope that was never begun")
        elif (scope, seq) in self._applied:
            self._flag("duplicate", f"{scope} {seq} applied twice")
        elif seq <= cursor:
            self._flag("nonmonotonic-poll", f"{scope} {seq} behind {cursor}")
        elif seq > cursor + 1:
            self._flag("poll-skip", f"{scope} went from {cursor} to {seq}")
        self._applied.add((scope, seq))
        self._cursors[scope] = max(seq, cursor or 0)
        if scope == "user" and update.type == "chat_created":
            self._begin(update)

    def _begin(self, update: Update) -> None:
        chat = update.data.get("chat") or update.data
        if "seq" in chat:
            self._cursors.setdefault(f"chat:{chat['id']}", chat["seq"])

    def _reset(self, reset: Reset) -> None:
        scope, seq = reset.scope, reset.seq
        cursor = self._cursors.get(scope)
        spans = self._spans_of(scope)
        if seq > self._heads.get(self._device.log_scope(scope), 0):
            self._flag("unjustified-reset", f"{scope} to {seq}, ahead of the log")
        elif cursor is None:
            if scope == "user" or not any(_reaches(span, seq) for span in spans):
                self._flag("unjustified-reset", f"{scope} to {seq}, never a member there")
        elif not any(cursor < span.after <= seq for span in spans):
            self._flag("unjustified-reset", f"{scope} from {cursor} to {seq}")
        self._cursors[scope] = seq

    def _forget(self, forgotten: Forgotten) -> None:
        scope = forgotten.scope
        cursor = self._cursors.pop(scope, None)
        if cursor is None:
            return
        ended = (span.upto for span in self._spans_of(scope))
        if not any(upto is not None and upto >= cursor for upto in ended):
            self._flag(
                "unjustified-reset", f"{scope} forgotten at {cursor}, the membership goes on"
            )

    def _judge_end(self) -> None:
        if dict(self._cursors) != dict(self._device.ended):
            differing = {
                scope: (self._cursors.get(scope), self._device.ended.get(scope))
                for scope in {*self._cursors, *self._device.ended}
                if self._cursors.get(scope) != self._device.ended.get(scope)
            }
            self._flag("inconsistent-offsets", f"applied and held positions differ: {differing}")
        for scope in self._list_wanted():
            head = self._heads.get(self._device.log_scope(scope), 0)
            cursor = self._cursors.get(scope)
            if cursor != head:
                self._flag("unseen", f"{scope} at {cursor}, the log at {head}")
        for scope in self._cursors.keys() - set(self._list_wanted()):
            self._flag("unseen", f"still follows {scope}, whose membership is over")

    def _list_wanted(self) -> list[str]:
        return list_scopes(self._device.user_id, self._spans)

    def _spans_of(self, scope: str) -> Sequence[Span]:
        return self._spans.get((self._device.user_id, _chat_id(scope)), ())

    def _flag(self, name: str, detail: str) -> None:
        self._found.append(Anomaly(name, f"{self._device.name}: {detail}"))


def _reaches(span: Span, seq: int) -> bool:
    """As `holds`, with the number of the joining itself."""
    return span.after <= seq and (span.upto is None or seq <= span.upto)


def check_visibility(devices: Iterable[Device], spans: Spans) -> list[Anomaly]:
    """Nobody got an update of a chat from before their joining or behind their removal."""
    return [
        Anomaly(
            "after-removal",
            f"{device.name} applied {change.scope} {change.seq}, a member of {_show(mine)}",
        )
        for device in devices
        for change in device.changes
        if isinstance(change, Update) and change.scope != "user"
        for mine in [spans.get((device.user_id, _chat_id(change.scope)), ())]
        if not any(span.holds(change.seq) for span in mine)
    ]


def check_writers(messages: Sequence[MessageRow], spans: Spans) -> list[Anomaly]:
    """Whoever wrote a message was a member at its number. Service messages may be about the one who left."""
    return [
        Anomaly(
            "outsider-write",
            f"message {message.id} at chat:{message.chat_id} {message.seq} by {message.sender_id}, "
            f"a member of {_show(mine)}",
        )
        for message in messages
        if message.type != _SERVICE
        for mine in [spans.get((message.sender_id, message.chat_id), ())]
        if not any(span.holds(message.seq) for span in mine)
    ]


def check_texts(devices: Iterable[Device], calls: Sequence[Call]) -> list[Anomaly]:
    """Whatever text a device applied was sent or edited into that very message, and never refused."""
    texts = _Texts(calls)
    return [
        anomaly
        for device in devices
        for change in device.changes
        if isinstance(change, Update) and change.type in _CONTENT_TYPES
        for anomaly in texts.judge(device, change)
    ]


class _Texts:
    """The texts that messages may show."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._sent: dict[str, set[str]] = defaultdict(set)
        self._edited: dict[int, set[str]] = defaultdict(set)
        self._refused: set[str] = set()
        for call in calls:
            if call.action == "edit":
                self._edited[call.about["message_id"]].add(call.about["text"])
            elif call.action == "send" and call.about.get("forced"):
                self._refused.add(call.about["text"])
            elif call.action == "send":
                self._sent[call.about["client_message_id"]].add(call.about["text"])

    def judge(self, device: Device, update: Update) -> Iterator[Anomaly]:
        message = _message_of(update)
        text, key = message.get("text"), message.get("client_message_id")
        if text is None or key not in self._sent:
            return
        where = f"{device.name} applied {update.scope} {update.seq} with the text {text[:60]!r}"
        if text in self._refused:
            yield Anomaly("g1a", f"{where}, which was refused")
        elif text not in self._sent[key] | self._edited[message["id"]]:
            yield Anomaly("inconsistent-offsets", where)


# What the server tells at the end.


@dataclass(frozen=True, slots=True)
class Count:
    """Recounted from rows: what is unread of a chat by a user, and how many members it has."""

    unread: int
    mentions: int
    members: int
    mark: int


def check_counts(
    lists: Mapping[int, Sequence[Mapping[str, Any]]], counts: Mapping[tuple[int, int], Count]
) -> list[Anomaly]:
    """The chat lists of all users show what a recount of the rows gives.

    Args:
        lists: user -> the items of `GET /chats/`.
        counts: (user, chat) -> recount, for every chat that the user is in.
    """
    found: list[Anomaly] = []
    for user_id, items in lists.items():
        listed = {item["id"] for item in items}
        mine = {chat_id for member, chat_id in counts if member == user_id}
        if listed != mine:
            found.append(
                Anomaly(
                    "miscount", f"user {user_id} is in {sorted(mine)}, listed are {sorted(listed)}"
                )
            )
        for item in items:
            count = counts.get((user_id, item["id"]))
            if count is not None:
                found += _compare_counts(user_id, item, count)
    return found


def _compare_counts(user_id: int, item: Mapping[str, Any], count: Count) -> Iterator[Anomaly]:
    expected = {
        "unread_count": min(count.unread, UNREAD_CAP),
        "unread_mentions_count": min(count.mentions, UNREAD_CAP),
        "members_count": count.members,
    }
    for name, value in expected.items():
        if item[name] != value:
            detail = f"{name} of chat:{item['id']} for user {user_id} is {item[name]}, not {value}"
            yield Anomaly("miscount", detail)
    if item["my"]["last_read_message_id"] != count.mark:
        yield Anomaly("miscount", f"the read mark of {user_id} in chat:{item['id']}: {count.mark}")


def check_marks(calls: Sequence[Call], counts: Mapping[tuple[int, int], Count]) -> list[Anomaly]:
    """An acknowledged read mark is never behind again."""
    highest: dict[tuple[int, int], int] = {}
    for call in calls:
        if call.action == "read" and call.outcome is Outcome.OK:
            key = (call.user_id, call.about["chat_id"])
            highest[key] = max(highest.get(key, 0), call.about["message_id"])
    return [
        Anomaly(
            "lost-write", f"user {key[0]} had read chat:{key[1]} to {mark}, now {counts[key].mark}"
        )
        for key, mark in highest.items()
        if key in counts and counts[key].mark < mark
    ]


def check_history(
    pages: Mapping[int, Sequence[int]], messages: Sequence[MessageRow]
) -> list[Anomaly]:
    """The newest messages over HTTP are the newest rows.

    Args:
        pages: chat -> ids of the newest page, newest first, as a member of long standing gets it.
        messages: stored rows, at least as many of each chat as its page holds.
    """
    found: list[Anomaly] = []
    for chat_id, ids in pages.items():
        stored = sorted(
            (it.id for it in messages if it.chat_id == chat_id and not it.is_deleted), reverse=True
        )
        shown = list(ids)[: len(stored)]
        if shown != stored[: len(shown)] or (stored and not shown):
            found.append(
                Anomaly("inconsistent-offsets", f"history of chat:{chat_id} differs from its rows")
            )
    return found


def check_answers(calls: Sequence[Call]) -> list[Anomaly]:
    """No 5xx but 503, and nothing refused that had to be accepted."""
    found: list[Anomaly] = []
    for call in calls:
        status = call.answer.get("status", 0)
        if status >= 500 and status != 503:
            found.append(
                Anomaly(
                    "server-error",
                    f"{call.device} {call.action} {dict(call.about)}: {dict(call.answer)}",
                )
            )
        elif call.outcome is Outcome.OK and call.about.get("forced"):
            found.append(Anomaly("accepted", f"{call.device} {call.action} had to be refused"))
        elif call.outcome is Outcome.FAIL and call.about.get("must_succeed"):
            found.append(
                Anomaly(
                    "refused",
                    f"{call.device} {call.action} {dict(call.about)}: {dict(call.answer)}",
                )
            )
    return found


def check_looks(calls: Sequence[Call]) -> list[Anomaly]:
    """What was pushed is committed: a look at it on another worker, at once, finds it."""
    return [
        Anomaly(
            "precommitted-read",
            f"{call.device} was sent message {call.about['message_id']} "
            f"and then told {dict(call.answer)}",
        )
        for call in calls
        if call.action == "look" and call.outcome is Outcome.FAIL
    ]


@dataclass(frozen=True, slots=True)
class Ending:
    """How long a revoked session went on: `what` is its socket or its token."""

    device: str
    what: str
    seconds: float
    allowed_seconds: float


def check_revocations(endings: Iterable[Ending]) -> list[Anomaly]:
    return [
        Anomaly(
            "late-revocation",
            f"the {it.what} of {it.device} lived {it.seconds:.2f} s, allowed {it.allowed_seconds} s",
        )
        for it in endings
        if it.seconds > it.allowed_seconds
    ]


@dataclass(frozen=True, slots=True)
class SlowReader:
    """A socket that read nothing while `bytes_sent` were meant for it; `close_code`: None if it lives on."""

    device: str
    bytes_sent: int
    close_code: int | None


def check_slow_readers(readers: Iterable[SlowReader]) -> list[Anomaly]:
    """Whoever does not read is cut off: what waits for them is bounded."""
    return [
        Anomaly("unbounded-queue", f"{it.device} was kept {it.bytes_sent} bytes")
        for it in readers
        if it.close_code is None
    ]


def check_healing(seconds_to_whole: Mapping[str, float | None], *, bar: float) -> list[Anomaly]:
    """After everything was mended each device is whole in time; None: it never was."""
    return [
        Anomaly("not-whole", f"{device} was not whole after {seconds or bar:.1f} s")
        for device, seconds in seconds_to_whole.items()
        if seconds is None or seconds > bar
    ]


def check_server_logs(lines: Iterable[str]) -> list[Anomaly]:
    """Lines that tell of an unexpected error."""
    return [Anomaly("logged-error", line[:600]) for line in lines]


def check_transactions(idle: Iterable[str]) -> list[Anomaly]:
    """Nobody holds a transaction open when all is quiet."""
    return [Anomaly("idle-in-transaction", query[:200]) for query in idle]


# Memberships, from the users' own scopes: what clients are told is what they are held to.


def read_spans(rows: Iterable[LogRow]) -> dict[tuple[int, int], list[Span]]:
    """The memberships by (user, chat), from every `chat_created` and `chat_removed` in order."""
    spans: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for row in sorted(rows, key=lambda it: (it.scope, it.seq)):
        if row.type not in {"chat_created", "chat_removed"}:
            continue
        user_id = int(row.scope.removeprefix("user:"))
        mine = spans[user_id, row.data["chat_id"]]
        is_open = bool(mine) and mine[-1].upto is None
        if row.type == "chat_created" and not is_open:
            mine.append(Span(row.data["seq"]))
        elif row.type == "chat_removed" and is_open and row.data["reason"] != "deleted":
            mine[-1] = Span(mine[-1].after, row.data["seq"])
    return dict(spans)


def list_scopes(user_id: int, spans: Spans) -> list[str]:
    """The scopes that a user's devices follow, by their names on the wire."""
    chats = [
        f"chat:{chat_id}"
        for (member, chat_id), mine in spans.items()
        if member == user_id and mine and mine[-1].upto is None
    ]
    return ["user", *chats]


def _message_of(update: Update) -> Mapping[str, Any]:
    return update.data.get("message") or update.data


def _chat_id(scope: str) -> int:
    return int(scope.removeprefix("chat:")) if scope != "user" else 0


def _show(spans: Sequence[Span]) -> str:
    return ", ".join(f"{it.after}..{it.upto or ''}" for it in spans) or "nothing"


def _short(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown
