"""The loops of one worker that read the database for what is decided without I/O, and bring it what they read.

`LogReader` reads for all sockets at once: gaps, safety checks, new memberships. `CourseLeader` reads for
sockets that are being brought up to date: these reads are bounded in how many run at once, the rest wait in
order, and those who wait are taken along by a read that has room for them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from app.features.gateway.batch import Batch
from app.features.gateway.course import (
    AwaitRoom,
    Course,
    Followings,
    Need,
    Read,
    ReadFollowings,
    ReadPages,
    ReadStanding,
    go_on,
)
from app.features.gateway.fanout import Fanout, Filled, Gaps
from app.features.gateway.following import Follower, Wanted
from app.features.gateway.logbook import Pages, read_pages
from app.features.gateway.queries import (
    Following,
    Standing,
    read_followings,
    read_standings,
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
# Whoever waits shares the next read; with more at once fewer do.
CONCURRENT_READS = 2
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


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    """What a course needs, and where it waits for the answer; None: the socket has closed."""

    connection: Connection
    need: Read
    answer: "asyncio.Future[object]"

    def give(self, answer: object) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


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
        self._turns: Turns[_Asked] = Turns(CONCURRENT_READS)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, connection: Connection, course: Course) -> None:
        """Lead it in the background."""
        self._run(self.lead(connection, course))

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

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _meet(self, connection: Connection, need: Need) -> object:
        if isinstance(need, AwaitRoom):
            # Without a turn: a slow reader is waited for by itself alone.
            return await connection.wait_for_room()
        asked = _Asked(connection, need, asyncio.get_running_loop().create_future())
        place = self._turns.ask(
            connection, asked, lambda: self._run(self._read(asked)), lambda: asked.give(None)
        )
        try:
            return await asked.answer
        except asyncio.CancelledError:
            self._turns.withdraw(place)
            raise

    async def _read(self, first: _Asked) -> None:
        """It is its turn."""
        asked = [first]
        try:
            if _has_closed(first):
                return
            batch = Batch(first.need)
            others = self._turns.take_along(lambda it: _has_closed(it) or batch.accepts(it.need))
            asked += [it for it in others if not it.answer.done()]
            await self._answer(batch, asked)
        finally:
            self._turns.end()
            for it in asked:
                # Cancelled: the sockets were closed before.
                it.give(None)

    async def _answer(self, batch: Batch, asked: Sequence[_Asked]) -> None:
        async def work(tx: Tx) -> tuple[list[object], str]:
            answers = await meet(tx, self._services, self._kinds, batch)
            return answers, await load_epoch(tx)

        try:
            answers, epoch = await self._services.db.read(work)
        except Exception as error:  # noqa: BLE001 - whoever asked hears of it
            if len(asked) == 1 or isinstance(error, Problem):
                for it in asked:
                    it.fail(error)
                return
            # What cannot be read for one must not close the sockets of all others.
            for it in asked:
                await self._answer(Batch(it.need), [it])
            return
        is_of_epoch = self._is_of_epoch(epoch)
        for it, answer in zip(asked, answers, strict=True):
            if not is_of_epoch:
                # Nothing of another log is sent to a socket that was told of this one.
                it.connection.close(CloseCode.SERVICE_RESTART)
            it.give(answer)
            # One after the other: a page for each of them at once would keep all other work waiting.
            await asyncio.sleep(0)


def _has_closed(asked: _Asked) -> bool:
    """Then it needs nothing any more."""
    if asked.connection.close_code is None:
        return False
    asked.give(None)
    return True


async def meet(tx: Tx, services: Services, kinds: UpdateKinds, batch: Batch) -> list[object]:
    """The answers to the needs of a batch, in their order."""
    standings = await read_standings(tx, batch.users)
    # Before the membership: its end is then above these numbers, and is heard.
    seqs = await read_seqs(tx, [user_scope(user_id) for user_id in batch.users_of_a_chat])
    pages = Pages({}, is_cut=False)
    if batch.ranges:
        pages = await read_pages(tx, services, kinds, batch.ranges, limit=batch.limit)
    followings = await read_followings(tx, batch.pairs)

    def find(need: Read) -> object:
        match need:
            case ReadStanding(user_id, chat_id):
                if chat_id is None:
                    return standings[user_id]
                return Standing(seqs[user_scope(user_id)], _chats_of(followings, user_id, chat_id))
            case ReadFollowings():
                return followings
            case ReadPages():
                return batch.cut_out(pages, need), followings

    return [find(need) for need in batch.needs]


def _chats_of(followings: Followings, user_id: UserId, chat_id: ChatId) -> dict[ChatId, Following]:
    following = followings.get((user_id, chat_id))
    return {} if following is None else {chat_id: following}
