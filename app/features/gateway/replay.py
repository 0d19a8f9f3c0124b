"""Replays, without I/O: what a socket missed, from the log, in order, before what is live.

Between two pages the client must have taken most of the first, so that a replay never fills its
queue; no page is kept while it is waited for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from app.features.gateway.course import (
    AwaitRoom,
    Course,
    Followings,
    ReadFollowings,
    ReadPages,
)
from app.features.gateway.fanout import Fanout, render_reset
from app.features.gateway.logbook import Pages
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId
from app.kernel.scopes import Scope, ScopeKind
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import Hold

_SCOPES_A_PAGE = 100
_ROWS_A_PAGE = 500
# A client that has no room for a page gets the next one as large as what it took, but not smaller.
_MIN_ROWS_A_PAGE = 20
# Above every number that a scope can have.
_TO_THE_END = 2**53


@dataclass(slots=True)
class Range:
    """Replay what is above `after` up to `upto`, the number that the client was told it follows from (`floor`).

    `hold`: what is held back meanwhile; where it is gone, so is the membership that was to be replayed.
    """

    after: int
    upto: int
    hold: Hold
    floor: int = field(init=False)

    def __post_init__(self) -> None:
        self.floor = self.upto

    @property
    def reads_on(self) -> bool:
        """What was held did not join on: the log is read until it does."""
        return self.upto == _TO_THE_END


class Replayer:
    """`begin` leads a socket through a course in the background.

    `on_replayed` sees updates of a user's scope that a socket got from before its `hello`, `on_released`
    those that it got late: held back, or read behind its replay.
    """

    def __init__(self, fanout: Fanout, begin: Callable[[Connection, Course], None]) -> None:
        self._fanout = fanout
        self._begin = begin
        self.on_replayed: Callable[[Connection, Announcement], None] = _ignore
        self.on_released: Callable[[Connection, Announcement], None] = _ignore

    def settle(
        self, connection: Connection, scope: Scope, upto: int, *, floor: int | None = None
    ) -> bool:
        """Go live behind `upto`; False if the log must be read on first."""
        hub = self._fanout.hub
        held = hub.held(connection, scope)
        last = self._fanout.last(scope)
        # Held back before it was read whether they are a newcomer: what they may see is judged now.
        mask = partial(self._fanout.mask, connection, scope)
        if not hub.settle(connection, scope, upto, last=last, floor=floor, mask=mask):
            return False
        if connection.chat_id == scope.id and scope not in connection.scopes:
            # The membership ended behind what was held.
            connection.close(CloseCode.NOT_ALLOWED)
        for seq, frame in held:
            if seq > upto:
                self.on_released(connection, Announcement(scope, seq, frame.payload))
        return True

    def start(self, connection: Connection, ranges: Mapping[Scope, Range]) -> None:
        """Replay in the background; every scope is held."""
        self._begin(connection, self.replay(connection, ranges))

    def replay(self, connection: Connection, ranges: Mapping[Scope, Range]) -> Course:
        """Send what is missing, scope by scope, each then live; every scope is held."""
        # The user's own scope first: it tells of the chats.
        todo = dict(sorted(ranges.items(), key=lambda item: -item[0].kind))
        limit = _ROWS_A_PAGE
        while True:
            self._settle_all(connection, todo)
            chunk = _first_of_one_kind(todo)
            if not chunk:
                return
            # What is known before the rows are read must be among them.
            known = {scope: self._fanout.last(scope) or 0 for scope in chunk}
            pages: Pages
            followings: Followings
            pages, followings = yield ReadPages(
                {scope: (span.after, span.upto) for scope, span in chunk.items()},
                limit,
                ReadFollowings(connection.user_id, tuple(chunk)),
            )
            sent = 0
            for scope, updates in pages.updates.items():
                if self._is_member(connection, scope, chunk[scope], followings):
                    sent += self._send(connection, scope, chunk[scope], updates, known[scope])
                if not connection.has_room():
                    break
            limit = min(_ROWS_A_PAGE, 2 * limit)
            if not connection.has_room():
                limit = max(_MIN_ROWS_A_PAGE, sent)
            yield AwaitRoom()

    def _is_held(self, connection: Connection, scope: Scope, span: Range) -> bool:
        return self._fanout.hub.find_hold(connection, scope) is span.hold

    def _is_member(
        self, connection: Connection, scope: Scope, span: Range, followings: Followings
    ) -> bool:
        """Whether what was read is of a membership that goes on; else nothing more is sent of it."""
        if not self._is_held(connection, scope, span):
            return False
        if scope.kind is ScopeKind.USER:
            return True
        following = followings.get((connection.user_id, ChatId(scope.id)))
        if following is not None and following.joined_seq <= span.floor:
            return True
        # If they came in again, that is told by another update.
        self._fanout.expel(connection, scope)
        return False

    def _settle_all(self, connection: Connection, todo: dict[Scope, Range]) -> None:
        for scope, span in list(todo.items()):
            if not self._is_held(connection, scope, span):
                del todo[scope]
            elif span.after >= span.upto:
                span.after = max(span.after, span.hold.sent)
                if self.settle(connection, scope, span.after, floor=span.floor):
                    del todo[scope]
                else:
                    span.upto = _TO_THE_END

    def _send(
        self,
        connection: Connection,
        scope: Scope,
        span: Range,
        updates: list[Announcement],
        known: int,
    ) -> int:
        """How many updates were sent: as many as the client has room for."""
        reads_on = span.reads_on
        if not updates and reads_on and known <= span.after:
            span.upto = span.after
            return 0
        if not updates or updates[0].seq != span.after + 1:
            # Pruned: the client lags further behind than the log reaches.
            self._reset(connection, scope, span, known)
            return 0
        sent = 0
        for update in updates:
            if not self._is_held(connection, scope, span) or not connection.has_room():
                break
            if update.frame is None:
                # It cannot be filled in.
                self._reset(connection, scope, span, max(known, update.seq))
                break
            self._send_one(connection, span, update)
            sent += 1
        if reads_on:
            span.upto = span.after
        span.hold.sent = max(span.hold.sent, span.after)
        return sent

    def _send_one(self, connection: Connection, span: Range, update: Announcement) -> None:
        span.after = update.seq
        connection.send(self._fanout.show(connection, update))
        if span.reads_on:
            self.on_released(connection, update)
        elif update.scope.kind is ScopeKind.USER:
            self.on_replayed(connection, update)

    def _reset(self, connection: Connection, scope: Scope, span: Range, known: int) -> None:
        if span.reads_on and scope.kind is ScopeKind.USER:
            # It may have told of new chats: a new socket follows them all.
            connection.close(CloseCode.SERVICE_RESTART)
        known_here = max(span.after, known)
        seq = known_here if span.reads_on else find_reset_number(connection, scope, span)
        connection.send(render_reset(scope.wire, seq))
        connection.note_told(scope)
        span.after = span.upto = seq


def find_reset_number(connection: Connection, scope: Scope, span: Range) -> int:
    """Where the client goes on that cannot be replayed all up to `span.upto`: there.

    What was sent above it, it has kept. But who was told another number meanwhile is beyond it already.
    """
    is_beyond = scope in (connection.told or ())
    return max(span.upto, span.hold.sent) if is_beyond else span.upto


def _first_of_one_kind(todo: Mapping[Scope, Range]) -> dict[Scope, Range]:
    first = next(iter(todo), None)
    same = (item for item in todo.items() if first is not None and item[0].kind is first.kind)
    return dict(islice(same, _SCOPES_A_PAGE))


def _ignore(connection: Connection, update: Announcement) -> None:
    """Until somebody listens."""
