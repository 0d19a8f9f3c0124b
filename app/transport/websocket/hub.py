"""Who listens on this worker: scope -> sockets, user -> sockets, session -> sockets. No I/O.

Each socket follows a scope from a number on, so that one that was registered between two updates
neither misses nor repeats one. While a socket is being brought up to date from the log, what is
live is held back for it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import Scope
from app.transport.websocket.connection import Connection
from app.transport.websocket.outgoing import OutFrame

# In place of a number: nothing is sent. Held updates wait; silent sockets only want to be found.
HELD = 2**60
SILENT = 2**60 + 1
# Of a socket's queue, for all that it holds back: so all of it fits in when it goes live at once.
_HELD_SHARE = 4
# What a held frame costs beside its bytes, which it shares with other sockets.
_BYTES_A_FRAME = 100
_NOTHING: Mapping[Connection, OutFrame] = {}


class Hold:
    """Live updates of one scope that wait behind a replay, in order.

    `floor`: the number from which the socket follows the scope, as its client was told; None until that was
    read. `sent`: the client was sent all up to this number. `left_at`: it sees nothing behind this one.
    `is_read`: it was read that the user is in the chat. `is_new`: they came in while the socket was open,
    so that its client has missed nothing of this membership.
    """

    __slots__ = ("floor", "frames", "is_new", "is_read", "left_at", "sent", "size")

    def __init__(self, floor: int | None, *, is_new: bool, is_read: bool) -> None:
        self.floor = floor
        self.is_new = is_new
        self.is_read = is_read
        # Of a chat that was joined meanwhile, the Chat itself tells what was before.
        self.sent = floor if is_new and floor is not None else 0
        self.frames: list[tuple[int, OutFrame]] = []
        self.size = 0
        self.left_at: int | None = None

    def begin(self, floor: int) -> None:
        """It was read. An end that was heard of meanwhile may be that of an earlier membership."""
        self.is_read = True
        self.floor = floor
        if self.left_at is not None and self.left_at <= floor:
            # What came behind that end was not kept: it will be read again.
            self.left_at = None


class Holds:
    """All that one socket holds back. In bounded memory, however many scopes it is brought up in."""

    __slots__ = ("_limit", "_size", "of")

    def __init__(self, limit: int) -> None:
        self.of: dict[Scope, Hold] = {}
        self._limit = limit
        self._size = 0

    def add(self, scope: Scope, seq: int, frame: OutFrame) -> None:
        """They are in the log too: those that become too many are forgotten and read again."""
        hold = self.of[scope]
        if hold.left_at is not None:
            return
        hold.frames.append((seq, frame))
        size = len(frame) + _BYTES_A_FRAME
        hold.size += size
        self._size += size
        if self._size > self._limit:
            self.clear(scope)

    def clear(self, scope: Scope) -> None:
        hold = self.of[scope]
        self._size -= hold.size
        hold.frames.clear()
        hold.size = 0

    def drop(self, scope: Scope) -> None:
        hold = self.of.pop(scope, None)
        if hold is not None:
            self._size -= hold.size


class Hub:
    """`on_unfollowed` is called when a socket has ceased to follow a scope, `on_unwatched` behind it
    when it was the last one.
    """

    def __init__(
        self,
        on_unwatched: Callable[[Scope], None],
        on_unfollowed: Callable[[Connection, Scope], None] = lambda _connection, _scope: None,
    ) -> None:
        self._on_unwatched = on_unwatched
        self._on_unfollowed = on_unfollowed
        self._followers: dict[Scope, dict[Connection, int]] = {}
        # The numbers that clients were told, where their sockets follow from a higher one.
        self._floors: dict[Connection, dict[Scope, int]] = {}
        self._holds: dict[Connection, Holds] = {}
        self._by_user: dict[UserId, list[Connection]] = {}
        self._by_session: dict[SessionId, list[Connection]] = {}

    def add(self, connection: Connection) -> None:
        self._by_user.setdefault(connection.user_id, []).append(connection)
        self._by_session.setdefault(connection.session_id, []).append(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a socket and all that it follows."""
        _remove(self._by_user, connection.user_id, connection)
        _remove(self._by_session, connection.session_id, connection)
        for scope in list(connection.scopes):
            self.unfollow(connection, scope)

    def connections(self) -> list[Connection]:
        return [connection for group in self._by_user.values() for connection in group]

    def of_user(self, user_id: UserId) -> list[Connection]:
        return self._by_user.get(user_id, [])

    def of_session(self, session_id: SessionId) -> list[Connection]:
        return self._by_session.get(session_id, [])

    def users(self) -> Collection[UserId]:
        return self._by_user.keys()

    def watched(self) -> Collection[Scope]:
        return self._followers.keys()

    def followers(self, scope: Scope) -> Mapping[Connection, int]:
        return self._followers.get(scope, {})

    def follow(self, connection: Connection, scope: Scope, after: int) -> None:
        """Send updates of `scope` with a number above `after`."""
        followers = self._followers.setdefault(scope, {})
        if connection not in followers:
            connection.scopes.append(scope)
        followers[connection] = after

    def go_on(self, connection: Connection, scope: Scope, seq: int) -> None:
        """The client, which is live, was told that it follows from a later number."""
        self._followers[scope][connection] = seq
        self._drop_floor(connection, scope)
        connection.note_told(scope)

    def number(self, connection: Connection, scope: Scope) -> int | None:
        """From which number on the socket follows the scope; None if that has yet to be read."""
        after = self._followers[scope][connection]
        if after != HELD:
            return after
        hold = self._holds[connection].of[scope]
        return hold.floor if hold.is_read else None

    def find_floor(self, connection: Connection, scope: Scope) -> int | None:
        """From which number on the client, which is live there, was told that it follows the scope."""
        after = self._followers.get(scope, {}).get(connection)
        return self._floors.get(connection, {}).get(scope, after)

    def hold(
        self,
        connection: Connection,
        scope: Scope,
        floor: int | None = None,
        *,
        is_new: bool = False,
    ) -> Hold:
        """Keep live updates back until `settle`. What was held until now, whoever did so, is void.

        Args:
            connection: of the socket.
            scope: of the updates.
            floor: the number from which the socket followed it until now.
            is_new: see `Hold`.
        """
        self.follow(connection, scope, HELD)
        self._drop_floor(connection, scope)
        holds = self._holds.get(connection)
        if holds is None:
            holds = self._holds[connection] = Holds(connection.queue_bytes // _HELD_SHARE)
        holds.drop(scope)
        is_read = floor is not None and not is_new
        hold = holds.of[scope] = Hold(floor, is_new=is_new, is_read=is_read)
        return hold

    def begin(self, connection: Connection, scope: Scope, floor: int) -> None:
        """It was read that the socket, which is held, follows the scope from this number on."""
        self._holds[connection].of[scope].begin(floor)

    def is_held(self, connection: Connection, scope: Scope) -> bool:
        return self.find_hold(connection, scope) is not None

    def find_hold(self, connection: Connection, scope: Scope) -> Hold | None:
        """The present one. Whoever waited meanwhile compares: another membership has another."""
        holds = self._holds.get(connection)
        return None if holds is None else holds.of.get(scope)

    def held(self, connection: Connection, scope: Scope) -> list[tuple[int, OutFrame]]:
        """What waits behind the replay, by number."""
        hold = self.find_hold(connection, scope)
        return list(hold.frames) if hold is not None else []

    def settle(
        self,
        connection: Connection,
        scope: Scope,
        upto: int,
        *,
        last: int | None,
        floor: int | None = None,
        mask: Callable[[OutFrame], OutFrame] | None = None,
    ) -> bool:
        """The client has all up to `upto`: send what was held above it and go live.

        Args:
            connection: it holds `scope`.
            scope: of the updates.
            upto: the number up to which the client is whole.
            last: the number that this worker handed out last; None if it does not know.
            floor: the number that the client was told it follows from, where that is below `upto`.
            mask: what was held as this socket may see it.

        Returns:
            False if what was held does not join on (it was too much): read on in the log first.
        """
        hold = self._holds[connection].of[scope]
        pending = [(seq, frame) for seq, frame in hold.frames if seq > upto]
        joins = pending[0][0] == upto + 1 if pending else last is None or last <= upto
        # An end that the client is already beyond is that of an earlier membership.
        ends = hold.left_at is not None and hold.left_at > upto
        if not joins:
            hold.left_at = hold.left_at if ends else None
            return False
        for _, frame in pending:
            connection.send(frame if mask is None else mask(frame))
        self._drop_hold(connection, scope)
        after = upto if floor is None else floor
        if last is not None and last < upto and after < upto:
            # The log was read further than this worker has handed out: it must not come again.
            self._floors.setdefault(connection, {})[scope] = after
            after = upto
        self._followers[scope][connection] = after
        if ends:
            self.unfollow(connection, scope)
        return True

    def unfollow(self, connection: Connection, scope: Scope) -> None:
        followers = self._followers.get(scope)
        if followers is None or followers.pop(connection, None) is None:
            return
        connection.scopes.remove(scope)
        connection.note_told(scope)
        self._drop_hold(connection, scope)
        self._drop_floor(connection, scope)
        self._on_unfollowed(connection, scope)
        if not followers:
            del self._followers[scope]
            self._on_unwatched(scope)

    def deliver(
        self,
        scope: Scope,
        seq: int,
        frame: OutFrame,
        instead: Mapping[Connection, OutFrame] = _NOTHING,
    ) -> None:
        """Send one update to every socket that follows its scope from below `seq`.

        Args:
            scope: of the update.
            seq: of the update.
            frame: the same bytes for all,
            instead: but these.
        """
        for connection, after in self._followers.get(scope, {}).items():
            if seq > after:
                connection.send(instead.get(connection, frame) if instead else frame)
            elif after == HELD:
                self._holds[connection].add(scope, seq, frame)

    def tear(self, scope: Scope) -> None:
        """The next update does not join on to those before: where these are held, the log must tell."""
        for connection, after in self._followers.get(scope, {}).items():
            if after == HELD:
                self._holds[connection].clear(scope)

    def part(self, scope: Scope, seq: int, users: Iterable[UserId]) -> list[Connection]:
        """These users left with update `seq`: stop exactly behind it.

        Returns:
            Their sockets that followed the scope until now.
        """
        parted: list[Connection] = []
        for user_id in users:
            for connection in list(self.of_user(user_id)):
                after = self.followers(scope).get(connection)
                if after == HELD:
                    hold = self._holds[connection].of[scope]
                    if hold.floor is None or hold.floor < seq:
                        hold.left_at = seq
                elif after is not None and after < seq:
                    self.unfollow(connection, scope)
                    parted.append(connection)
        return parted

    def _drop_floor(self, connection: Connection, scope: Scope) -> None:
        floors = self._floors.get(connection)
        if floors is not None:
            floors.pop(scope, None)
            if not floors:
                del self._floors[connection]

    def _drop_hold(self, connection: Connection, scope: Scope) -> None:
        holds = self._holds.get(connection)
        if holds is not None:
            holds.drop(scope)
            if not holds.of:
                del self._holds[connection]


def _remove(
    groups: "dict[UserId, list[Connection]] | dict[SessionId, list[Connection]]",
    key: int,
    connection: Connection,
) -> None:
    index: dict[int, list[Connection]] = groups  # pyright: ignore[reportAssignmentType] - ids are ints
    group = index.get(key, [])
    if connection in group:
        group.remove(connection)
    if not group:
        index.pop(key, None)
