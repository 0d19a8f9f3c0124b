"""How a socket comes to follow its scopes, without I/O: subscribe first, read the log second.

The socket is known to the hub, and everything live is held back for it, before the numbers of
`hello` are read. So whatever is committed after them is delivered, and whatever was before them
is not. A client that was away answers `hello` with `resume`: it names the scopes it is behind in, and gets
what it missed. What is live is held back until that has had the time to arrive, or any other frame came,
so that nothing overtakes the replay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from app.features.gateway.course import (
    AwaitRoom,
    Course,
    Followings,
    ReadFollowings,
    ReadStanding,
)
from app.features.gateway.fanout import Fanout, Later, render_reset
from app.features.gateway.queries import Standing
from app.features.gateway.replay import Range, Replayer, find_reset_number
from app.kernel.clock import Clock, format_time
from app.kernel.ids import ChatId
from app.kernel.scopes import Scope, ScopeKind, chat_scope, parse_wire_scope, user_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.frames import RequestId
from app.transport.websocket.hub import SILENT, Hold
from app.transport.websocket.outgoing import render_frame

_SCOPES_A_HELLO = 1000
_GRACE_SECONDS = 0.5


@dataclass(slots=True)
class _Grace:
    """Between `hello` and what the client makes of it: what is held back, with the numbers of `hello`.

    `names`: what the client has asked to be resumed so far; of these `named` wait for their replay.
    `is_over`: nothing more is waited for.
    """

    waiting: dict[Scope, Hold] = field(default_factory=dict[Scope, Hold])
    named: dict[Scope, Hold] = field(default_factory=dict[Scope, Hold])
    names: set[str] = field(default_factory=set[str])
    is_over: bool = False


class CatchUp:
    """Courses for the sockets of one worker, and what their clients say meanwhile.

    `epoch`: of the log, for `hello`. `later` calls a function after so many seconds.
    """

    def __init__(
        self,
        fanout: Fanout,
        replayer: Replayer,
        *,
        epoch: str,
        clock: Clock,
        heartbeat_seconds: int,
        later: Later,
    ) -> None:
        self.epoch = epoch
        self._fanout = fanout
        self._hub = fanout.hub
        self._replayer = replayer
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._later = later
        self._graces: dict[Connection, _Grace] = {}

    # Being greeted.

    def greet(self, connection: Connection) -> Course:
        """Follow everything, say `hello`, go live."""
        grace = self._graces[connection] = _Grace()
        own = user_scope(connection.user_id)
        self._fanout.watch(own)
        if connection.chat_id is None:
            self._hub.hold(connection, own)
        else:
            # It hears nothing of the user's scope, but must be found when a membership ends.
            self._hub.follow(connection, own, SILENT)
        while True:
            standing: Standing = yield ReadStanding(connection.user_id, connection.chat_id)
            if self._follow_chats(connection, standing):
                break
        if connection.close_code is not None:
            return
        state = {chat_scope(chat_id): it.seq for chat_id, it in standing.chats.items()}
        if connection.chat_id is None:
            state = {own: standing.user_seq, **state}
        held = self._begin(connection, standing, state)
        yield from self._say_hello(connection, state)
        connection.is_ready = True
        grace.waiting = held
        self.keep(connection, ())
        self._later(_GRACE_SECONDS, partial(self._end_grace, connection))

    def _follow_chats(self, connection: Connection, standing: Standing) -> bool:
        """Whether these are the chats that were followed when they were read.

        Else they are read again: none may be left or joined between the reading and the following.
        """
        wanted = {chat_scope(chat_id) for chat_id in standing.chats}
        followed = set(connection.scopes) - {user_scope(connection.user_id)}
        for scope in followed - wanted:
            self._hub.unfollow(connection, scope)
        for scope in wanted - followed:
            self._fanout.watch(scope)
            self._hub.hold(connection, scope)
        if connection.chat_id is not None and not wanted:
            connection.close(CloseCode.NOT_ALLOWED)
        return wanted <= followed

    def _begin(
        self, connection: Connection, standing: Standing, state: Mapping[Scope, int]
    ) -> dict[Scope, Hold]:
        """Follow from these numbers on; what is held back meanwhile."""
        own = user_scope(connection.user_id)
        self._fanout.begin(own, standing.user_seq)
        if own in state:
            self._hub.begin(connection, own, standing.user_seq)
        for following in standing.chats.values():
            self._fanout.admit(connection, following, following.seq)
        held = {scope: self._hub.find_hold(connection, scope) for scope in state}
        return {scope: hold for scope, hold in held.items() if hold is not None}

    def _say_hello(self, connection: Connection, state: dict[Scope, int]) -> Course:
        remaining = iter(state.items())
        sent = 0
        while True:
            part = {scope.wire: seq for scope, seq in islice(remaining, _SCOPES_A_HELLO)}
            sent += len(part)
            data: dict[str, object] = {
                "user_id": connection.user_id,
                "session_id": connection.session_id,
                "server_time": format_time(self._clock.now()),
                "heartbeat_seconds": self._heartbeat_seconds,
                "epoch": self.epoch,
                "state": part,
            }
            if sent < len(state):
                data["more"] = True
            connection.send(render_frame("hello", data))
            if sent >= len(state):
                return
            yield AwaitRoom()

    # What the client says.

    def keep(self, connection: Connection, names: Iterable[str]) -> None:
        """The client will have these scopes resumed: hold them until it is their turn."""
        grace = self._graces.get(connection)
        if grace is None:
            return
        grace.names.update(names)
        for scope in [scope for scope in grace.waiting if scope.wire in grace.names]:
            grace.named[scope] = grace.waiting.pop(scope)

    def abandon(self, connection: Connection) -> None:
        """The `resume` was refused as a whole: nothing waits for it."""
        grace = self._graces.get(connection)
        if grace is not None:
            grace.waiting |= grace.named
            grace.named = {}
            grace.names.clear()
            self.release(connection)

    def release(self, connection: Connection) -> None:
        """Everything that waits for no replay goes live."""
        grace = self._graces.get(connection)
        if grace is None:
            return
        waiting, grace.waiting = grace.waiting, {}
        behind: dict[Scope, Range] = {}
        for scope, hold in waiting.items():
            seq = hold.floor or 0
            is_held = self._hub.find_hold(connection, scope) is hold
            if is_held and not self._replayer.settle(connection, scope, seq):
                behind[scope] = Range(seq, seq, hold)
        if behind:
            self._replayer.start(connection, behind)
        self._forget_grace(connection, grace)

    def forget(self, connection: Connection) -> None:
        """The socket has closed."""
        self._graces.pop(connection, None)

    def _end_grace(self, connection: Connection) -> None:
        grace = self._graces.get(connection)
        if grace is not None:
            grace.is_over = True
            self.release(connection)

    def _forget_grace(self, connection: Connection, grace: _Grace) -> None:
        """An idle socket keeps nothing of its beginning."""
        if grace.is_over and not grace.named:
            self._graces.pop(connection, None)

    # Being resumed.

    def resume(
        self,
        connection: Connection,
        *,
        epoch: str,
        state: Mapping[str, int],
        request_id: RequestId | None,
    ) -> Course:
        """Hold the named scopes at once, replay each up to the number that `hello` gave, say `resumed`."""
        ranges, refused = self._hold(connection, state, is_same_epoch=epoch == self.epoch)
        chats = ReadFollowings(connection.user_id, tuple(ranges))
        if chats.pairs:
            followings: Followings = yield chats
            refused |= _find_late(connection, ranges, followings)
        for scope, span in list(ranges.items()):
            if self._hub.find_hold(connection, scope) is not span.hold:
                # Left meanwhile, and perhaps joined again: another update tells.
                del ranges[scope]
                refused.pop(scope.wire, None)
            elif scope.wire in refused:
                span.after = span.upto
        for wire, seq in refused.items():
            connection.send(render_reset(wire, seq))
        yield from self._replayer.replay(connection, ranges)
        reached = {scope.wire: span.floor for scope, span in ranges.items()}
        connection.send(render_frame("resumed", {"state": reached}, request_id=request_id))

    def _hold(
        self, connection: Connection, state: Mapping[str, int], *, is_same_epoch: bool
    ) -> tuple[dict[Scope, Range], dict[str, int]]:
        """Ranges to replay, and (by wire name) those of them that must be read again over HTTP."""
        ranges: dict[Scope, Range] = {}
        refused: dict[str, int] = {}
        for wire, after in state.items():
            scope = parse_wire_scope(wire, connection.user_id)
            if scope is not None and self._is_new(connection, scope):
                continue
            span = None if scope is None else self._hold_scope(connection, scope)
            if scope is None or span is None:
                # Not mine and never heard of are the same. At once: it may be joined in a moment.
                connection.send(render_reset(wire, 0))
                continue
            ranges[scope] = span
            if is_same_epoch and after <= span.upto:
                span.after = after
            else:
                refused[wire] = find_reset_number(connection, scope, span)
        return ranges, refused

    def _is_new(self, connection: Connection, scope: Scope) -> bool:
        """A chat that was joined a moment ago: all of it is on its way already."""
        hold = self._hub.find_hold(connection, scope)
        return hold is not None and hold.is_new

    def _hold_scope(self, connection: Connection, scope: Scope) -> Range | None:
        """Nothing to replay yet; None: the socket does not follow the scope."""
        hold = self._take(connection, scope)
        if hold is None:
            floor = self._hub.find_floor(connection, scope)
            if floor is None or floor == SILENT:
                return None
            held = self._hub.find_hold(connection, scope)
            if held is None:
                sent = self._fanout.sent(connection, scope)
            else:
                # It is being brought up without what the client only now says that it missed.
                floor, sent = held.floor or 0, held.sent
            hold = self._hub.hold(connection, scope, floor)
            hold.sent = sent
        floor = hold.floor or 0
        return Range(floor, floor, hold)

    def _take(self, connection: Connection, scope: Scope) -> Hold | None:
        """What is still held for a `resume` since `hello`."""
        grace = self._graces.get(connection)
        if grace is None:
            return None
        hold = grace.named.pop(scope, None)
        self._forget_grace(connection, grace)
        return hold if self._hub.find_hold(connection, scope) is hold else None


def _find_late(
    connection: Connection, ranges: Mapping[Scope, Range], followings: Followings
) -> dict[str, int]:
    """Chats of which the client claims numbers from before its user's joining, with their own numbers."""
    return {
        scope.wire: find_reset_number(connection, scope, span)
        for scope, span in ranges.items()
        if scope.kind is ScopeKind.CHAT
        and (it := followings.get((connection.user_id, ChatId(scope.id)))) is not None
        # Of one who came in since `hello`, another update tells.
        and span.after < it.joined_seq <= span.floor
    }
