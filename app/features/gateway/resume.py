"""`resume`: a client that was away names the scopes it is behind in, and gets what it missed."""

from collections.abc import Mapping

from app.features.gateway.fanout import Fanout
from app.features.gateway.queries import read_followings
from app.features.gateway.replay import Range, Replayer, render_reset
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId
from app.kernel.scopes import Scope, ScopeKind, parse_wire_scope
from app.transport.websocket.connection import Connection
from app.transport.websocket.frames import RequestId
from app.transport.websocket.hub import HELD, SILENT
from app.transport.websocket.outgoing import render_frame


class Resumer:
    """Holds the named scopes at once, replays them in order, then says `resumed`."""

    def __init__(self, services: Services, fanout: Fanout, replayer: Replayer, epoch: str) -> None:
        self._services = services
        self._fanout = fanout
        self._replayer = replayer
        self.epoch = epoch

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
        ranges, refused = self._hold(connection, state, is_same_epoch=epoch == self.epoch)
        late = await self._find_late(connection, ranges)
        for scope in late:
            span = ranges[scope]
            refused[scope.wire] = span.upto
            span.after = span.upto
        for wire, seq in refused.items():
            connection.send(render_reset(wire, seq))
        await self._replayer.replay(connection, ranges)
        reached = {scope.wire: span.upto for scope, span in ranges.items()}
        connection.send(render_frame("resumed", {"state": reached}, request_id=request_id))

    def _hold(
        self, connection: Connection, state: Mapping[str, int], *, is_same_epoch: bool
    ) -> tuple[dict[Scope, Range], dict[str, int]]:
        """Ranges to replay, and (by wire name) what must be read again over HTTP."""
        ranges: dict[Scope, Range] = {}
        refused: dict[str, int] = {}
        for wire, after in state.items():
            scope = parse_wire_scope(wire, connection.user_id)
            floor = None if scope is None else self._fanout.hub.followers(scope).get(connection)
            if scope is None or floor is None or floor in {HELD, SILENT}:
                # Not mine and never heard of are the same. One that is being replayed stays so.
                if floor != HELD:
                    refused[wire] = 0
                continue
            if not is_same_epoch or after > floor:
                refused[wire] = floor
                continue
            live = max(floor, self._fanout.last(scope) or 0)
            self._fanout.hub.hold(connection, scope)
            ranges[scope] = Range(after, floor, live)
        return ranges, refused

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
