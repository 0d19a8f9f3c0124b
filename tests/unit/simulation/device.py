"""Devices: the real client core over simulated lines and HTTP, with a store that survives them."""

from collections.abc import Callable
from typing import Any, Protocol

import orjson
from messenger_client import Position
from messenger_client.sync import (
    Apply,
    FetchDifference,
    Reconnect,
    SendFrame,
    Signal,
    Sync,
)

from app.features.gateway.batch import Batch
from app.features.gateway.course import go_on
from app.features.gateway.difference import Found, collect
from app.kernel.ids import ChatId, SessionId, UserId
from tests.unit.simulation.database import Database, Reading
from tests.unit.simulation.judge import Applied, Judge, Wrong
from tests.unit.simulation.schedule import Schedule
from tests.unit.simulation.weather import Weather
from tests.unit.simulation.worker import Peer, SimulatedLine, Worker

_REQUEST_SECONDS = 5.0
_ROWS_A_DIFFERENCE = (1, 5, 500)


class Surroundings(Protocol):
    """What a device knows of the world."""

    schedule: Schedule
    weather: Weather
    database: Database
    judge: Judge

    def some_worker(self) -> Worker | None:
        """One that answers."""
        ...


class Endpoint:
    """The far end of sockets that are opened again and again."""

    def __init__(self, world: Surroundings, name: str, user_id: UserId) -> None:
        self.world = world
        self.schedule = world.schedule
        self.name = name
        self.user_id = user_id
        self.chat_id: ChatId | None = None
        self.line: SimulatedLine | None = None
        # What came over this line.
        self._taken: set[tuple[str, int]] = set()
        self._peer: Peer | None = None
        self._is_dialling = False

    def dial(self) -> None:
        """Open a socket in a moment, unless there is one."""
        if self.line is None and not self._is_dialling:
            self._is_dialling = True
            self.schedule.within(self.world.weather.lag, self._dial)

    def _dial(self) -> None:
        self._is_dialling = False
        worker = self.world.some_worker()
        if worker is None:
            self.dial()
            return
        self.schedule.note("dial", self.name, worker.name)
        self._taken.clear()
        line = self.line = SimulatedLine(self.schedule, self.world.weather, self)
        self._peer = worker.open(line, self.user_id, SessionId(1), self.chat_id)
        self.opened()

    def send(self, frame: dict[str, Any]) -> None:
        """A frame to the server; lost if the line breaks meanwhile."""
        line, peer = self.line, self._peer
        if line is None or peer is None:
            return

        def arrive() -> None:
            if not line.is_cut:
                peer.worker.alive(lambda: peer.take(frame))

        self.schedule.within(self.world.weather.lag, arrive)

    def cut(self) -> None:
        """The line breaks. This end and the other notice when it suits them."""
        line, peer = self.line, self._peer
        if line is None or peer is None:
            return
        self.schedule.note("cut", self.name)
        line.cut()
        self.schedule.within(5, lambda: self.hang_up(line, None))
        self.schedule.within(5, lambda: peer.worker.alive(lambda: peer.worker.remove(peer)))

    def take(self, line: SimulatedLine, payload: bytes) -> None:
        """A frame of the server."""
        if line is self.line:
            frame = orjson.loads(payload)
            if "seq" in frame:
                self.world.judge.see(self.user_id, frame)
                self._count(frame)
            self.schedule.note("take", self.name, payload)
            self.receive(frame)

    def _count(self, frame: dict[str, Any]) -> None:
        """Nothing comes twice over one socket."""
        place = frame["scope"], frame["seq"]
        if place in self._taken and not self.world.judge.was_in_twice(self.user_id, frame["scope"]):
            raise Wrong(f"{self.name} was sent {frame} twice")
        self._taken.add(place)

    def hang_up(self, line: SimulatedLine, code: int | None) -> None:
        """The line has ended, and this end knows."""
        if line is self.line:
            self.schedule.note("hang up", self.name, code)
            self.line = None
            self.closed(code)

    def drop(self) -> None:
        """Close the line from this end."""
        line, peer = self.line, self._peer
        if line is not None and peer is not None:
            line.cut()
            self.line = None
            self.schedule.within(
                self.world.weather.lag, lambda: peer.worker.alive(lambda: peer.worker.remove(peer))
            )
            self.closed(None)

    # What the kinds of devices do.

    def opened(self) -> None:
        raise NotImplementedError

    def receive(self, frame: dict[str, Any]) -> None:
        raise NotImplementedError

    def closed(self, code: int | None) -> None:
        raise NotImplementedError


class Device(Endpoint):
    """Everything of its user, applied to a store by the client core."""

    def __init__(self, world: Surroundings, name: str, user_id: UserId) -> None:
        super().__init__(world, name, user_id)
        self.stored = Position()
        self.applied = Applied(user_id)
        self.sync = Sync(self.stored.copy())

    def opened(self) -> None:
        self._act(self.sync.connected())

    def receive(self, frame: dict[str, Any]) -> None:
        self._act(self.sync.receive(frame))

    def closed(self, code: int | None) -> None:
        self.sync.disconnected()
        self.dial()

    def restart(self) -> None:
        """The process ends; what it had not stored is gone."""
        self.schedule.note("restart", self.name)
        self.drop()
        self.sync = Sync(self.stored.copy())
        self.dial()

    def _act(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case Apply():
                    if self.schedule.chance(self.world.weather.failed_apply):
                        self.restart()
                        return
                    self._apply(action)
                case SendFrame(frame):
                    self._say(frame)
                case FetchDifference(epoch, state):
                    self._fetch(self.sync, epoch, dict(state))
                case Reconnect():
                    self.drop()
                case Signal():
                    pass
                case _:
                    raise Wrong(f"unknown action {action}")

    def _say(self, frame: dict[str, Any]) -> None:
        self.schedule.note("say", self.name, frame)
        if frame["type"] == "resume":
            self.applied.asked = dict(frame["data"]["state"])
        self.send(frame)

    def _apply(self, action: Apply) -> None:
        for change in action.changes:
            self.schedule.note("apply", self.name, change)
            self.world.judge.apply(self.applied, change)
        self.stored.move(action.changes)
        if self.stored.cursors != self.applied.cursors:
            raise Wrong(f"{self.name} stored {self.stored}, but applied {self.applied}")

    def _fetch(self, sync: Sync, epoch: str, state: dict[str, int]) -> None:
        """POST /updates/difference of some worker. Only the core that asked takes the answer."""
        self.schedule.note("fetch", self.name, epoch, state)
        found = Found(epoch="")
        is_over = False

        def once(act: Callable[[], list[Any]]) -> None:
            nonlocal is_over
            if not is_over and sync is self.sync:
                is_over = True
                self._act(act())

        def done(_: object) -> None:
            self.schedule.note("fetched", self.name, found)
            updates = [orjson.loads(frame) for frame in found.updates]
            for update in updates:
                self.world.judge.see(self.user_id, update)
            answer = {
                "epoch": found.epoch,
                "updates": updates,
                "resets": [{"scope": scope, "seq": seq} for scope, seq in found.resets.items()],
                "state": found.state,
                "has_more": found.has_more,
            }
            once(lambda: sync.difference(answer))

        def failed() -> None:
            once(sync.difference_failed)

        limit = self.schedule.rng.choice(_ROWS_A_DIFFERENCE)
        reading = _find_difference(self.world.database, found, self.user_id, epoch, state, limit)
        worker = self.world.some_worker()
        if worker is not None:
            worker.read(reading, done, failed)
        self.schedule.after(_REQUEST_SECONDS, failed)


class Listener(Endpoint):
    """A socket of one chat alone: no store, nothing to resume; from `hello` on it hears everything."""

    def __init__(self, world: Surroundings, name: str, user_id: UserId, chat_id: ChatId) -> None:
        super().__init__(world, name, user_id)
        self.chat_id = chat_id
        self.heard: int | None = None

    def opened(self) -> None:
        self.heard = None

    def receive(self, frame: dict[str, Any]) -> None:
        wire = f"chat:{self.chat_id}"
        if frame["type"] == "hello":
            self.heard = frame["data"]["state"][wire]
        elif frame["type"] == "scope_reset":
            self.heard = frame["data"]["seq"]
        elif frame.get("scope") == wire:
            if self.heard is None or frame["seq"] != self.heard + 1:
                raise Wrong(f"{self.name} heard {frame} behind {self.heard}")
            self.heard = frame["seq"]
        else:
            raise Wrong(f"{self.name} heard {frame}")

    def closed(self, code: int | None) -> None:
        self.heard = None
        # Also behind a refusal: the user may have come in again meanwhile.
        self.schedule.after(1, self.dial)


def _find_difference(
    database: Database,
    found: Found,
    user_id: UserId,
    epoch: str,
    state: dict[str, int],
    limit: int,
) -> Reading:
    """As `find_difference`, statement by statement."""
    while True:
        fresh = Found(epoch=database.log.epoch)
        for name in Found.__slots__:
            setattr(found, name, getattr(fresh, name))
        yield
        course = collect(found, user_id=user_id, epoch=epoch, state=state, limit=limit)
        need = go_on(course)
        while need is not None:
            (answer,) = yield from database.meet(Batch(need))
            need = go_on(course, answer)
        yield
        if database.log.epoch == found.epoch:
            return
