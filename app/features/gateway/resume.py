"""`resume`: a client that was away names the scopes it is behind in, and gets what it missed."""

from collections.abc import Mapping

from app.features.gateway.connect import Greeter
from app.features.gateway.fanout import Fanout
from app.features.gateway.queries import read_followings
from app.features.gateway.replay import Range, Replayer, render_reset
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId
from app.kernel.scopes import Scope, ScopeKind, parse_wire_scope
from app.transport.websocket.connection import Connection
from app.transport.websocket.frames import RequestId
from app.transport.websocket.hub import SILENT
from app.transport.websocket.outgoing import render_frame


class Resumer:
    """Holds the named scopes at once, replays them in order, then says `resumed`."""

    def __init__(
        self, services: Services, fanout: Fanout, replayer: Replayer, greeter: Greeter
    ) -> None:
        self._services = services
        self._fanout = fanout
        self._replayer = replayer
        self._greeter = greeter

    async def resume(
        self,
        connection: Connection,
        *,
        epoch: str,
        state: Mapping[str, int],
        request_id: RequestId | None,
    ) -> None:
        """Replay each named scope up to the number that `hello` gave for it.

        Raises:
            DatabaseUnavailable: the socket must be closed: some scopes are held.
        """
        ranges, refused = self._hold(connection, state, is_same_epoch=epoch == self._greeter.epoch)
        late = await self._find_late(connection, ranges)
        for scope in late:
            span = ranges[scope]
            refused[scope.wire] = span.upto
            span.after = span.upto
        for wire, seq in refused.items():
            connection.send(render_reset(wire, seq))
        await self._replayer.replay(connection, ranges)
        reached = {scope.wire: span.floor for scope, span in ranges.items()}
        connection.send(render_frame("resumed", {"state": reached}, request_id=request_id))

    def _hold(
        self, connection: Connection, state: Mapping[str, int], *, is_same_epoch: bool
    ) -> tuple[dict[Scope, Range], dict[str, int]]:
        """Ranges to replay, and (by wire name) what must be read again over HTTP."""
        ranges: dict[Scope, Range] = {}
        refused: dict[str, int] = {}
        for wire, after in state.items():
            scope = parse_wire_scope(wire, connection.user_id)
            if scope is not None and self._is_being_brought_up(connection, scope):
                continue
            span = None if scope is None else self._hold_scope(connection, scope)
            if scope is None or span is None:
                # Not mine and never heard of are the same.
                refused[wire] = 0
                continue
            ranges[scope] = span
            if is_same_epoch and after <= span.upto:
                span.after = after
            else:
                refused[wire] = span.upto
        return ranges, refused

    def _is_being_brought_up(self, connection: Connection, scope: Scope) -> bool:
        """A chat that was joined a moment ago: its replay is under way already."""
        is_held = self._fanout.hub.is_held(connection, scope)
        return is_held and not self._greeter.is_kept(connection, scope)

    def _hold_scope(self, connection: Connection, scope: Scope) -> Range | None:
        """Nothing to replay yet; None: the socket does not follow the scope."""
        floor = self._greeter.take(connection, scope)
        if floor is not None:
            return Range(floor, floor, floor)
        floor = self._fanout.hub.followers(scope).get(connection)
        if floor is None or floor == SILENT:
            return None
        live = max(floor, self._fanout.last(scope) or 0)
        self._fanout.hub.hold(connection, scope)
        return Range(floor, floor, live)

    async def _find_late(
        self, connection: Connection, ranges: Mapping[Scope, Range]
    ) -> list[Scope]:
        """Chats of which the client claims numbers from before its user's joining."""
        pairs = [
            (connection.user_id, ChatId(scope.id))
            for scope in ranges
            if scope.kind is ScopeKind.CHAT
        ]
        if not pairs:
            return []

        async def work(tx: Tx) -> list[Scope]:
            found = await read_followings(tx, pairs)
            return [
                scope
                for scope, span in ranges.items()
                if (it := found.get((connection.user_id, ChatId(scope.id)))) is not None
                and scope.kind is ScopeKind.CHAT
                and span.after < it.joined_seq
            ]

        async with self._replayer.slots:
            return await self._services.db.read(work)
