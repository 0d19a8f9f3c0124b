"""The loops of one worker that read the database for what is decided without I/O, and bring it what they read.

`LogReader` reads for all sockets at once: gaps, safety checks, new memberships. `CourseLeader` reads for
one socket that is being brought up to date; over all sockets these reads are bounded in how many run at
once, and the rest wait in order.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from app.features.gateway.course import (
    AwaitRoom,
    Course,
    Need,
    Read,
    ReadFollowings,
    ReadPages,
    ReadStanding,
    go_on,
)
from app.features.gateway.fanout import Fanout, Filled, Gaps
from app.features.gateway.following import Follower, Wanted
from app.features.gateway.logbook import read_pages
from app.features.gateway.queries import (
    Following,
    Standing,
    read_followings,
    read_standing,
)
from app.features.gateway.turns import Turns
from app.features.updates.epoch import load_epoch
from app.features.updates.log import Head, read_heads, read_seqs
from app.features.updates.read import UpdateKinds
from app.infra.database.errors import DatabaseUnavailable
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import Scope, user_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection

SAFETY_SECONDS = 2.0
CONCURRENT_READS = 6
_RETRY_SECONDS = 0.5
_ROWS_A_FILL = 1000

_log = logging.getLogger(__name__)


class LogReader:
    """Closes gaps, compares feeds with the log, and looks memberships up; many with one read."""

    def __init__(
        self, services: Services, kinds: UpdateKinds, fanout: Fanout, follower: Follower
    ) -> None:
        self._services = services
        self._kinds = kinds
        self._fanout = fanout
        self._follower = follower
        self._has_gaps = asyncio.Event()
        self._is_wanted = asyncio.Event()
        self._check_now = asyncio.Event()
        fanout.on_gaps = self._has_gaps.set
        follower.on_wanted = self._is_wanted.set

    def on_bus_reconnect(self) -> None:
        """Publishes may have been lost: compare with the log at once."""
        self._check_now.set()

    async def fill_forever(self) -> None:
        """Close gaps from the log."""
        while True:
            await self._has_gaps.wait()
            self._has_gaps.clear()
            while (gaps := self._fanout.find_gaps()) is not None:
                await self._fill_stubbornly(gaps)

    async def check_forever(self) -> None:
        """Compare all feeds with the log every few seconds, and at once when the bus came back."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAFETY_SECONDS):
                    await self._check_now.wait()
            self._check_now.clear()
            try:
                await self._check()
            except Problem:
                continue
            except Exception:  # noqa: BLE001 - the check must live as long as the server
                _log.exception("safety_check_failed")

    async def follow_forever(self) -> None:
        """Bring sockets into the chats they are wanted in."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            wanted = self._follower.take_wanted()
            try:
                await self._follow(wanted)
            except Problem:
                self._follower.put_back(wanted)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - one bad row must not end it for all
                _log.exception("follow_failed")
                for connection, _ in wanted:
                    # Held for ever it would miss everything without a word.
                    connection.close(CloseCode.SERVICE_RESTART)

    async def _fill_stubbornly(self, gaps: Gaps) -> None:
        """A scope that cannot be read must not delay the others."""
        try:
            await self._fill(gaps)
        except DatabaseUnavailable:
            # The feeds ask again.
            self._fanout.skip(gaps.ranges)
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - one bad row must not end the delivery of all others
            if len(gaps.ranges) > 1:
                for scope, span in gaps.ranges.items():
                    await self._fill_stubbornly(Gaps({scope: span}))
                return
            for scope, (_, upto) in gaps.ranges.items():
                if self._fanout.stumble(scope, upto):
                    place = {"scope_kind": scope.kind.name, "scope_id": scope.id}
                    _log.exception("fill_failed", extra=place)

    async def _fill(self, gaps: Gaps) -> None:
        async def work(tx: Tx) -> Filled:
            pages = await read_pages(
                tx, self._services, self._kinds, gaps.ranges, limit=_ROWS_A_FILL
            )
            # Behind the rows, so that none of them is of a later revision.
            heads = await read_heads(tx, gaps.chats)
            suspects = self._fanout.find_suspects(gaps, pages, heads)
            return Filled(pages, heads, suspects, await read_followings(tx, suspects))

        self._fanout.fill(gaps, await self._services.db.read(work))

    async def _check(self) -> None:
        scopes = list(self._fanout.watched)
        if not scopes:
            return

        async def work(tx: Tx) -> dict[Scope, Head]:
            return await read_heads(tx, scopes)

        self._fanout.stand(await self._services.db.read(work))

    async def _follow(self, wanted: Wanted) -> None:
        pairs = [(connection.user_id, chat_id) for connection, chat_id in wanted]

        async def work(tx: Tx) -> dict[tuple[UserId, ChatId], Following]:
            return await read_followings(tx, pairs)

        self._follower.follow(wanted, await self._services.db.read(work))


class CourseLeader:
    """Leads sockets through courses, and meets the needs of these.

    `is_of_epoch` is asked, behind each read, whether the log is still the one that this worker knows.
    """

    def __init__(
        self, services: Services, kinds: UpdateKinds, is_of_epoch: Callable[[str], bool]
    ) -> None:
        self._services = services
        self._kinds = kinds
        self._is_of_epoch = is_of_epoch
        self._turns = Turns(CONCURRENT_READS)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, connection: Connection, course: Course) -> None:
        """Lead it in the background."""
        task = asyncio.create_task(self.lead(connection, course))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def lead(self, connection: Connection, course: Course) -> None:
        """To the end of the course, or of the socket, whichever comes first."""
        try:
            need = go_on(course)
            while need is not None:
                answer = await self._meet(connection, need)
                if connection.close_code is not None:
                    return
                need = go_on(course, answer)
        except Problem:
            # Some scopes are still held, and only a new socket can bring them up.
            connection.close(CloseCode.SERVICE_RESTART)
        except Exception:  # noqa: BLE001 - an edge: nobody awaits the tasks of this
            _log.exception("catch_up_failed")
            connection.close(CloseCode.SERVICE_RESTART)
        finally:
            course.close()

    def forget(self, connection: Connection) -> None:
        """It has closed, and no other socket waits for its turn."""
        self._turns.leave(connection)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _meet(self, connection: Connection, need: Need) -> object:
        if isinstance(need, AwaitRoom):
            # Without a turn: a slow reader is waited for by itself alone.
            return await connection.wait_for_room()
        if not await self._take_turn(connection):
            return None
        try:
            if connection.close_code is not None:
                return None
            return await self._read(connection, need)
        finally:
            self._turns.end()

    async def _read(self, connection: Connection, need: Read) -> object:
        async def work(tx: Tx) -> tuple[object, str]:
            answer = await meet(tx, self._services, self._kinds, need)
            return answer, await load_epoch(tx)

        answer, epoch = await self._services.db.read(work)
        if not self._is_of_epoch(epoch):
            # Nothing of another log is sent to a socket that was told of this one.
            connection.close(CloseCode.SERVICE_RESTART)
        return answer

    async def _take_turn(self, connection: Connection) -> bool:
        """False: the socket has closed before it was its turn."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        has_turn = False

        def begin() -> None:
            nonlocal has_turn
            has_turn = True
            give_up()

        def give_up() -> None:
            if not answer.done():
                answer.set_result(None)

        place = self._turns.ask(connection, begin, give_up)
        try:
            await answer
        except asyncio.CancelledError:
            self._turns.withdraw(place)
            if has_turn:
                self._turns.end()
            raise
        return has_turn


async def meet(tx: Tx, services: Services, kinds: UpdateKinds, need: Read) -> object:
    """The answer to a need."""
    match need:
        case ReadStanding(user_id, chat_id):
            if chat_id is None:
                return await read_standing(tx, user_id)
            return await _read_standing_in(tx, user_id, chat_id)
        case ReadFollowings():
            return await read_followings(tx, need.pairs)
        case ReadPages(ranges, limit, followings):
            pages = await read_pages(tx, services, kinds, ranges, limit=limit)
            return pages, await read_followings(tx, followings.pairs)


async def _read_standing_in(tx: Tx, user_id: UserId, chat_id: ChatId) -> Standing:
    # Before the membership: its end is then above this number, and is heard.
    seqs = await read_seqs(tx, [user_scope(user_id)])
    found: Iterable[Following] = (await read_followings(tx, [(user_id, chat_id)])).values()
    chats = {following.chat_id: following for following in found}
    return Standing(seqs[user_scope(user_id)], chats)
