"""What a socket goes through until it is live, told step by step: every answer is given at a moment of choice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.features.gateway.catchup import CatchUp
from app.features.gateway.course import (
    AwaitRoom,
    Course,
    Need,
    ReadFollowings,
    ReadPages,
    ReadStanding,
    go_on,
)
from app.features.gateway.fanout import Fanout
from app.features.gateway.following import Follower
from app.features.gateway.logbook import Pages
from app.features.gateway.queries import Following, Standing
from app.features.gateway.replay import Replayer
from app.features.updates.frames import render_update
from app.infra.bus.memory import MemoryBus
from app.kernel.announcements import Announcement
from app.kernel.clock import SystemClock
from app.kernel.ids import ChatId, MessageId, SessionId, UserId
from app.kernel.scopes import Scope, chat_scope, user_scope
from app.transport.websocket.connection import Connection
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import EXTENSION

ME, CHAT = UserId(7), ChatId(1)
OWN, SCOPE = user_scope(ME), chat_scope(CHAT)


class Line:
    """Takes everything."""

    has_given_up = False

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.code: int | None = None
        self.is_full = False

    def write(self, frame: OutFrame) -> None:
        self.frames.append(orjson.loads(frame.payload))

    def waiting_bytes(self) -> int:
        return 90_000 if self.is_full else 0

    def close(self, code: int, reason: str) -> None:
        self.code = code


async def no_asgi(message: Any = None) -> Any:
    raise NotImplementedError


@dataclass
class Worker:
    """The parts of one worker that decide, one socket, and a log that the test writes."""

    line: Line = field(default_factory=Line)
    timers: list[Callable[[], None]] = field(default_factory=list)
    begun: list[Course] = field(default_factory=list)
    log: dict[Scope, list[Announcement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fanout = Fanout(MemoryBus(), lambda _seconds, action: self.timers.append(action))
        self.replayer = Replayer(self.fanout, lambda _connection, course: self.begun.append(course))
        self.follower = Follower(self.fanout, self.replayer)
        self.fanout.on_handed_out = self.follower.apply
        self.replayer.on_replayed = self.follower.note_replayed
        self.replayer.on_released = self.follower.apply_held
        self.catchup = CatchUp(
            self.fanout,
            self.replayer,
            epoch="one",
            clock=SystemClock(),
            heartbeat_seconds=25,
            later=lambda _seconds, action: self.timers.append(action),
        )
        self.connection = Connection(
            {"extensions": {EXTENSION: self.line}},
            no_asgi,
            no_asgi,
            user_id=ME,
            session_id=SessionId(1),
            chat_id=None,
            queue_bytes=100_000,
            expires_at=0,
        )
        self.fanout.hub.add(self.connection)
        self.log = {OWN: [], SCOPE: []}

    def commit(self, scope: Scope, update_type: str, is_heard: bool = True, **data: object) -> int:
        seq = len(self.log[scope]) + 1
        frame = render_update(update_type, scope, seq, data)
        self.log[scope].append(Announcement(scope, seq, frame))
        if is_heard:
            self.fanout.on_commit([self.log[scope][-1]])
        return seq

    def say(self, is_heard: bool = True) -> int:
        return self.commit(
            SCOPE, "new_message", is_heard, id=len(self.log[SCOPE]) + 1, chat_id=CHAT
        )

    def following(self, joined_seq: int = 0, first_visible_id: int = 0) -> Following:
        return Following(CHAT, len(self.log[SCOPE]), joined_seq, MessageId(first_visible_id))

    def standing(self, *followings: Following) -> Standing:
        return Standing(len(self.log[OWN]), {it.chat_id: it for it in followings})

    def page(self, need: Need | None, *followings: Following) -> Any:
        """The answer to a need for pages, of what the log holds now."""
        assert isinstance(need, ReadPages)
        updates = {
            scope: self.log[scope][after : min(upto, after + need.limit)]
            for scope, (after, upto) in need.ranges.items()
        }
        return Pages(updates, is_cut=False), {(ME, it.chat_id): it for it in followings}

    def greet(self, following: Following | None = None) -> None:
        """Through `hello`, with nothing happening meanwhile."""
        course = self.catchup.greet(self.connection)
        standing = self.standing(following or self.following())
        assert isinstance(go_on(course), ReadStanding)
        assert isinstance(go_on(course, standing), ReadStanding)
        assert go_on(course, standing) is None

    def resume(self, **state: int) -> Course:
        named = {wire.replace("_", ":"): seq for wire, seq in state.items()}
        self.catchup.keep(self.connection, named)
        return self.catchup.resume(self.connection, epoch="one", state=named, request_id=None)

    def end_grace(self) -> None:
        self.timers.pop()()

    def lead(self, course: Course, *followings: Following) -> None:
        """To its end, answering from the log as it is."""
        need = go_on(course)
        while need is not None:
            answer: Any = None
            if isinstance(need, ReadFollowings):
                answer = {(ME, it.chat_id): it for it in followings}
            elif not isinstance(need, AwaitRoom):
                answer = self.page(need, *followings)
            need = go_on(course, answer)

    def told(self, scope: Scope = SCOPE) -> list[object]:
        """The numbers of a scope as they were sent, with its resets."""
        frames: list[object] = []
        for frame in self.line.frames:
            if frame["type"] == "scope_reset" and frame["data"]["scope"] == scope.wire:
                frames.append(("reset", frame["data"]["seq"]))
            elif frame.get("scope") == scope.wire:
                frames.append(frame["seq"])
        return frames

    @property
    def hello(self) -> dict[str, int]:
        return self.line.frames[0]["data"]["state"]


def test_what_comes_while_the_chats_are_read_is_sent_behind_hello() -> None:
    worker = Worker()
    worker.say()
    course = worker.catchup.greet(worker.connection)
    go_on(course)
    go_on(course, worker.standing(worker.following()))
    standing = worker.standing(worker.following())
    worker.say()
    assert go_on(course, standing) is None
    assert worker.hello == {"user": 0, "chat:1": 1}
    assert worker.told() == []
    worker.say()
    worker.end_grace()
    assert worker.told() == [2, 3]


def test_a_chat_that_is_joined_while_the_chats_are_read_is_in_hello() -> None:
    worker = Worker()
    course = worker.catchup.greet(worker.connection)
    go_on(course)
    # Between the reading and the following one might be left or joined: they are read again.
    assert isinstance(go_on(course, worker.standing(worker.following())), ReadStanding)
    assert go_on(course, worker.standing(worker.following())) is None
    assert worker.hello == {"user": 0, "chat:1": 0}


def test_a_resume_is_replayed_before_what_was_held_and_says_how_far() -> None:
    worker = Worker()
    for _ in range(4):
        worker.say()
    worker.greet()
    course = worker.resume(chat_1=1)
    worker.say()
    assert isinstance(go_on(course), ReadFollowings)
    need = go_on(course, {(ME, CHAT): worker.following()})
    worker.say()
    assert isinstance(go_on(course, worker.page(need, worker.following())), AwaitRoom)
    assert worker.told() == [2, 3, 4]
    assert go_on(course) is None
    assert worker.told() == [2, 3, 4, 5, 6]
    assert worker.line.frames[-1] == {"type": "resumed", "data": {"state": {"chat:1": 4}}}


def test_held_updates_that_are_too_many_are_read_from_the_log() -> None:
    worker = Worker()
    worker.greet()
    course = worker.resume(chat_1=0)
    for _ in range(400):
        worker.say()
    worker.lead(course, worker.following())
    assert worker.told() == list(range(1, 401))


def test_what_was_read_beyond_what_this_worker_handed_out_does_not_come_again() -> None:
    worker = Worker()
    worker.greet()
    for _ in range(300):
        worker.say()
    # Committed by others; this worker hears of it later.
    late = [worker.say(is_heard=False) for _ in range(3)]
    worker.end_grace()
    worker.lead(worker.begun.pop(), worker.following())
    assert worker.told() == list(range(1, 304))
    worker.fanout.on_commit([worker.log[SCOPE][seq - 1] for seq in late])
    worker.say()
    assert worker.told() == list(range(1, 305))


def test_a_resume_that_comes_during_a_replay_gets_what_it_names_and_nothing_twice() -> None:
    worker = Worker()
    for _ in range(3):
        worker.say()
    worker.greet()
    for _ in range(300):
        worker.say()
    worker.end_grace()
    running = worker.begun.pop()
    need = go_on(running)
    page = worker.page(need, worker.following())
    go_on(running, page)
    assert worker.told() == list(range(4, 304))
    course = worker.resume(chat_1=1)
    worker.lead(course, worker.following())
    assert go_on(running) is None
    worker.say()
    assert sorted(worker.told()) == list(range(2, 305))


def test_a_newcomer_sees_nothing_old_that_was_held_before_it_was_known() -> None:
    worker = Worker()
    worker.say()
    course = worker.catchup.greet(worker.connection)
    newcomer = worker.following(joined_seq=1, first_visible_id=2)
    go_on(course)
    go_on(course, worker.standing(newcomer))
    standing = worker.standing(newcomer)
    worker.commit(SCOPE, "message_edited", id=1, chat_id=CHAT, text="secret")
    go_on(course, standing)
    worker.end_grace()
    assert worker.told() == [2]
    assert worker.line.frames[-1]["data"] == {"id": 1, "chat_id": CHAT, "is_deleted": True}


def test_a_membership_that_has_ended_when_it_is_read_is_told_and_followed_no_more() -> None:
    worker = Worker()
    worker.say()
    worker.greet()
    course = worker.resume(chat_1=0)
    go_on(course)
    need = go_on(course, {(ME, CHAT): worker.following()})
    worker.say()
    go_on(course, worker.page(need))
    assert worker.told() == [("reset", 0)]
    assert SCOPE not in worker.connection.scopes
    worker.say()
    assert worker.told() == [("reset", 0)]


def test_a_chat_that_was_left_and_joined_again_is_not_taken_for_the_one_before() -> None:
    worker = Worker()
    worker.say()
    worker.greet()
    course = worker.resume(user=0, chat_1=0)
    go_on(course)
    # While it is read who is in: out at 1, in again behind 1.
    worker.say()
    worker.commit(OWN, "chat_removed", chat_id=CHAT, seq=1, reason="left")
    worker.commit(OWN, "chat_created", id=CHAT, type="group", seq=2)
    again = worker.following(joined_seq=1)
    need = go_on(course, {(ME, CHAT): again})
    while need is not None:
        need = go_on(course, None if isinstance(need, AwaitRoom) else worker.page(need, again))
    worker.follower.follow(worker.follower.take_wanted(), {(ME, CHAT): again})
    for begun in worker.begun:
        worker.lead(begun, again)
    worker.say()
    assert worker.told(OWN) == [1, 2]
    # Once told of the end of the first, nothing of it; of the second what is behind the Chat.
    assert worker.told()[-1] == 3
    assert ("reset", 0) not in worker.told()[1:]
    assert SCOPE in worker.connection.scopes


def test_a_page_stops_where_the_client_has_no_room_and_is_not_kept() -> None:
    worker = Worker()
    for _ in range(10):
        worker.say()
    worker.greet()
    course = worker.resume(chat_1=0)
    go_on(course)
    need = go_on(course, {(ME, CHAT): worker.following()})
    worker.line.is_full = True
    assert isinstance(go_on(course, worker.page(need, worker.following())), AwaitRoom)
    assert worker.told() == []
    worker.line.is_full = False
    need = go_on(course)
    assert isinstance(need, ReadPages)
    assert need.limit < 500
    go_on(course, worker.page(need, worker.following()))
    assert worker.told() == list(range(1, 11))


def test_nothing_is_kept_of_a_beginning_that_is_over() -> None:
    worker = Worker()
    worker.say()
    worker.greet()
    course = worker.resume(chat_1=0)
    worker.end_grace()
    worker.lead(course, worker.following())
    assert worker.catchup._graces == {}
    assert worker.fanout.hub._holds == {}
