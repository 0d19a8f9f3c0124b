"""The core of the reference client against a model of the server, over everything that may happen in between.

A history is a list of steps: people write, come and go; the server replays in pages, releases what
it held back, is restored, prunes; frames are delivered late, doubled, swapped or lost; connections
break anywhere. Whatever the history, every scope is applied in the order of its log, each number
once, and a device that is left in peace ends up where the server is.
"""

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from messenger_client import (
    Action,
    Apply,
    Change,
    FetchDifference,
    Forgotten,
    Position,
    Reconnect,
    Reset,
    SendFrame,
    Sync,
    Update,
    Voided,
)

Frame = dict[str, Any]
CHATS = (1, 2, 3)
PAGE = 2
MANY = 2000


@dataclass
class Log:
    """Rows 1, 2, ... of a scope; those up to `pruned` are gone."""

    rows: list[tuple[str, Frame]] = field(default_factory=list)
    pruned: int = 0

    @property
    def head(self) -> int:
        return len(self.rows)


@dataclass
class Chat:
    """`joined`: the number before the membership; None: not a member. Who is gone, is for ever."""

    log: Log = field(default_factory=Log)
    joined: int | None = None
    is_gone: bool = False


@dataclass
class Hold:
    """Held back: the client was told `floor`, and has been sent everything up to `sent`."""

    floor: int
    sent: int


@dataclass
class Wire:
    """One connection. `is_torn`: the model lost a frame, which a real one cannot."""

    to_client: deque[Frame] = field(default_factory=deque)
    to_server: deque[Frame] = field(default_factory=deque)
    held: dict[str, Hold] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    jobs: deque[tuple[str, str, int]] = field(default_factory=deque)
    is_torn: bool = False


class World:
    """The server, one device, and the line between them."""

    def __init__(self) -> None:
        self.epoch = 1
        self.user = Log()
        self.chats = {chat: Chat() for chat in CHATS}
        self.wire: Wire | None = None
        self.applied = Position()
        self.sync = Sync(self.applied)
        self.question: FetchDifference | None = None
        self.answer: Frame | None = None

    # The server: its log.

    def log(self, scope: str) -> Log:
        return self.user if scope == "user" else self.chats[int(scope[5:])].log

    def heads(self) -> dict[str, int]:
        mine = {
            f"chat:{id_}": it.log.head for id_, it in self.chats.items() if it.joined is not None
        }
        return {"user": self.user.head, **mine}

    def commit(self, scope: str, type_: str, data: Frame) -> None:
        log = self.log(scope)
        log.rows.append((type_, data))
        if self.wire and scope in self.wire.live:
            self.emit(scope, log.head)

    def say(self, pick: int) -> None:
        chat = CHATS[pick % len(CHATS)]
        self.commit(f"chat:{chat}", "new_message", {"text": f"{pick}"})

    def note(self, pick: int) -> None:
        self.commit("user", "contacts_changed", {"pick": pick})

    def move(self, pick: int) -> None:
        """In, out, or the end of the chat; a channel tells of it in the user's scope alone."""
        id_ = CHATS[pick % len(CHATS)]
        chat, scope = self.chats[id_], f"chat:{id_}"
        tells = pick % 3 != 0
        if chat.is_gone:
            return
        if chat.joined is None:
            chat.joined = chat.log.head
            self.commit("user", "chat_created", {"id": id_})
            if tells:
                self.commit(scope, "members_changed", {"pick": pick})
        elif pick % 7 == 0:
            chat.joined, chat.is_gone = None, True
            self.commit(scope, "chat_deleted", {"chat_id": id_})
            if self.wire and scope not in self.wire.held:
                # Who is held back gets it behind the replay: nothing else tells of it.
                self.unfollow(scope)
        else:
            if tells:
                self.commit(scope, "members_changed", {"pick": pick})
            chat.joined = None
            self.unfollow(scope)
            data = {"chat_id": id_, "seq": chat.log.head, "reason": "removed"}
            self.commit("user", "chat_removed", data)

    def prune(self, pick: int) -> None:
        log = self.log(("user", *(f"chat:{id_}" for id_ in CHATS))[pick % 4])
        log.pruned = max(log.pruned, log.head - pick % 3)

    def restore(self, pick: int) -> None:
        """A backup comes back: numbers begin anew, connections end."""
        self.epoch += 1
        self.user = Log(self.user.rows[: pick % 5])
        for chat in self.chats.values():
            chat.log = Log(chat.log.rows[: pick % 5])
            if chat.joined is not None:
                chat.joined = 0
        self.disconnect(0)

    # The server: one connection.

    def connect(self, pick: int) -> None:
        self.disconnect(0)
        self.wire = Wire()
        self.perform(self.sync.connected())
        heads = self.heads()
        self.wire.held = {scope: Hold(seq, seq) for scope, seq in heads.items()}
        parts = list(heads.items())
        size = 1 + pick % len(parts)
        for start in range(0, len(parts), size):
            data = {"epoch": str(self.epoch), "state": dict(parts[start : start + size])}
            if start + size < len(parts):
                data["more"] = True
            self.wire.to_client.append({"type": "hello", "data": data})

    def emit(self, scope: str, seq: int, *, is_replay: bool = False) -> None:
        """Send an update, filled in as things are now; a chat that it names is followed from there."""
        assert self.wire is not None
        type_, data = self.log(scope).rows[seq - 1]
        if type_ == "chat_created":
            data = self.show_chat(data["id"])
        frame = {"type": type_, "scope": scope, "seq": seq, "data": data}
        self.wire.to_client.append(frame)
        if type_ == "chat_created" and "seq" in data and not is_replay:
            self.follow(f"chat:{data['id']}", data["seq"])

    def show_chat(self, id_: int) -> Frame:
        chat = self.chats[id_]
        return (
            {"id": id_, "is_removed": True}
            if chat.joined is None
            else {"id": id_, "seq": chat.log.head}
        )

    def follow(self, scope: str, after: int) -> None:
        assert self.wire is not None
        if scope not in self.wire.live and scope not in self.wire.held:
            self.wire.held[scope] = Hold(after, after)
            self.settle(scope)

    def unfollow(self, scope: str) -> None:
        if self.wire:
            self.wire.live.pop(scope, None)
            self.wire.held.pop(scope, None)

    def settle(self, scope: str) -> None:
        """Live from now on, behind what was held."""
        assert self.wire is not None
        hold = self.wire.held.pop(scope)
        self.wire.live[scope] = hold.floor
        for seq in range(hold.sent + 1, self.log(scope).head + 1):
            self.emit(scope, seq)
        if scope not in self.heads():
            self.unfollow(scope)

    def end_grace(self, _: int) -> None:
        named = {scope for _, scope, _ in self.wire.jobs} if self.wire else set()
        for scope in list(self.wire.held) if self.wire else ():
            if scope not in named:
                self.settle(scope)

    def serve(self, _: int) -> None:
        """One piece of work: a page of a replay, or the next frame of the client."""
        if self.wire and self.wire.jobs:
            self.replay()
        elif self.wire and self.wire.to_server:
            self.take_resume(self.wire.to_server.popleft())

    def take_resume(self, frame: Frame) -> None:
        assert self.wire is not None
        is_same = frame["data"]["epoch"] == str(self.epoch)
        for scope, after in sorted(frame["data"]["state"].items(), key=lambda it: it[0] != "user"):
            hold = self.wire.held.get(scope)
            if hold is None and scope in self.wire.live:
                hold = Hold(self.wire.live.pop(scope), self.log(scope).head)
                self.wire.held[scope] = hold
            if hold is None:
                self.reset(scope, 0)
                continue
            if not is_same or self.is_unservable(scope, after, hold.floor):
                self.reset(scope, hold.floor)
                after = hold.floor  # noqa: PLW2901 - nothing of it is replayed
            self.wire.jobs.append(("replay", scope, after))
        self.wire.jobs.append(("resumed", frame["request_id"], 0))

    def is_unservable(self, scope: str, after: int, head: int) -> bool:
        joined = 0 if scope == "user" else self.chats[int(scope[5:])].joined or 0
        return after > head or after < joined or (after < self.log(scope).pruned and after < head)

    def reset(self, scope: str, seq: int) -> None:
        assert self.wire is not None
        self.wire.to_client.append({"type": "scope_reset", "data": {"scope": scope, "seq": seq}})

    def replay(self) -> None:
        assert self.wire is not None
        kind, what, after = self.wire.jobs.popleft()
        if kind == "resumed":
            frame = {"type": "resumed", "request_id": what, "data": {"state": {}}}
            self.wire.to_client.append(frame)
            return
        hold = self.wire.held.get(what)
        if hold is None:
            return  # the membership ended meanwhile
        upto = min(hold.floor, after + PAGE)
        if self.is_unservable(what, after, hold.floor):
            self.reset(what, hold.floor)
            upto = hold.floor
        else:
            for seq in range(after + 1, upto + 1):
                self.emit(what, seq, is_replay=True)
        if upto < hold.floor:
            self.wire.jobs.appendleft(("replay", what, upto))
        else:
            self.settle(what)

    def compute_difference(self, _: int) -> None:
        if self.question is None or self.answer is not None:
            return
        answer: Frame = {"epoch": str(self.epoch), "updates": [], "resets": [], "state": {}}
        heads = self.heads()
        for scope, after in sorted(self.question.state.items(), key=lambda it: it[0] != "user"):
            if scope not in heads:
                answer["resets"].append({"scope": scope, "seq": 0})
            elif self.is_unservable(scope, after, heads[scope]):
                answer["resets"].append({"scope": scope, "seq": heads[scope]})
            else:
                room = max(0, PAGE - len(answer["updates"]))
                for seq in range(after + 1, min(heads[scope], after + room) + 1):
                    type_, data = self.log(scope).rows[seq - 1]
                    shown = self.show_chat(data["id"]) if type_ == "chat_created" else data
                    update = {"type": type_, "scope": scope, "seq": seq, "data": shown}
                    answer["updates"].append(update)
        unknown = [
            {"scope": it, "seq": seq} for it, seq in heads.items() if it not in self.question.state
        ]
        answer["resets"] += unknown
        self.answer = answer

    # The line.

    def deliver(self, _: int) -> None:
        if self.wire and self.wire.to_client:
            self.perform(self.sync.receive(self.wire.to_client.popleft()))

    def deliver_difference(self, _: int) -> None:
        if self.answer is not None:
            answer, self.answer, self.question = self.answer, None, None
            self.perform(self.sync.difference(answer))

    def fail_difference(self, _: int) -> None:
        if self.question is not None:
            self.answer = self.question = None
            self.perform(self.sync.difference_failed())

    def disconnect(self, _: int) -> None:
        self.wire = self.question = self.answer = None
        self.sync.disconnected()
        assert self.sync.position == self.applied

    def crash(self, _: int) -> None:
        """The process dies: what counts is the store."""
        self.wire = self.question = self.answer = None
        self.sync = Sync(self.applied)

    def double(self, pick: int) -> None:
        """An update comes again, later."""
        updates = self.updates_on_their_way()
        if self.wire and updates:
            self.wire.to_client.append(copy.deepcopy(updates[pick % len(updates)]))

    def swap(self, pick: int) -> None:
        """Two updates that follow one another change places."""
        frames = self.wire.to_client if self.wire else deque()
        if len(frames) > 1:
            at = pick % (len(frames) - 1)
            if "seq" in frames[at] and "seq" in frames[at + 1]:
                frames[at], frames[at + 1] = frames[at + 1], frames[at]

    def lose(self, pick: int) -> None:
        updates = self.updates_on_their_way()
        if self.wire and updates:
            self.wire.to_client.remove(updates[pick % len(updates)])
            self.wire.is_torn = True

    def updates_on_their_way(self) -> list[Frame]:
        return [frame for frame in (self.wire.to_client if self.wire else ()) if "seq" in frame]

    # The device.

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Apply():
                    for change in action.changes:
                        self.judge(change)
                        self.applied.move([change])
                case SendFrame():
                    assert self.wire is not None
                    self.wire.to_server.append(action.frame)
                case FetchDifference():
                    assert self.question is None, "one difference at a time"
                    self.question, self.answer = action, None
                case Reconnect():
                    self.connect(0)
                    return
                case _:
                    raise AssertionError(action)
        assert self.sync.position == self.applied

    def judge(self, change: Change) -> None:
        match change:
            case Update(type=type_, scope=scope, seq=seq):
                assert seq == self.applied.cursors[scope] + 1, change
                if self.applied.epoch == str(self.epoch):
                    kind, data = self.log(scope).rows[seq - 1]
                    assert type_ == kind
                    assert type_ == "chat_created" or change.data == data
            case Forgotten(scope=scope):
                assert scope in self.applied.cursors
            case Voided(epoch=epoch):
                assert epoch != self.applied.epoch
            case Reset():
                return

    def settle_down(self) -> None:
        """Nothing goes wrong any more, and everything on its way arrives."""
        quiet = (self.deliver, self.serve, self.end_grace, self.compute_difference)
        for _ in range(MANY):
            if self.wire is None:
                self.connect(0)
            for step in (*quiet, self.deliver_difference):
                step(0)
            wire = self.wire
            is_busy = wire and (wire.to_client or wire.to_server or wire.jobs or wire.held)
            if not is_busy and self.question is None:
                return
        raise AssertionError("it does not come to rest")

    def expect_truth(self) -> None:
        assert self.sync.is_whole
        assert self.applied == Position(str(self.epoch), self.heads())


HONEST = {
    "say": 6,
    "note": 2,
    "move": 4,
    "connect": 2,
    "disconnect": 1,
    "crash": 1,
    "deliver": 12,
    "serve": 6,
    "end_grace": 2,
    "prune": 1,
    "restore": 1,
}
HOSTILE = HONEST | {
    "double": 3,
    "swap": 3,
    "lose": 3,
    "compute_difference": 3,
    "deliver_difference": 3,
    "fail_difference": 1,
}


def histories(steps: dict[str, int]) -> st.SearchStrategy[list[tuple[str, int]]]:
    names = [name for name, weight in steps.items() for _ in range(weight)]
    step = st.tuples(st.sampled_from(names), st.integers(0, 41))
    return st.lists(step, min_size=10, max_size=120)


def live_through(history: list[tuple[str, int]]) -> World:
    world = World()
    world.move(1)
    for name, pick in history:
        getattr(world, name)(pick)
    world.settle_down()
    return world


@given(histories(HONEST))
def test_over_a_line_that_only_breaks_a_device_needs_no_second_connection(
    history: list[tuple[str, int]],
) -> None:
    """The server makes it whole by hello, resume and what is live alone."""
    world = live_through(history)
    world.expect_truth()


@given(histories(HOSTILE))
def test_whatever_is_lost_doubled_or_swapped_a_device_ends_up_where_the_server_is(
    history: list[tuple[str, int]],
) -> None:
    world = live_through(history)
    if world.wire is not None and world.wire.is_torn:
        # What was lost behind everything else shows with the next connection.
        world.connect(0)
        world.settle_down()
    world.expect_truth()
