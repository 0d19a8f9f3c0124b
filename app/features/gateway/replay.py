"""Replays: what a socket missed, from the log, in order, before what is live.

Reads are bounded in how many run at once, over all sockets, and the rest wait in order; between
two pages the client must have taken most of the first, so that a replay never fills its queue.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from app.features.gateway.fanout import Fanout
from app.features.gateway.logbook import Pages, read_pages
from app.features.gateway.queries import Following, read_followings
from app.features.updates.read import UpdateKinds
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import Scope, ScopeKind
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.outgoing import OutFrame, render_frame

CONCURRENT_READS = 6
_SCOPES_A_PAGE = 100
_ROWS_A_PAGE = 500
# Above every number that a scope can have.
_TO_THE_END = 2**53

_log = logging.getLogger(__name__)

Followings = Mapping[tuple[UserId, ChatId], Following]


@dataclass(slots=True)
class Range:
    """Replay what is above `after` up to `upto`; up to `live` was sent already, as it happened.

    `floor`: the number that the client was told it follows from.
    """

    after: int
    upto: int
    live: int
    floor: int = field(init=False)

    def __post_init__(self) -> None:
        self.floor = self.upto


class Replayer:
    """`on_released` sees updates that a socket got late: held back, or read behind its replay."""

    def __init__(self, services: Services, kinds: UpdateKinds, fanout: Fanout) -> None:
        self._services = services
        self._kinds = kinds
        self._fanout = fanout
        self.on_released: Callable[[Connection, Announcement], None] = _ignore
        self.slots = asyncio.Semaphore(CONCURRENT_READS)
        self._tasks: set[asyncio.Task[None]] = set()

    def settle(
        self, connection: Connection, scope: Scope, upto: int, *, floor: int | None = None
    ) -> bool:
        """Go live behind `upto`; False if the log must be read on first."""
        hub = self._fanout.hub
        held = hub.held(connection, scope)
        last = self._fanout.last(scope)
        if not hub.settle(connection, scope, upto, last=last, floor=floor):
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
        task = asyncio.create_task(self._run(connection, ranges))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def replay(self, connection: Connection, ranges: Mapping[Scope, Range]) -> None:
        """Send what is missing, scope by scope, each then live; every scope is held.

        Raises:
            DatabaseUnavailable: some scopes are still held; the socket must be closed.
        """
        # The user's own scope first: it tells of the chats.
        todo = dict(sorted(ranges.items(), key=lambda item: -item[0].kind))
        while True:
            self._settle_all(connection, todo)
            chunk = _first_of_one_kind(todo)
            if not chunk or connection.close_code is not None:
                return
            pages, followings = await self._read(connection, chunk)
            for scope, updates in pages.updates.items():
                following = followings.get((connection.user_id, ChatId(scope.id)))
                if scope.kind is ScopeKind.CHAT and following is None:
                    # The end of the membership is on its way to the socket.
                    self._fanout.drop(connection, scope)
                elif following is not None and following.joined_seq > chunk[scope].after:
                    self._reset(connection, scope, chunk[scope])
                else:
                    self._send(connection, scope, chunk[scope], updates)
                await connection.wait_for_room()

    async def _run(self, connection: Connection, ranges: Mapping[Scope, Range]) -> None:
        try:
            await self.replay(connection, ranges)
        except Problem:
            connection.close(CloseCode.SERVICE_RESTART)
        except Exception:  # noqa: BLE001 - an edge: nobody awaits this task
            _log.exception("replay_failed")
            connection.close(CloseCode.SERVICE_RESTART)

    def _settle_all(self, connection: Connection, todo: dict[Scope, Range]) -> None:
        for scope, span in list(todo.items()):
            if not self._fanout.hub.is_held(connection, scope):
                del todo[scope]
            elif span.after >= span.upto:
                span.after = max(span.after, span.live)
                if self.settle(connection, scope, span.after, floor=span.floor):
                    del todo[scope]
                else:
                    span.upto = _TO_THE_END

    async def _read(
        self, connection: Connection, chunk: Mapping[Scope, Range]
    ) -> tuple[Pages, Followings]:
        ranges = {scope: (span.after, span.upto) for scope, span in chunk.items()}
        pairs = [
            (connection.user_id, ChatId(scope.id))
            for scope in chunk
            if scope.kind is ScopeKind.CHAT
        ]

        async def work(tx: Tx) -> tuple[Pages, Followings]:
            pages = await read_pages(tx, self._services, self._kinds, ranges, limit=_ROWS_A_PAGE)
            # Behind the rows: whoever is in the chat now may see all of them.
            return pages, await read_followings(tx, pairs)

        async with self.slots:
            return await self._services.db.read(work)

    def _send(
        self, connection: Connection, scope: Scope, span: Range, updates: list[Announcement]
    ) -> None:
        if not updates and span.upto == _TO_THE_END:
            span.upto = span.after
            return
        if not updates or updates[0].seq != span.after + 1:
            # Pruned: the client lags further behind than the log reaches.
            self._reset(connection, scope, span)
            return
        for update in updates:
            if not self._fanout.hub.is_held(connection, scope):
                return
            connection.send(self._fanout.show(connection, update))
            if span.upto == _TO_THE_END:
                self.on_released(connection, update)
            span.after = update.seq
        if span.upto == _TO_THE_END:
            span.live = span.after
            span.upto = span.after

    def _reset(self, connection: Connection, scope: Scope, span: Range) -> None:
        seq = span.after if span.upto == _TO_THE_END else span.upto
        connection.send(render_reset(scope.wire, seq))
        span.after = span.upto = seq


def _first_of_one_kind(todo: Mapping[Scope, Range]) -> dict[Scope, Range]:
    first = next(iter(todo), None)
    same = (item for item in todo.items() if first is not None and item[0].kind is first.kind)
    return dict(islice(same, _SCOPES_A_PAGE))


def render_reset(wire_scope: str, seq: int) -> OutFrame:
    """Read the scope again over HTTP; 0: there is none for you."""
    return render_frame("scope_reset", {"scope": wire_scope, "seq": seq})


def _ignore(connection: Connection, update: Announcement) -> None:
    """Until somebody listens."""
