"""Group commit: hot writes that wait at the same moment share one transaction, each with its own outcome.

While a group is being committed the next one gathers, so that the group grows with the load and a
lone write waits for nobody. An item whose scope is locked by somebody else (BUSY) waits for it alone, with
the connection's lock timeout and in one of a few places, and so delays only itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from app.infra.database.tx import Tx
from app.kernel.problems import Problem

MAX_GROUP = 64
# A lone item waits in front of all others for so long, and beside them from then on.
_MOMENT_SECONDS = 0.05
Item = TypeVar("Item")
ItemContra = TypeVar("ItemContra", contravariant=True)
Result = TypeVar("Result")
ResultCo = TypeVar("ResultCo", covariant=True)
T = TypeVar("T")


class Busy:
    """The outcome of an item whose scope was locked: nothing was done for it."""


BUSY: Final = Busy()


class Group(Protocol[ItemContra, ResultCo]):
    """Handles 1 to `max_group` items in the caller's transaction: one outcome an item, in their order.

    A Problem refuses that item alone; BUSY asks for a run in a group of one that may wait.
    """

    async def __call__(
        self, tx: Tx, items: Sequence[ItemContra], /, *, may_wait: bool
    ) -> "Sequence[ResultCo | Problem | Busy]":
        """Run the group. `may_wait`: it is one item, which waits for its lock and may not answer BUSY."""
        ...


class Write(Protocol):
    """`Database.write`."""

    def __call__(self, work: Callable[[Tx], Awaitable[T]], /) -> Coroutine[Any, Any, T]:
        """Run `work` and commit."""
        ...


class GroupCommitter(Generic[Item, Result]):
    """The queue and the one running group of one kind of write, on one worker."""

    def __init__(
        self,
        write: Write,
        work: Group[Item, Result],
        *,
        places_to_wait: asyncio.Semaphore,
        max_group: int = MAX_GROUP,
    ) -> None:
        """`places_to_wait`: for transactions that wait for a lock; with all of them the pool is not used up."""
        self._write = write
        self._work = work
        self._max_group = max_group
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()
        self._places_to_wait = places_to_wait

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Queue `item`; the future ends when its transaction is durable, or with its own Problem."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_mark_as_seen)
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    def tasks(self) -> "set[asyncio.Task[None]]":
        """What is under way; when all of it has ended, nothing waits."""
        return self._alone | ({self._runner} if self._runner else set())

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), self._max_group)
                if count > 1 or self._places_to_wait.locked():
                    await self._commit([self._waiting.popleft() for _ in range(count)])
                else:
                    await self._commit_lone(*self._waiting.popleft())
        finally:
            self._runner = None

    async def _commit_lone(self, item: Item, future: "asyncio.Future[Result]") -> None:
        """Without the try that a group makes first: mostly nobody holds its scope. If somebody does, the others
        go on meanwhile.
        """
        await asyncio.wait([self._run_alone(item, future)], timeout=_MOMENT_SECONDS)

    async def _commit(
        self,
        waiting: "list[tuple[Item, asyncio.Future[Result]]]",
        *,
        may_wait: bool = False,
    ) -> None:
        # Whoever waited too long was told so; its item must not come in long after that.
        entries = [(item, future) for item, future in waiting if not future.done()]
        if not entries:
            return
        items = [item for item, _ in entries]

        async def work(tx: Tx) -> "Sequence[Result | Problem | Busy]":
            return await self._work(tx, items, may_wait=may_wait)

        try:
            outcomes = await self._write(work)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            self._fail(entries, error)
            return
        for (item, future), outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, Busy):
                self._run_alone(item, future)
            elif not future.done():
                _settle(future, outcome)

    def _fail(self, entries: "list[tuple[Item, asyncio.Future[Result]]]", error: Exception) -> None:
        """One poisonous item must not refuse its neighbours: each gets its own transaction.

        A group whose fault is not an item's own (the database is down) fails as a whole.
        """
        for item, future in entries:
            if len(entries) == 1 or isinstance(error, Problem):
                if not future.done():
                    future.set_exception(error)
            else:
                self._run_alone(item, future)

    def _run_alone(self, item: Item, future: "asyncio.Future[Result]") -> "asyncio.Task[None]":
        task = asyncio.create_task(self._commit_alone(item, future))
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)
        return task

    async def _commit_alone(self, item: Item, future: "asyncio.Future[Result]") -> None:
        async with self._places_to_wait:
            await self._commit([(item, future)], may_wait=True)


def _mark_as_seen(future: "asyncio.Future[Result]") -> None:
    """The caller may have gone: a refusal that nobody waits for is no error."""
    if not future.cancelled():
        future.exception()


def _settle(future: "asyncio.Future[Result]", outcome: Result | Problem) -> None:
    if isinstance(outcome, Problem):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
