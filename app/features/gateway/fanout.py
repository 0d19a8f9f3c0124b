"""From commits and the bus to the sockets of this worker, each scope in the order of its log. No I/O.

The way of an update: `on_commit` (this worker) or `on_bus` (another) -> the scope's feed, which
hands out the next number, drops an old one, and asks for the log where one is missing -> `hub`.
What was announced without content is read from the log, filled in and rendered once, and goes to
the other workers from there. Every few seconds, and after each reconnect of the bus, all feeds are
compared with the log, so that a lost publish costs seconds and never an update. What is to be read,
`readers.py` asks for here and brings back here.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import orjson

from app.features.gateway.feed import Ask, Feed, Step
from app.features.gateway.logbook import Pages
from app.features.gateway.visibility import find_oldest_told, hide_from_newcomer
from app.infra.bus.port import Bus
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import Scope, ScopeKind
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import Hub
from app.transport.websocket.outgoing import OutFrame, render_frame

TOPIC = "updates"
# Another worker's publish is usually this late at most; then the log is read.
PATIENCE_SECONDS = 0.02
_SCOPES_A_FILL = 100

_log = logging.getLogger(__name__)

# Calls the function after so many seconds.
Later = Callable[[float, Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class Gaps:
    """What to read of the log: `ranges` are `(after, upto)`; `followed` are the sockets that miss it.

    Behind the rows it is read which of `pairs` are in the chat: they may see all of them.
    """

    ranges: Mapping[Scope, tuple[int, int]]
    followed: Sequence[tuple[Connection, Scope]]

    @property
    def pairs(self) -> set[tuple[UserId, ChatId]]:
        return {(connection.user_id, ChatId(scope.id)) for connection, scope in self.followed}


class Fanout:
    """Feeds of all scopes that a socket of this worker follows.

    `on_handed_out` sees every update right after the sockets got it, in the same order; `on_gaps`
    is called when there is something for `find_gaps`.
    """

    def __init__(self, bus: Bus, later: Later) -> None:
        self.hub = Hub(self._unwatch)
        self._bus = bus
        self._later = later
        self.on_handed_out: Callable[[Announcement], None] = _ignore
        self.on_gaps: Callable[[], None] = _do_nothing
        self._feeds: dict[Scope, Feed] = {}
        # Sockets of chats with hidden history -> the first message they may see.
        self._newcomers: dict[Scope, dict[Connection, MessageId]] = {}
        # Announced here without content: to be published once the log has filled them in.
        self._unpublished: dict[Scope, set[int]] = {}
        # An ordered set: who waits longest is read first.
        self._gaps: dict[Scope, None] = {}

    # What arrives.

    def on_commit(self, announcements: Sequence[Announcement]) -> None:
        """This worker committed these, in this order."""
        for announcement in announcements:
            scope = announcement.scope
            feed = self._feeds.get(scope)
            if announcement.frame is None and feed is not None:
                self._unpublished.setdefault(scope, set()).add(announcement.seq)
            if feed is not None:
                self._take(scope, feed.announce(announcement))
            if announcement.frame is not None or feed is None:
                self._publish(announcement)

    def on_bus(self, payload: bytes) -> None:
        """A worker (perhaps this one) published this; it may come late, twice, or never."""
        head, _, frame = payload.partition(b"\n")
        kind, scope_id, seq, joined, left = orjson.loads(head)
        scope = Scope(ScopeKind(kind), scope_id)
        feed = self._feeds.get(scope)
        if feed is not None:
            announcement = Announcement(scope, seq, frame or None, tuple(joined), tuple(left))
            self._take(scope, feed.announce(announcement))

    # Who follows.

    def watch(self, scope: Scope) -> None:
        """Collect announcements of `scope` from now on; call it before reading where the log stands."""
        if scope not in self._feeds:
            self._feeds[scope] = Feed()

    def begin(self, scope: Scope, seq: int) -> None:
        """The log was read at `seq` after `watch`."""
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.begin(seq))

    def last(self, scope: Scope) -> int | None:
        """The number that was handed out last."""
        feed = self._feeds.get(scope)
        return feed.last if feed is not None else None

    def hide_before(
        self, connection: Connection, scope: Scope, first_visible_id: MessageId
    ) -> None:
        """This socket's user sees no message of the chat before that one (0: sees all)."""
        if first_visible_id:
            self._newcomers.setdefault(scope, {})[connection] = first_visible_id
        elif scope in self._newcomers:
            self._newcomers[scope].pop(connection, None)

    def show(self, connection: Connection, update: Announcement) -> OutFrame:
        """The frame of an update that is replayed to one socket."""
        frame = update.frame or b""
        first_visible_id = self._newcomers.get(update.scope, {}).get(connection)
        if first_visible_id is not None:
            oldest = find_oldest_told(frame)
            if oldest is not None and oldest < first_visible_id:
                frame = hide_from_newcomer(frame, first_visible_id)
        return OutFrame(frame)

    def drop(self, connection: Connection, scope: Scope) -> None:
        """The membership is over; the socket of that chat alone has nothing left to tell."""
        if scope in connection.scopes:
            self.hub.unfollow(connection, scope)
            if connection.chat_id == scope.id:
                connection.close(CloseCode.NOT_ALLOWED)

    def forget(self, connection: Connection) -> None:
        """The socket has closed."""
        for scope in connection.scopes:
            if scope in self._newcomers:
                self._newcomers[scope].pop(connection, None)
        self.hub.remove(connection)

    def _unwatch(self, scope: Scope) -> None:
        self._feeds.pop(scope, None)
        self._newcomers.pop(scope, None)
        self._gaps.pop(scope, None)
        for seq in sorted(self._unpublished.pop(scope, ())):
            # Nobody is left here who would fill it in; the other workers can.
            self._publish(Announcement(scope, seq))

    # What leaves.

    def _take(self, scope: Scope, step: Step) -> None:
        for update in step.deliver:
            self._hand_out(update)
        if step.reset_to is not None:
            self._reset(scope, step.reset_to)
        if step.ask is Ask.PATIENCE:
            self._later(PATIENCE_SECONDS, partial(self._run_out_of_patience, scope))
        elif step.ask is Ask.LOG:
            self._gaps[scope] = None
            self.on_gaps()
        if scope in self._unpublished:
            self._publish_passed(scope)

    def _hand_out(self, update: Announcement) -> None:
        payload = update.frame or b""
        frame = OutFrame(payload)
        instead: dict[Connection, OutFrame] = {}
        newcomers = self._newcomers.get(update.scope)
        if newcomers and (oldest := find_oldest_told(payload)) is not None:
            instead = {
                connection: OutFrame(hide_from_newcomer(payload, first_visible_id))
                for connection, first_visible_id in newcomers.items()
                if oldest < first_visible_id
            }
        self.hub.deliver(update.scope, update.seq, frame, instead)
        self.on_handed_out(update)

    def _reset(self, scope: Scope, seq: int) -> None:
        """The log no longer holds what was missed (an outage longer than its retention)."""
        frame = render_frame("scope_reset", {"scope": scope.wire, "seq": seq})
        for connection, after in list(self.hub.followers(scope).items()):
            if after < seq:
                connection.send(frame)
        _log.warning("scope_reset_for_all", extra={"scope": scope.wire, "seq": seq})

    def _run_out_of_patience(self, scope: Scope) -> None:
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.run_out_of_patience())

    # Reading the log.

    @property
    def watched(self) -> Collection[Scope]:
        """The scopes whose numbers are to be compared with the log."""
        return self._feeds.keys()

    def stand(self, seqs: Mapping[Scope, int]) -> None:
        """The log was seen at these numbers: one comparison of all feeds with it."""
        for scope, seq in seqs.items():
            feed = self._feeds.get(scope)
            if feed is not None:
                self._take(scope, feed.begin(seq) if feed.last is None else feed.stand(seq))

    def find_gaps(self) -> Gaps | None:
        """What is to be read now, of many scopes at once; None if nothing is missing."""
        while self._gaps:
            scopes = list(self._gaps)[:_SCOPES_A_FILL]
            for scope in scopes:
                del self._gaps[scope]
            ranges = {
                scope: gap
                for scope in scopes
                if (feed := self._feeds.get(scope)) is not None and (gap := feed.gap) is not None
            }
            self.skip(scope for scope in scopes if scope not in ranges)
            if ranges:
                followed = [
                    (connection, scope)
                    for scope in ranges
                    if scope.kind is ScopeKind.CHAT
                    for connection, after in self.hub.followers(scope).items()
                    if after <= ranges[scope][0]
                ]
                return Gaps(ranges, followed)
        return None

    def fill(self, gaps: Gaps, pages: Pages, members: Collection[tuple[UserId, ChatId]]) -> None:
        """What was read for `find_gaps`; `members` are those of its pairs who are in the chat."""
        for connection, scope in gaps.followed:
            # What was missed may have been the end of a membership that no update of this scope tells.
            if (connection.user_id, ChatId(scope.id)) not in members:
                after = self.hub.followers(scope).get(connection)
                if after is not None and after <= gaps.ranges[scope][0]:
                    self.drop(connection, scope)
        self.skip(scope for scope in gaps.ranges if scope not in pages.updates)
        for scope, updates in pages.updates.items():
            self._publish_filled(scope, updates)
            feed = self._feeds.get(scope)
            if feed is not None:
                self._take(scope, feed.fill(gaps.ranges[scope][0], updates))

    def skip(self, scopes: Iterable[Scope]) -> None:
        """These could not be read: the feeds ask again after a moment."""
        for scope in scopes:
            feed = self._feeds.get(scope)
            if feed is not None:
                self._take(scope, feed.fail_to_fill())

    def _publish_filled(self, scope: Scope, updates: Iterable[Announcement]) -> None:
        waiting = self._unpublished.get(scope)
        if waiting is None:
            return
        for update in updates:
            if update.seq in waiting:
                waiting.discard(update.seq)
                self._publish(update)
        if not waiting:
            self._unpublished.pop(scope, None)

    def _publish_passed(self, scope: Scope) -> None:
        """What the feed is past without filling it in (it read it before its commit was announced, or cannot)."""
        last = self.last(scope) or 0
        for seq in sorted(seq for seq in self._unpublished[scope] if seq <= last):
            self._unpublished[scope].discard(seq)
            self._publish(Announcement(scope, seq))
        if not self._unpublished[scope]:
            del self._unpublished[scope]

    def _publish(self, announcement: Announcement) -> None:
        """This worker has it already: a process that is alone pays nothing."""
        if self._bus.reaches_others:
            self._bus.publish(TOPIC, _encode(announcement))


def _encode(announcement: Announcement) -> bytes:
    """A line of JSON, then the frame, which holds no line feed; no frame: read it from the log."""
    scope = announcement.scope
    head = [int(scope.kind), scope.id, announcement.seq, announcement.joined, announcement.left]
    return orjson.dumps(head) + b"\n" + (announcement.frame or b"")


def _ignore(update: Announcement) -> None:
    """Until somebody listens."""


def _do_nothing() -> None:
    """Until somebody reads."""
