"""A worker: the real fan-out, following and catch-up, with simulated reads, bus and sockets around them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson

from app.features.gateway.batch import Batch
from app.features.gateway.catchup import CatchUp
from app.features.gateway.course import AwaitRoom, Course, Read, go_on
from app.features.gateway.fanout import Fanout
from app.features.gateway.following import Follower
from app.features.gateway.readers import SAFETY_SECONDS
from app.features.gateway.replay import Replayer
from app.features.gateway.turns import Turns
from app.kernel.ids import ChatId, SessionId, UserId
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import Hub
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import EXTENSION
from tests.unit.simulation.database import Database
from tests.unit.simulation.schedule import Schedule
from tests.unit.simulation.weather import Weather

_AT_ONCE = 2
_RETRY_SECONDS = 0.5
_EPOCH_SECONDS = 5.0
_STALLED_SECONDS = 30.0


class Reader(Protocol):
    """The far end of a line."""

    def take(self, line: "SimulatedLine", payload: bytes) -> None: ...

    def hang_up(self, line: "SimulatedLine", code: int | None) -> None: ...


class SimulatedLine:
    """One TCP connection with a reader that takes its time: a `Line`, and what can happen to it.

    `on_room` is called whenever the reader has taken something.
    """

    has_given_up = False

    def __init__(self, schedule: Schedule, weather: Weather, reader: Reader) -> None:
        self.schedule = schedule
        self.weather = weather
        self.reader = reader
        self.is_stalled = False
        self.is_cut = False
        self.on_room: Callable[[], None] = _do_nothing
        self.on_closed: Callable[[], None] = _do_nothing
        self._queue: deque[bytes | int] = deque()
        self._waiting = 0
        self._is_closed = False
        self._is_taking = False

    def write(self, frame: OutFrame) -> None:
        if not self._is_closed:
            self._put(frame.payload, len(frame))

    def waiting_bytes(self) -> int:
        return self._waiting

    def close(self, code: int, reason: str) -> None:
        if not self._is_closed:
            self._put(int(code), 0)
            self._is_closed = True
            self.schedule.within(0.01, self.on_closed)

    def cut(self) -> None:
        """What is under way is lost, and neither end knows yet."""
        self.is_cut = True
        self._queue.clear()

    def resume_taking(self) -> None:
        self.is_stalled = False
        self._begin_to_take()

    def _put(self, item: bytes | int, size: int) -> None:
        if not self.is_cut:
            self._queue.append(item)
        self._waiting += size
        self._begin_to_take()

    def _begin_to_take(self) -> None:
        if self._queue and not self._is_taking and not self.is_stalled:
            self._is_taking = True
            self.schedule.within(self.weather.lag, self._take)

    def _take(self) -> None:
        """Some of what has arrived."""
        self._is_taking = False
        if self.is_stalled:
            return
        for _ in range(self.schedule.rng.choice((1, 3, 50))):
            if not self._queue or self.is_cut:
                break
            item = self._queue.popleft()
            if isinstance(item, int):
                self.reader.hang_up(self, item)
                break
            self._waiting -= len(item)
            self.reader.take(self, item)
        self.on_room()
        self._begin_to_take()


class Bus:
    """One worker's end of the wire between all workers."""

    reaches_others = True

    def __init__(self, carry: Callable[[bytes], None]) -> None:
        self._carry = carry

    def publish(self, topic: str, payload: bytes) -> None:
        self._carry(payload)

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        raise NotImplementedError

    def on_reconnect(self, handler: Callable[[], None]) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError


class Clock:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=int(self._schedule.now))


class Peer:
    """The server's end of a socket: frames of one socket are handled one after the other."""

    def __init__(self, worker: "Worker", connection: Connection, line: SimulatedLine) -> None:
        self.worker = worker
        self.connection = connection
        self.line = line
        self.inbox: deque[dict[str, Any]] = deque()
        self.is_busy = True
        # Courses that wait for the reader.
        self.waits_for_room: list[Callable[[], None]] = []
        line.on_room = self.look_for_room
        line.on_closed = lambda: worker.alive(lambda: worker.remove(self))

    def look_for_room(self) -> None:
        if self.waits_for_room and self.has_ended_waiting():
            waiting, self.waits_for_room = self.waits_for_room, []
            for go in waiting:
                self.worker.soon(go)

    def has_ended_waiting(self) -> bool:
        return self.connection.has_room() or self.connection.close_code is not None

    def take(self, frame: dict[str, Any]) -> None:
        """A frame of the client arrives."""
        if self.connection.close_code is not None:
            return
        catchup = self.worker.catchup
        if frame["type"] == "resume":
            catchup.keep(self.connection, frame["data"]["state"])
        else:
            catchup.release(self.connection)
        self.inbox.append(frame)
        self.work()

    def work(self) -> None:
        if self.is_busy or not self.inbox or self.connection.close_code is not None:
            return
        frame = self.inbox.popleft()
        if frame["type"] != "resume":
            self.work()
            return
        self.is_busy = True
        course = self.worker.catchup.resume(
            self.connection,
            epoch=frame["data"]["epoch"],
            state=frame["data"]["state"],
            request_id=None,
        )
        self.worker.lead(self, course, self.rest)

    def rest(self) -> None:
        self.is_busy = False
        self.work()


@dataclass(frozen=True, eq=False)
class Asked:
    """What a course needs, and where it goes on."""

    peer: Peer
    need: Read
    give: Callable[[object], None]

    def has_closed(self) -> bool:
        if self.peer.connection.close_code is None:
            return False
        self.give(None)
        return True


class Worker:
    """Dies with all that it knows; whatever was under way for it comes to nothing then."""

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        weather: Weather,
        database: Database,
        carry: Callable[[bytes], None],
    ) -> None:
        self.name = name
        self.schedule = schedule
        self.weather = weather
        self.database = database
        self.generation = 0
        self.is_alive = True
        self.peers: dict[Connection, Peer] = {}
        self.turns: Turns[Asked] = Turns(_AT_ONCE)
        self.fanout = Fanout(Bus(carry), self.later)
        self.replayer = Replayer(self.fanout, self.begin)
        self.follower = Follower(self.fanout, self.replayer)
        self.fanout.on_handed_out = self.follower.apply
        self.fanout.on_gaps = self.on_gaps
        self.replayer.on_replayed = self.follower.note_replayed
        self.replayer.on_released = self.follower.apply_held
        self.follower.on_wanted = self.on_wanted
        self.catchup = CatchUp(
            self.fanout,
            self.replayer,
            epoch=database.log.epoch,
            clock=Clock(schedule),
            heartbeat_seconds=25,
            later=self.later,
        )
        self._is_filling = False
        self._is_following = False
        self._checks = 0
        self.check()
        self.watch_epoch()

    @property
    def hub(self) -> Hub:
        return self.fanout.hub

    def alive(self, action: Callable[[], None]) -> None:
        if self.is_alive:
            action()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.schedule.after(seconds, lambda: self.alive(action))

    def soon(self, action: Callable[[], None]) -> None:
        self.schedule.within(0.001, lambda: self.alive(action))

    def read(self, reading: Any, done: Callable[[Any], None], failed: Callable[[], None]) -> None:
        self.database.read(
            reading,
            lambda answer: self.alive(lambda: done(answer)),
            lambda: self.alive(failed),
            is_wanted=lambda: self.is_alive,
        )

    # Sockets.

    def open(
        self, line: SimulatedLine, user_id: UserId, session_id: SessionId, chat_id: ChatId | None
    ) -> Peer:
        connection = Connection(
            {"extensions": {EXTENSION: line}},
            _no_asgi,
            _no_asgi,
            user_id=user_id,
            session_id=session_id,
            chat_id=chat_id,
            queue_bytes=self.weather.queue_bytes,
            expires_at=0,
        )
        peer = self.peers[connection] = Peer(self, connection, line)
        self.hub.add(connection)
        self.lead(peer, self.catchup.greet(connection), peer.rest)
        return peer

    def remove(self, peer: Peer) -> None:
        """Its end was noticed."""
        if self.peers.pop(peer.connection, None) is None:
            return
        peer.connection.mark_lost()
        self.turns.leave(peer.connection)
        self.catchup.forget(peer.connection)
        self.fanout.forget(peer.connection)
        peer.look_for_room()

    # Courses: the work of `CourseLeader`.

    def begin(self, connection: Connection, course: Course) -> None:
        self.lead(self.peers[connection], course, _do_nothing)

    def lead(self, peer: Peer, course: Course, on_end: Callable[[], None]) -> None:
        self.soon(lambda: self.go_on(peer, course, None, on_end))

    def go_on(self, peer: Peer, course: Course, answer: object, on_end: Callable[[], None]) -> None:
        need = None if peer.connection.close_code is not None else go_on(course, answer)
        if need is None:
            course.close()
            on_end()
        elif isinstance(need, AwaitRoom):
            self.await_room(peer, lambda: self.go_on(peer, course, None, on_end))
        else:
            asked = Asked(peer, need, lambda it: self.go_on(peer, course, it, on_end))
            self.turns.ask(
                peer.connection, asked, lambda: self.meet(asked), lambda: asked.give(None)
            )

    def await_room(self, peer: Peer, go: Callable[[], None]) -> None:
        if peer.has_ended_waiting():
            self.soon(go)
            return
        peer.waits_for_room.append(go)

        def lose_patience() -> None:
            if go in peer.waits_for_room:
                peer.connection.close(CloseCode.TOO_SLOW)
                peer.look_for_room()

        self.later(_STALLED_SECONDS, lose_patience)

    def meet(self, first: Asked) -> None:
        """It is its turn, and that of those who can be taken along."""
        if first.has_closed():
            self.turns.end()
            return
        batch = Batch(first.need)
        others = self.turns.take_along(lambda it: it.has_closed() or batch.accepts(it.need))
        asked = [first, *(it for it in others if it.peer.connection.close_code is None)]

        def done(read: tuple[list[object], str]) -> None:
            answers, epoch = read
            self.turns.end()
            if epoch != self.catchup.epoch:
                self.soon(self.look_at_epoch)
            for it, answer in zip(asked, answers, strict=True):
                if epoch != self.catchup.epoch:
                    it.peer.connection.close(CloseCode.SERVICE_RESTART)
                it.give(answer)

        def failed() -> None:
            self.turns.end()
            for it in asked:
                it.peer.connection.close(CloseCode.SERVICE_RESTART)
                it.give(None)

        self.read(self.database.meet_with_epoch(batch), done, failed)

    # What is read for all: the work of `LogReader`.

    def on_gaps(self) -> None:
        if not self._is_filling:
            self._is_filling = True
            self.soon(self.fill)

    def fill(self) -> None:
        gaps = self.fanout.find_gaps()
        if gaps is None:
            self._is_filling = False
            return

        def done(answer: Any) -> None:
            self.fanout.fill(gaps, answer)
            self.fill()

        def failed() -> None:
            self.fanout.skip(gaps.ranges)
            self.later(_RETRY_SECONDS, self.fill)

        self.read(self.database.read_gaps(gaps, self.fanout.find_suspects), done, failed)

    def on_wanted(self) -> None:
        if not self._is_following:
            self._is_following = True
            self.soon(self.follow)

    def follow(self) -> None:
        wanted = self.follower.take_wanted()
        if not wanted:
            self._is_following = False
            return

        def done(found: Any) -> None:
            self.follower.follow(wanted, found)
            self.follow()

        def failed() -> None:
            self.follower.put_back(wanted)
            self.later(_RETRY_SECONDS, self.follow)

        pairs = [(connection.user_id, chat_id) for connection, chat_id in wanted]
        self.read(self.database.read_followings(pairs), done, failed)

    def check(self) -> None:
        """Now, and from then on every few seconds."""
        self._checks += 1
        number = self._checks

        def again() -> None:
            if self._checks == number:
                self.check()

        def done(heads: Any) -> None:
            self.fanout.stand(heads)
            self.later(SAFETY_SECONDS, again)

        scopes = list(self.fanout.watched)
        self.read(self.database.read_heads(scopes), done, lambda: self.later(SAFETY_SECONDS, again))

    def watch_epoch(self) -> None:
        def look() -> None:
            self.look_at_epoch()
            self.watch_epoch()

        self.later(_EPOCH_SECONDS, look)

    def look_at_epoch(self) -> None:
        if not self.database.is_away and self.catchup.epoch != self.database.log.epoch:
            self.catchup.epoch = self.database.log.epoch
            for connection in self.hub.connections():
                connection.close(CloseCode.SERVICE_RESTART)
                self.fanout.forget(connection)

    # What arrives.

    def hear(self, payload: bytes) -> None:
        """From the bus."""
        self.alive(lambda: self.fanout.on_bus(payload))

    def unfinished(self) -> str | None:
        """What it still does or keeps though nothing happens, or follows and should not, or should and does not."""
        kept: dict[str, object] = {
            "followed otherwise": [
                (connection.user_id, connection.scopes)
                for connection in self.hub.connections()
                if connection.chat_id is None
                and connection.scopes
                and set(connection.scopes) != set(self.database.log.scopes_of(connection.user_id))
            ],
            "held back": self.hub._holds,
            "being greeted": self.catchup._graces,
            "waiting for a turn": self.turns.waiting,
            "gaps": self.fanout._gaps,
            "unpublished": self.fanout._unpublished,
            "wanted": self.follower._wanted,
            "watched by nobody": self.fanout.watched - self.hub.watched(),
            "masked for nobody": [
                scope
                for scope, masked in self.fanout._newcomers.items()
                if masked.keys() - self.hub.followers(scope).keys()
            ],
        }
        return next((f"{what}: {left}" for what, left in kept.items() if left), None)

    def crash(self) -> None:
        self.is_alive = False
        for peer in self.peers.values():
            peer.line.cut()


def parse(payload: bytes) -> dict[str, Any]:
    return orjson.loads(payload)


async def _no_asgi(message: Any = None) -> Any:
    raise NotImplementedError


def _do_nothing() -> None:
    """Until somebody listens."""
