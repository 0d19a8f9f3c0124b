"""Which sockets follow which chats: memberships that begin and end while sockets are open. No I/O.

How nobody hears a chat they are not in, whatever is lost:

* Beginning. `chat_created` in a user's scope names the chat and its `seq`; the user's sockets follow
  from there, but only after the database was asked whether the membership (still) exists. Until
  the answer their live updates are held, so that nothing is missed.
* End. In groups and private chats the update that carries `left` is in the chat's own scope: all
  updates of the scope are handed out in order, so a socket stops exactly behind it; if that update was
  lost on the bus, the later ones wait for it. Sockets that follow from a number above it have
  rejoined and stay.
* In channels leaving is told in user scopes alone. The announcement of `chat_removed` there ends the
  following, on every worker and before it is anybody's turn to hear of it. If it is lost, the removal
  revision of the next update gives it away, and that waits until the memberships were read (`fanout.py`).
* Replays read membership after the rows, and stop at the first page that finds it gone.
* `chat_deleted` ends it for everyone.
* A socket that is being connected reads its chats again until they are the ones it already follows, so
  that a removal between the reading and the following is seen by one of them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import orjson

from app.features.gateway.fanout import Fanout
from app.features.gateway.queries import Following
from app.features.gateway.replay import Range, Replayer
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, ScopeKind, chat_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import HELD, Hold

# Socket and chat -> the number from which its client follows, and what is held for it meanwhile.
Wanted = dict[tuple[Connection, ChatId], tuple[int, Hold]]


class Follower:
    """Applies what updates tell about memberships to the sockets of this worker.

    `on_wanted` is called when there is something for `take_wanted`.
    """

    def __init__(self, fanout: Fanout, replayer: Replayer) -> None:
        self._fanout = fanout
        self._replayer = replayer
        self._wanted: Wanted = {}
        self.on_wanted: Callable[[], None] = _do_nothing

    def apply(self, update: Announcement) -> None:
        """The sockets just got this update; `Fanout` calls it in order."""
        hub = self._fanout.hub
        if update.left:
            for connection in hub.part(update.scope, update.seq, update.left):
                if connection.chat_id == update.scope.id:
                    connection.close(CloseCode.NOT_ALLOWED)
        match _type_of(update):
            case "chat_created" if update.scope.kind is ScopeKind.USER:
                followers = hub.followers(update.scope).items()
                self._begin(update, [it for it, after in followers if after < update.seq])
            case "chat_removed" if update.scope.kind is ScopeKind.USER:
                if update.ended is not None:
                    self._fanout.end_membership(UserId(update.scope.id), *update.ended)
                followers = hub.followers(update.scope).items()
                self._remove(update, [it for it, after in followers if after < update.seq])
            case "chat_deleted":
                self._end(update.scope)
            case _:
                pass

    def apply_held(self, connection: Connection, update: Announcement) -> None:
        """The socket gets this update of its user's scope only now, after it was held back for it."""
        match _type_of(update):
            case "chat_created":
                self._begin(update, [connection])
            case "chat_removed":
                self._remove(update, [connection])
            case "chat_deleted":
                self._fanout.drop(connection, update.scope)
            case _:
                pass

    def note_replayed(self, connection: Connection, update: Announcement) -> None:
        """The socket gets this update of its user's scope from before its `hello`."""
        if _type_of(update) == "chat_created":
            scope = chat_scope(ChatId(_chat_of(update)["id"]))
            if scope not in connection.scopes:
                connection.note_told(scope)

    def take_wanted(self) -> Wanted:
        """Sockets to bring into chats, as soon as it is read which of these memberships (still) exist."""
        wanted, self._wanted = self._wanted, {}
        return wanted

    def put_back(self, wanted: Wanted) -> None:
        """It could not be read."""
        self._wanted = wanted | self._wanted
        self.on_wanted()

    def _begin(self, update: Announcement, connections: Iterable[Connection]) -> None:
        chat = _chat_of(update)
        if "seq" not in chat:
            # It is no more: its tombstone.
            return
        chat_id, seq = ChatId(chat["id"]), cast("int", chat["seq"])
        scope = chat_scope(chat_id)
        for connection in connections:
            # Else it keeps its number, as its client does: a private chat that comes back to the list, or
            # one that they joined again before the first joining was told.
            if connection.chat_id is None and scope not in connection.scopes:
                self._fanout.watch(scope)
                hold = self._fanout.hub.hold(connection, scope, seq, is_new=True)
                self._wanted[connection, chat_id] = seq, hold
                self.on_wanted()

    def _remove(self, update: Announcement, connections: Iterable[Connection]) -> None:
        """These sockets have just been told. Their clients forget the chat, unless they are beyond."""
        data = _data_of(update)
        if data["reason"] == "deleted":
            # A private chat that somebody took off their list: the next message brings it back.
            return
        scope = chat_scope(ChatId(data["chat_id"]))
        for connection in connections:
            follows = scope in connection.scopes
            if follows and self._fanout.sent(connection, scope) <= data["seq"]:
                self._fanout.drop(connection, scope)

    def _end(self, scope: Scope) -> None:
        """The chat is gone. Who is held gets that very update later; nothing comes behind it."""
        for connection, after in list(self._fanout.hub.followers(scope).items()):
            if after != HELD:
                self._fanout.drop(connection, scope)

    def follow(self, wanted: Wanted, found: Mapping[tuple[UserId, ChatId], Following]) -> None:
        """What was read for `take_wanted`."""
        for (connection, chat_id), (seq, hold) in wanted.items():
            scope = chat_scope(chat_id)
            if self._fanout.hub.find_hold(connection, scope) is not hold:
                continue
            following = found.get((connection.user_id, chat_id))
            if following is None or following.joined_seq > seq:
                # It has ended; if they came in again, that is told by another update.
                self._fanout.expel(connection, scope)
                continue
            self._fanout.admit(connection, following, seq)
            # `chat_created` tells the chat as it is when it is read: that of an earlier joining may have
            # told of this one. Then the client keeps the number that it was told first.
            after = following.joined_seq if scope in (connection.told or ()) else seq
            if after < following.seq or not self._replayer.settle(connection, scope, after):
                span = Range(after, following.seq, hold)
                self._replayer.start(connection, {scope: span})


def _type_of(update: Announcement) -> str:
    """Frames begin with their type: `{"type":"...",`."""
    frame = update.frame or b""
    return frame[9 : frame.index(b'"', 9)].decode() if frame else ""


def _data_of(update: Announcement) -> dict[str, Any]:
    return cast("dict[str, Any]", orjson.loads(update.frame or b"{}")["data"])


def _chat_of(update: Announcement) -> dict[str, Any]:
    """The Chat inside the update's `data`, or the `data` itself where that is the Chat."""
    data = _data_of(update)
    inner = data.get("chat")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else data


def _do_nothing() -> None:
    """Until somebody reads."""
