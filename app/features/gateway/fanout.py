"""From commits and the bus to the sockets of this worker, each scope in the order of its log. No I/O.

The way of an update: `on_commit` (this worker) or `on_bus` (another) -> the scope's feed, which
hands out the next number, drops an old one, and asks for the log where one is missing -> `hub`.
What was announced without content is read from the log, filled in and rendered once, and goes to
the other workers from there. Every few seconds, and after each reconnect of the bus, all feeds are
compared with the log, so that a lost publish costs seconds and never an update. What is to be read,
`readers.py` asks for here and brings back here.

Some memberships end without an update in the chat's scope (channels). Each such removal has a revision.
Announced, it ends the following of that person's sockets, and the feed is checked up to it; one that was
not heard of stops the feed at the first update with a newer revision, until the memberships of all
followers were read. A socket whose membership was itself read at the revision or later stays.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import orjson

from app.features.gateway.feed import Ask, Feed, Step
from app.features.gateway.logbook import Pages
from app.features.gateway.queries import Following
from app.features.gateway.visibility import find_oldest_told, hide_from_newcomer
from app.features.updates.log import Head
from app.infra.bus.port import Bus
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import Scope, ScopeKind, chat_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import Hub
from app.transport.websocket.outgoing import OutFrame, render_frame

TOPIC = "updates"
# Another worker's publish is usually this late at most; then the log is read.
PATIENCE_SECONDS = 0.02
_SCOPES_A_FILL = 100
_MAX_TRIES = 3
_RETRY_SECONDS = 0.5

_log = logging.getLogger(__name__)

# Calls the function after so many seconds.
Later = Callable[[float, Callable[[], None]], object]


Pair = tuple[UserId, ChatId]


@dataclass(frozen=True, slots=True)
class Gaps:
    """What to read of the log: `ranges` are `(after, upto)`.

    Behind the rows, where `chats` stand; behind that, the memberships that `find_suspects` names.
    """

    ranges: Mapping[Scope, tuple[int, int]]

    @property
    def chats(self) -> list[Scope]:
        return [scope for scope in self.ranges if scope.kind is ScopeKind.CHAT]


@dataclass(frozen=True, slots=True)
class Filled:
    """What was read for `Gaps`: in `found` are those of the `suspects` who are in the chat."""

    pages: Pages
    heads: Mapping[Scope, Head]
    suspects: Collection[Pair] = ()
    found: Mapping[Pair, Following] = field(default_factory=dict[Pair, Following])


class Fanout:
    """Feeds of all scopes that a socket of this worker follows.

    `on_handed_out` sees every update right after the sockets got it, in the same order; `on_gaps`
    is called when there is something for `find_gaps`.
    """

    def __init__(self, bus: Bus, later: Later) -> None:
        self.hub = Hub(self._unwatch, self._unfollow)
        self._bus = bus
        self._later = later
        self.on_handed_out: Callable[[Announcement], None] = _ignore
        self.on_gaps: Callable[[], None] = _do_nothing
        self._feeds: dict[Scope, Feed] = {}
        # Sockets of chats with hidden history -> the first message they may see.
        self._newcomers: dict[Scope, dict[Connection, MessageId]] = {}
        # Sockets -> the removal revision at which their memberships were read (absent: 0).
        self._revisions: dict[Scope, dict[Connection, int]] = {}
        # Announced here without content: to be published once the log has filled them in.
        self._unpublished: dict[Scope, set[int]] = {}
        # An ordered set: who waits longest is read first.
        self._gaps: dict[Scope, None] = {}
        # Scopes of which something cannot be read -> how often that was tried.
        self._tries: dict[Scope, int] = {}

    # What arrives.

    def on_commit(self, announcements: Sequence[Announcement]) -> None:
        """This worker committed these, in this order."""
        for announcement in announcements:
            scope = announcement.scope
            self._end(announcement)
            feed = self._feeds.get(scope)
            if announcement.frame is None and feed is not None:
                self._unpublished.setdefault(scope, set()).add(announcement.seq)
            if feed is not None:
                self._take(scope, feed.announce(announcement))
            if announcement.frame is not None or feed is None:
                self._publish(announcement)

    def on_bus(self, payload: bytes) -> None:
        """A worker (perhaps this one) published this; it may come late, twice, or never."""
        announcement = _decode(payload)
        self._end(announcement)
        feed = self._feeds.get(announcement.scope)
        if feed is not None:
            self._take(announcement.scope, feed.announce(announcement))

    def _end(self, announcement: Announcement) -> None:
        """Whether or not the scope of that user is followed here, and whatever it still waits for."""
        if announcement.ended is not None:
            chat_id, revision = announcement.ended
            self.end_membership(UserId(announcement.scope.id), chat_id, revision)

    # Who follows.

    def watch(self, scope: Scope) -> None:
        """Collect announcements of `scope` from now on; call it before reading where the log stands."""
        if scope not in self._feeds:
            self._feeds[scope] = Feed()

    def begin(self, scope: Scope, seq: int, revision: int = 0) -> None:
        """The log was read at `seq`, and at this removal revision, after `watch`."""
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.begin(seq, revision))

    def admit(self, connection: Connection, following: Following, number: int) -> None:
        """The socket, which is held in a chat, was found to follow it from this number on."""
        scope = chat_scope(following.chat_id)
        if not self.hub.is_held(connection, scope):
            return
        self.hub.begin(connection, scope, number)
        self.hide_before(connection, scope, following.first_visible_id)
        if following.removals:
            self._revisions.setdefault(scope, {})[connection] = following.removals
        self.begin(scope, following.seq, following.removals)
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.admit(following.removals))

    def end_membership(self, user_id: UserId, chat_id: ChatId, revision: int) -> None:
        """The user was put out of the chat by the removal with this revision."""
        scope = chat_scope(chat_id)
        for connection in list(self.hub.of_user(user_id)):
            if connection in self.hub.followers(scope) and self._is_older(
                connection, scope, revision
            ):
                self.drop(connection, scope)
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.end(revision))

    def _is_older(self, connection: Connection, scope: Scope, revision: int) -> bool:
        """Whether the socket's membership was read before this removal; not if it has yet to be read."""
        if self.hub.number(connection, scope) is None:
            return False
        return self._revisions.get(scope, {}).get(connection, 0) < revision

    def sent(self, connection: Connection, scope: Scope) -> int:
        """Up to which number the socket, which follows the scope, was sent all above its own."""
        hold = self.hub.find_hold(connection, scope)
        if hold is not None:
            return max(hold.floor or 0, hold.sent)
        return max(self.hub.followers(scope)[connection], self.last(scope) or 0)

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
        return self.mask(connection, update.scope, OutFrame(update.frame or b""))

    def mask(self, connection: Connection, scope: Scope, frame: OutFrame) -> OutFrame:
        """The frame as this socket's user may see it."""
        first_visible_id = self._newcomers.get(scope, {}).get(connection)
        if first_visible_id is not None:
            oldest = find_oldest_told(frame.payload)
            if oldest is not None and oldest < first_visible_id:
                return OutFrame(hide_from_newcomer(frame.payload, first_visible_id))
        return frame

    def drop(self, connection: Connection, scope: Scope) -> None:
        """The membership is over; the socket of that chat alone has nothing left to tell."""
        if scope in connection.scopes:
            self.hub.unfollow(connection, scope)
            if connection.chat_id == scope.id:
                connection.close(CloseCode.NOT_ALLOWED)

    def expel(self, connection: Connection, scope: Scope) -> None:
        """It was read that the user is not in the chat, before an update told: it may never do so."""
        if scope in connection.scopes and connection.chat_id is None:
            connection.send(render_reset(scope.wire, 0))
        self.drop(connection, scope)

    def forget(self, connection: Connection) -> None:
        """The socket has closed."""
        self.hub.remove(connection)

    def _unfollow(self, connection: Connection, scope: Scope) -> None:
        for kept in (self._newcomers.get(scope), self._revisions.get(scope)):
            if kept is not None:
                kept.pop(connection, None)

    def _unwatch(self, scope: Scope) -> None:
        self._feeds.pop(scope, None)
        self._newcomers.pop(scope, None)
        self._revisions.pop(scope, None)
        self._gaps.pop(scope, None)
        self._tries.pop(scope, None)
        for seq in sorted(self._unpublished.pop(scope, ())):
            # Nobody is left here who would fill it in; the other workers can.
            self._publish(Announcement(scope, seq))

    # What leaves.

    def _take(self, scope: Scope, step: Step) -> None:
        if step.reset_to is not None:
            self._reset(scope, step.reset_to)
        for update in step.deliver:
            self._hand_out(update)
        if step.ask is Ask.PATIENCE:
            self._later(PATIENCE_SECONDS, partial(self._run_out_of_patience, scope))
        elif step.ask is Ask.LOG:
            self._gaps[scope] = None
            self.on_gaps()
        if scope in self._unpublished:
            self._publish_passed(scope)

    def _hand_out(self, update: Announcement) -> None:
        payload = update.frame
        if payload is None:
            self._reset(update.scope, update.seq)
            self.on_handed_out(update)
            return
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
        """What was missed up to there cannot be had: pruned (a long outage), or not to be filled in."""
        _log.warning("scope_reset_for_all", extra={"scope": scope.wire, "seq": seq})
        if scope.kind is ScopeKind.USER:
            # It may have told of new chats: a new socket follows them all.
            for connection in list(self.hub.followers(scope)):
                connection.close(CloseCode.SERVICE_RESTART)
            return
        self.hub.tear(scope)
        frame = render_reset(scope.wire, seq)
        for connection, after in list(self.hub.followers(scope).items()):
            if after < seq:
                connection.send(frame)
                self.hub.go_on(connection, scope, seq)

    def _run_out_of_patience(self, scope: Scope) -> None:
        feed = self._feeds.get(scope)
        if feed is not None:
            self._take(scope, feed.run_out_of_patience())

    # Reading the log.

    @property
    def watched(self) -> Collection[Scope]:
        """The scopes whose numbers are to be compared with the log."""
        return self._feeds.keys()

    def stand(self, heads: Mapping[Scope, Head]) -> None:
        """The log was seen like this: one comparison of all feeds with it."""
        for scope, (seq, revision) in heads.items():
            feed = self._feeds.get(scope)
            if feed is not None:
                meet = feed.begin if feed.last is None else feed.stand
                self._take(scope, meet(seq, revision))

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
                return Gaps(ranges)
        return None

    def find_suspects(self, gaps: Gaps, pages: Pages, heads: Mapping[Scope, Head]) -> set[Pair]:
        """Whose memberships must be read before these pages are handed out.

        Where a removal was missed, or the page that may tell of one is torn: those of all followers.
        """
        suspects: set[Pair] = set()
        for scope in gaps.chats:
            feed = self._feeds.get(scope)
            if feed is None:
                continue
            if _revision(heads, scope) > feed.checked or _torn_upto(gaps, pages, scope):
                suspects.update(
                    (connection.user_id, ChatId(scope.id))
                    for connection in self.hub.followers(scope)
                    if self.hub.number(connection, scope) is not None
                )
        return suspects

    def fill(self, gaps: Gaps, filled: Filled) -> None:
        """What was read for `find_gaps`."""
        for scope in gaps.chats:
            self._judge(gaps, filled, scope)
        updates_of = filled.pages.updates
        self.skip(scope for scope in gaps.ranges if scope not in updates_of)
        for scope, found in updates_of.items():
            # Whoever hands them out must have checked what was known when they were read.
            revision = _revision(filled.heads, scope)
            updates = [replace(it, removals=revision) for it in found] if revision else found
            self._fill(scope, gaps.ranges[scope], updates)

    def _fill(self, scope: Scope, span: tuple[int, int], updates: list[Announcement]) -> None:
        feed = self._feeds.get(scope)
        if feed is None:
            return
        after, upto = span
        count = next((at for at, it in enumerate(updates) if it.frame is None), len(updates))
        if count < len(updates) and self._may_try_again(scope):
            # A row without its frame will be handed out as a reset, but is read a few times more before.
            self._publish_filled(scope, updates[:count])
            step = feed.fill(after, updates[:count], upto=upto if count else after)
            feed.pause()
            self._take(scope, replace(step, ask=Ask.NOTHING))
            return
        if count == len(updates):
            self._tries.pop(scope, None)
        self._publish_filled(scope, updates)
        self._take(scope, feed.fill(after, updates, upto=upto))

    def stumble(self, scope: Scope, upto: int) -> bool:
        """What is missing up to there could not be read, and the database is not to blame.

        Returns:
            Whether that is new of this scope.
        """
        feed = self._feeds.get(scope)
        if feed is None:
            return True
        is_new = scope not in self._tries
        if self._may_try_again(scope):
            feed.pause()
            return is_new
        for connection in list(self.hub.followers(scope)):
            # What was missed may have ended their memberships, or begun new ones.
            connection.close(CloseCode.SERVICE_RESTART)
        self._take(scope, feed.reset(upto))
        return is_new

    def _may_try_again(self, scope: Scope) -> bool:
        """A few times, with a while in between; once it was given up, not again before something was read."""
        tries = self._tries[scope] = self._tries.get(scope, 0) + 1
        if tries > _MAX_TRIES:
            return False
        self._later(_RETRY_SECONDS, partial(self._ask_again, scope))
        return True

    def _ask_again(self, scope: Scope) -> None:
        if scope in self._feeds:
            self._gaps[scope] = None
            self.on_gaps()

    def _judge(self, gaps: Gaps, filled: Filled, scope: Scope) -> None:
        """Drop who is not in the chat, or not any more under the membership that is followed here."""
        feed = self._feeds.get(scope)
        chat_id, revision = ChatId(scope.id), _revision(filled.heads, scope)
        torn_upto = _torn_upto(gaps, filled.pages, scope)
        if feed is None or (revision <= feed.checked and not torn_upto):
            return
        checked = revision
        for connection in list(self.hub.followers(scope)):
            number = self.hub.number(connection, scope)
            pair = (connection.user_id, chat_id)
            is_older = self._is_older(connection, scope, revision)
            if number is None or not (is_older or torn_upto):
                continue
            if pair not in filled.suspects:
                # Came meanwhile: what was read before a removal is checked up to that.
                checked = min(checked, self._revisions.get(scope, {}).get(connection, 0))
            elif is_older or number < torn_upto:
                following = filled.found.get(pair)
                if following is None or following.joined_seq > number:
                    self.expel(connection, scope)
        feed.check(checked)

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


def _revision(heads: Mapping[Scope, Head], scope: Scope) -> int:
    head = heads.get(scope)
    return 0 if head is None else head.removals


def _torn_upto(gaps: Gaps, pages: Pages, scope: Scope) -> int:
    """Up to which number the log does not hold (any more) what is missing; 0: it holds its beginning."""
    after, upto = gaps.ranges[scope]
    updates = pages.updates.get(scope)
    if updates is None or after == upto:
        return 0
    first = updates[0].seq if updates else upto + 1
    return 0 if first == after + 1 else first - 1


def _encode(announcement: Announcement) -> bytes:
    """A line of JSON, then the frame, which holds no line feed; no frame: read it from the log.

    A removal revision stands behind the rest where there is one.
    """
    scope, ended = announcement.scope, announcement.ended
    head: list[object] = [int(scope.kind), scope.id, announcement.seq]
    head += [announcement.joined, announcement.left]
    if ended is not None:
        head += ended
    elif announcement.removals:
        head.append(announcement.removals)
    return orjson.dumps(head) + b"\n" + (announcement.frame or b"")


def _decode(payload: bytes) -> Announcement:
    """Also of a worker that knows nothing of revisions: it is of the version before."""
    head, _, frame = payload.partition(b"\n")
    kind, scope_id, seq, joined, left, *more = orjson.loads(head)
    announcement = Announcement(
        Scope(ScopeKind(kind), scope_id), seq, frame or None, tuple(joined), tuple(left)
    )
    match more:
        case [chat_id, revision]:
            return replace(announcement, ended=(ChatId(chat_id), revision))
        case [revision]:
            return replace(announcement, removals=revision)
        case _:
            return announcement


def render_reset(wire_scope: str, seq: int) -> OutFrame:
    """Read the scope again over HTTP; 0: there is none for you."""
    return render_frame("scope_reset", {"scope": wire_scope, "seq": seq})


def _ignore(update: Announcement) -> None:
    """Until somebody listens."""


def _do_nothing() -> None:
    """Until somebody reads."""
