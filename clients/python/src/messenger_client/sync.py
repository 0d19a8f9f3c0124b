"""The gap and resume logic of one device, without I/O: frames come in, actions come out.

However connections break and frames come late, twice or ahead of a replay, the changes of a scope
come out in the order of the server's log, each once. What was not given out in an `Apply` is not
part of the position: after a break the device goes on from what it has applied.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from messenger_client.changes import (
    Change,
    Forgotten,
    Frame,
    Position,
    Reset,
    Update,
    Voided,
    find_begun,
    find_ended,
)

MAX_SCOPES_A_RESUME = 1000
# Updates that wait behind a replay. The server holds them back itself; more than this is a fault.
_MAX_EARLY = 10_000


@dataclass(frozen=True, slots=True)
class Apply:
    """Make these changes durable, all or none, together with where they move the position."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send this frame over the socket."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class FetchDifference:
    """`POST /updates/difference` with this body; give the answer to `Sync.difference`."""

    epoch: str
    state: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Signal:
    """A frame that is no update: typing, presence, a call."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The connection cannot be made whole: open a new one."""

    reason: str


Action = Apply | SendFrame | FetchDifference | Signal | Reconnect


class Sync:
    """A device's side of the update protocol.

    `position` is what has been given out in `Apply` actions, in their order. Whoever cannot apply one
    drops this object and makes another over what the store holds.
    """

    def __init__(self, position: Position) -> None:
        self.position = position.copy()
        self._hello: dict[str, int] | None = None
        self._is_greeted = False
        # Resumes under way: request id -> the scopes named, each with its number in `hello`.
        self._resumes: dict[str, dict[str, int]] = {}
        self._resume_count = 0
        # Scope -> seq -> what came ahead of its turn.
        self._early: dict[str, dict[int, Update]] = {}
        self._early_count = 0
        # Scope -> the number from which this connection follows it.
        self._begun: dict[str, int] = {}
        # What a difference under way was asked for; not what was begun anew or forgotten since:
        # the answer may be older than that.
        self._asked: set[str] | None = None
        self._wants_difference = False
        self._changes: list[Change] = []

    @property
    def is_whole(self) -> bool:
        """Connected, and everything up to `hello` and since is applied."""
        is_catching_up = self._resumes or self._asked is not None or self._wants_difference
        return self._is_greeted and not is_catching_up

    def connected(self) -> list[Action]:
        """A new connection is open; the server speaks first."""
        self.disconnected()
        return []

    def disconnected(self) -> None:
        """The connection is over: what was not applied comes again by the next one."""
        self._hello = None
        self._is_greeted = False
        self._resumes.clear()
        self._early.clear()
        self._early_count = 0
        self._begun.clear()
        self._asked = None
        self._wants_difference = False
        self._changes.clear()

    def receive(self, frame: Frame) -> list[Action]:
        """A frame of the server, in the order of arrival."""
        actions: list[Action] = []
        match frame.get("type"):
            case "hello":
                actions += self._take_hello(frame["data"])
            case "scope_reset":
                self._take_reset(frame["data"]["scope"], frame["data"]["seq"])
            case "resumed":
                self._end_resume(cast("str | None", frame.get("request_id")))
            case _ if "scope" in frame and "seq" in frame:
                self._take_update(
                    Update(frame["type"], frame["scope"], frame["seq"], frame["data"])
                )
            case _:
                return [Signal(frame)]
        return self._finish(actions)

    def difference(self, answer: Mapping[str, Any]) -> list[Action]:
        """What the server answered to `FetchDifference`."""
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        if answer["epoch"] != self.position.epoch:
            return [Reconnect("the log is another one")]
        before = {scope: self.position.cursors.get(scope) for scope in asked}
        # It also names scopes that the question did not: those are live here already.
        for reset in answer["resets"]:
            if reset["scope"] in asked:
                self._take_reset(reset["scope"], reset["seq"])
        for it in answer["updates"]:
            self._take_update(Update(it["type"], it["scope"], it["seq"], it["data"]))
        has_holes = any(self._has_hole(scope) for scope in asked)
        is_stuck = all(self.position.cursors.get(scope) == before[scope] for scope in asked)
        if has_holes and is_stuck:
            self._wants_difference = False
            return self._finish([Reconnect("the difference does not close the gap")])
        self._wants_difference = self._wants_difference or has_holes
        return self._finish([])

    def difference_failed(self) -> list[Action]:
        """It was not answered: a new connection resumes instead."""
        if self._asked is None:
            return []
        return [Reconnect("the difference cannot be had")]

    # Hello and resume.

    def _take_hello(self, data: Mapping[str, Any]) -> list[Action]:
        first = self._hello is None
        state = cast("dict[str, int]", data["state"])
        self._hello = {**(self._hello or {}), **state}
        if first and data["epoch"] != self.position.epoch:
            # The first connection ever, or the server was restored.
            self._change(Voided(data["epoch"]))
        if data.get("more"):
            return []
        self._is_greeted = True
        self._begun = dict(self._hello)
        resumes = list(self._resume(self._compare_with_hello()))
        for scope in list(self._early):
            self._go_on(scope)
        return [*resumes]

    def _compare_with_hello(self) -> dict[str, int]:
        """Scopes in which this device is not where the server is, with the server's numbers."""
        hello = self._hello or {}
        behind: dict[str, int] = {}
        for scope, seq in hello.items():
            cursor = self.position.cursors.get(scope)
            if cursor is None:
                # Known to the server alone: read it over HTTP, it is live from here.
                self._reset(scope, seq)
            elif cursor != seq:
                behind[scope] = seq
        for scope in [scope for scope in self.position.cursors if scope not in hello]:
            self._forget(scope)
        return behind

    def _resume(self, behind: Mapping[str, int]) -> Iterator[SendFrame]:
        remaining = iter(behind.items())
        while part := dict(islice(remaining, MAX_SCOPES_A_RESUME)):
            self._resume_count += 1
            request_id = f"resume-{self._resume_count}"
            self._resumes[request_id] = part
            state = {scope: self.position.cursors[scope] for scope in part}
            data = {"epoch": self.position.epoch, "state": state}
            yield SendFrame({"type": "resume", "request_id": request_id, "data": data})

    def _end_resume(self, request_id: str | None) -> None:
        """The replay is over. What still waits for an update that it did not bring is a gap."""
        # They are answered in their order.
        oldest = next(iter(self._resumes), "")
        for scope in self._resumes.pop(request_id or oldest, {}):
            if self._has_hole(scope):
                self._wants_difference = True

    # Updates.

    def _take_update(self, update: Update) -> None:
        cursor = self.position.cursors.get(update.scope)
        if cursor is None:
            # Of a chat whose `chat_created` is still to come.
            self._keep(update)
        elif update.seq == cursor + 1 and self._is_greeted:
            self._apply(update)
            self._go_on(update.scope)
        elif update.seq > cursor:
            self._keep(update)
            self._wants_difference = True

    def _apply(self, update: Update) -> None:
        begun = find_begun(update)
        self._change(update)
        if begun is not None:
            self._begin(*begun)
        ended = find_ended(update)
        if ended is not None and self._is_over(*ended):
            self._forget(ended[0])

    def _begin(self, scope: str, seq: int) -> None:
        """Follow a scope from `seq` on."""
        self._begun[scope] = seq
        self._no_longer_asked(scope)
        self._go_on(scope)

    def _is_over(self, scope: str, last: int) -> bool:
        """Whether the membership that ended with `last` is the one that is followed here.

        One that began above `last` is a later one. It does not count what a server sent past the
        end of this one.
        """
        cursor = self.position.cursors.get(scope)
        return cursor is not None and min(cursor, self._begun.get(scope, cursor)) <= last

    def _go_on(self, scope: str) -> None:
        """Apply what waited for the scope to come so far; drop what it has passed."""
        early = self._early.get(scope)
        while early and (cursor := self.position.cursors.get(scope)) is not None:
            for seq in [seq for seq in early if seq <= cursor]:
                self._drop_early(scope, seq)
            following = early.get(cursor + 1)
            if following is None:
                return
            self._drop_early(scope, following.seq)
            self._apply(following)

    def _take_reset(self, scope: str, seq: int) -> None:
        """The server's word: 0 means that there is no such scope for us."""
        if seq == 0:
            self._forget(scope)
        else:
            self._reset(scope, seq)

    def _reset(self, scope: str, seq: int) -> None:
        """Go on from `seq`; a chat in which nothing was said yet stands at 0."""
        self._change(Reset(scope, seq))
        self._begin(scope, seq)

    def _forget(self, scope: str) -> None:
        """It is not ours any more. What waits ahead may belong to a membership that is still to be told."""
        self._begun.pop(scope, None)
        self._no_longer_asked(scope)
        if scope in self.position.cursors:
            self._change(Forgotten(scope))

    def _keep(self, update: Update) -> None:
        waiting = self._early.setdefault(update.scope, {})
        if update.seq not in waiting:
            waiting[update.seq] = update
            self._early_count += 1

    def _drop_early(self, scope: str, seq: int) -> None:
        if self._early[scope].pop(seq, None) is not None:
            self._early_count -= 1

    def _no_longer_asked(self, scope: str) -> None:
        if self._asked is not None:
            self._asked.discard(scope)

    def _has_hole(self, scope: str) -> bool:
        """Something waits for what lies between it and the cursor."""
        return scope in self.position.cursors and bool(self._early.get(scope))

    def _is_replayed(self, scope: str) -> bool:
        return any(scope in named for named in self._resumes.values())

    # What comes out.

    def _change(self, change: Change) -> None:
        self._changes.append(change)
        self.position.move([change])

    def _finish(self, actions: Iterable[Action]) -> list[Action]:
        result: list[Action] = []
        if self._changes:
            result.append(Apply(tuple(self._changes)))
            self._changes.clear()
        result += actions
        if self._early_count > _MAX_EARLY:
            result.append(Reconnect("too much waits for an update that does not come"))
        elif self._wants_difference and self._asked is None and self._is_greeted:
            result += self._fetch()
        return result

    def _fetch(self) -> Iterator[FetchDifference]:
        """Ask for what is missing: every scope that has a hole and waits for no replay."""
        self._wants_difference = False
        state = {
            scope: cursor
            for scope, cursor in self.position.cursors.items()
            if self._has_hole(scope) and not self._is_replayed(scope)
        }
        if state and self.position.epoch is not None:
            self._asked = set(state)
            yield FetchDifference(self.position.epoch, state)
