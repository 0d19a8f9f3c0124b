"""Who may open a socket, and how it comes to follow its scopes: subscribe first, read the log second.

The socket is known to the hub, and everything live is held back for it, before the numbers of
`hello` are read. So whatever is committed after them is delivered, and whatever was before them
is not.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import urlsplit

from app.features.chats.access import find_membership
from app.features.gateway.fanout import Fanout
from app.features.gateway.queries import Following, Standing, read_followings, read_standing
from app.features.gateway.replay import Range, Replayer
from app.features.sessions.authenticate import CurrentSession, authenticate_socket
from app.features.updates.log import read_seqs
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import MAX_ID, ChatId, UserId
from app.kernel.problems import Kind, Problem
from app.kernel.scopes import Scope, chat_scope, user_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import SILENT, Hub
from app.transport.websocket.outgoing import render_frame

_SCOPES_A_HELLO = 1000
_GRACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Admission:
    """`chat_id`: the one chat of the socket."""

    session: CurrentSession
    chat_id: ChatId | None


def is_origin_allowed(origin: str | None, host: str | None, allowed: Iterable[str]) -> bool:
    """Pages of our own host, those that are listed, and clients that are no browser."""
    if origin is None or origin in allowed:
        return True
    parts = urlsplit(origin)
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc == host


async def admit(
    services: Services, hub: Hub, *, token: str, chat_text: str | None
) -> Admission | CloseCode:
    """Decide on a socket before it costs anything; a code refuses it."""
    chat_id = None if chat_text is None else _parse_chat_id(chat_text)
    try:
        # A ticket of the chat's must not be used up where the path names none.
        session = await authenticate_socket(services, token, chat_id=chat_id)
        if chat_text is not None and (
            chat_id is None or not await _is_member(services, session.user_id, chat_id)
        ):
            return CloseCode.NOT_ALLOWED
    except Problem as problem:
        if problem.kind is Kind.UNAVAILABLE:
            return CloseCode.SERVICE_RESTART
        return CloseCode.NOT_SIGNED_IN
    if len(hub.of_user(session.user_id)) >= services.settings.websocket.max_sockets:
        return CloseCode.TOO_MANY
    return Admission(session, chat_id)


@dataclass(slots=True)
class _Grace:
    """Between `hello` and what the client makes of it. Numbers are those of `hello`.

    `names`: what the client has asked to be resumed so far; of these `named` wait for their replay.
    """

    waiting: dict[Scope, int] = field(default_factory=dict[Scope, int])
    named: dict[Scope, int] = field(default_factory=dict[Scope, int])
    names: set[str] = field(default_factory=set[str])


class Greeter:
    """Brings new sockets up: scopes, `hello`, and then what came meanwhile.

    A client that was away answers `hello` with `resume`. What is live is held back until that has
    had the time to arrive, or any other frame came, so that nothing overtakes the replay.
    """

    def __init__(self, services: Services, fanout: Fanout, replayer: Replayer, epoch: str) -> None:
        self._services = services
        self._fanout = fanout
        self._replayer = replayer
        self.epoch = epoch
        self._graces: dict[Connection, _Grace] = {}

    def keep(self, connection: Connection, names: Iterable[str]) -> None:
        """The client will have these scopes resumed: hold them until it is their turn."""
        grace = self._graces.get(connection)
        if grace is None:
            return
        grace.names.update(names)
        for scope in [scope for scope in grace.waiting if scope.wire in grace.names]:
            grace.named[scope] = grace.waiting.pop(scope)

    def is_kept(self, connection: Connection, scope: Scope) -> bool:
        """Whether the scope is held for a `resume` that was announced."""
        grace = self._graces.get(connection)
        return grace is not None and scope in grace.named

    def abandon(self, connection: Connection) -> None:
        """The `resume` was refused as a whole: nothing waits for it."""
        grace = self._graces.get(connection)
        if grace is not None:
            grace.waiting |= grace.named
            grace.named = {}
            grace.names.clear()
            self.release(connection)

    def take(self, connection: Connection, scope: Scope) -> int | None:
        """The number that `hello` gave for a scope that is still held; it is now the caller's to settle."""
        grace = self._graces.get(connection)
        return None if grace is None else grace.named.pop(scope, None)

    def release(self, connection: Connection) -> None:
        """Everything that waits for no replay goes live."""
        grace = self._graces.get(connection)
        if grace is None:
            return
        waiting, grace.waiting = grace.waiting, {}
        behind = {
            scope: Range(seq, seq, seq)
            for scope, seq in waiting.items()
            if self._fanout.hub.is_held(connection, scope)
            and not self._replayer.settle(connection, scope, seq)
        }
        if behind:
            self._replayer.start(connection, behind)

    def forget(self, connection: Connection) -> None:
        """The socket has closed."""
        self._graces.pop(connection, None)

    async def greet(self, connection: Connection) -> None:
        """Follow everything, say `hello`, go live.

        Raises:
            DatabaseUnavailable: the socket must be closed.
        """
        grace = self._graces[connection] = _Grace()
        own = user_scope(connection.user_id)
        self._fanout.watch(own)
        if connection.chat_id is None:
            self._fanout.hub.hold(connection, own)
        else:
            # It hears nothing of the user's scope, but must be found when a membership ends.
            self._fanout.hub.follow(connection, own, SILENT)
        standing = await self._settle_on_chats(connection)
        if connection.close_code is not None:
            return
        self._begin(connection, standing)
        state = {chat_scope(chat_id): it.seq for chat_id, it in standing.chats.items()}
        if connection.chat_id is None:
            state = {own: standing.user_seq, **state}
        await self._say_hello(connection, state)
        connection.is_ready = True
        grace.waiting = state
        self.keep(connection, ())
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._end_grace, connection)

    def _end_grace(self, connection: Connection) -> None:
        self.release(connection)
        grace = self._graces.get(connection)
        if grace is not None and not grace.named:
            del self._graces[connection]

    async def _settle_on_chats(self, connection: Connection) -> Standing:
        """Read the chats until they are the ones that are followed: none was left or joined in between."""
        while True:
            async with self._replayer.slots:
                standing = await self._read(connection)
            if connection.close_code is not None:
                return standing
            wanted = {chat_scope(chat_id) for chat_id in standing.chats}
            followed = set(connection.scopes) - {user_scope(connection.user_id)}
            for scope in followed - wanted:
                self._fanout.hub.unfollow(connection, scope)
            for scope in wanted - followed:
                self._fanout.watch(scope)
                self._fanout.hub.hold(connection, scope)
            if connection.chat_id is not None and not wanted:
                connection.close(CloseCode.NOT_ALLOWED)
            if wanted <= followed:
                return standing

    async def _read(self, connection: Connection) -> Standing:
        user_id, chat_id = connection.user_id, connection.chat_id

        async def work(tx: Tx) -> Standing:
            if chat_id is None:
                return await read_standing(tx, user_id)
            # Before the membership: its end is then above this number, and is heard.
            seqs = await read_seqs(tx, [user_scope(user_id)])
            found: Iterable[Following] = (await read_followings(tx, [(user_id, chat_id)])).values()
            chats = {following.chat_id: following for following in found}
            return Standing(seqs[user_scope(user_id)], chats)

        return await self._services.db.read(work)

    def _begin(self, connection: Connection, standing: Standing) -> None:
        self._fanout.begin(user_scope(connection.user_id), standing.user_seq)
        for chat_id, following in standing.chats.items():
            scope = chat_scope(chat_id)
            self._fanout.begin(scope, following.seq)
            self._fanout.hide_before(connection, scope, following.first_visible_id)

    async def _say_hello(self, connection: Connection, state: dict[Scope, int]) -> None:
        remaining = iter(state.items())
        sent = 0
        while True:
            part = {scope.wire: seq for scope, seq in islice(remaining, _SCOPES_A_HELLO)}
            sent += len(part)
            data: dict[str, object] = {
                "user_id": connection.user_id,
                "session_id": connection.session_id,
                "server_time": format_time(self._services.clock.now()),
                "heartbeat_seconds": self._services.settings.websocket.heartbeat_seconds,
                "epoch": self.epoch,
                "state": part,
            }
            if sent < len(state):
                data["more"] = True
            connection.send(render_frame("hello", data))
            if sent >= len(state):
                return
            await connection.wait_for_room()


async def _is_member(services: Services, user_id: UserId, chat_id: ChatId) -> bool:
    async def work(tx: Tx) -> bool:
        return await find_membership(tx, user_id, chat_id) is not None

    return await services.db.read(work)


def _parse_chat_id(text: str) -> ChatId | None:
    if not (text.isascii() and text.isdigit()) or text.startswith("0"):
        return None
    if len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        return None
    return ChatId(int(text))
