"""What is pushed is committed: each pushed message can be read at once on another worker."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest

from tests.faults.cluster import Cluster
from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.lines import run_all
from tests.faults.promises.races.listening import listen
from tests.faults.promises.scale import scaled
from tests.support.people import Json, new_id
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

LISTENERS = scaled(quick=6, full=20)
SENDS = scaled(quick=10, full=1000)
AT_ONCE = scaled(quick=8, full=32)
_HOLD_SECONDS = 0.2
_SOON_SECONDS = 60.0


@contextmanager
def slow_commits(cluster: Cluster) -> Iterator[None]:
    """Each COMMIT waits a random time before PostgreSQL hears of it."""
    lines = [worker.postgres for worker in cluster.workers if worker.postgres is not None]
    for line in lines:
        line.hold_commit_seconds = _HOLD_SECONDS
    try:
        yield
    finally:
        for line in lines:
            line.hold_commit_seconds = 0.0
        assert all(line.commits for line in lines)


class Checks:
    """Reads each message that is pushed, on a worker that did not push it."""

    def __init__(self, callers: Callers, people: list[Caller]) -> None:
        self._callers = callers
        self._people = people
        self._reads: set[asyncio.Task[None]] = set()
        self.statuses: Counter[int] = Counter()

    def of(self, worker: int) -> Callable[[Json], None]:
        """For what this worker pushes."""

        def look(update: Json) -> None:
            if update["type"] == "new_message":
                read = self._read(update["data"]["id"], worker)
                self._reads.add(asyncio.create_task(read))

        return look

    async def finish(self, count: int) -> None:
        """Wait for so many pushes and what became of them."""

        async def all_came() -> bool:
            return len(self._reads) >= count

        await eventually(all_came, timeout_seconds=_SOON_SECONDS, what="all pushes")
        await asyncio.gather(*self._reads)

    async def _read(self, message_id: int, worker: int) -> None:
        doors = self._callers.doors
        others = doors[:worker] + doors[worker + 1 :]
        reader = self._callers.random.choice(self._people)
        door = self._callers.random.choice(others)
        answer = await reader.call("GET", f"/messages/{message_id}", door=door)
        self.statuses[answer.status] += 1


async def test_a_pushed_message_is_there_on_every_other_worker(callers: Callers) -> None:
    people = await callers.sign_up(LISTENERS)
    chat_id = await people[0].group(*people[1:])
    checks = Checks(callers, people)

    async def send() -> None:
        body = {"chat_id": chat_id, "text": "now", "client_message_id": new_id()}
        expect(await callers.random.choice(people).call("POST", "/messages/", body), 201)

    async with AsyncExitStack() as stack:
        for number, person in enumerate(people):
            worker = number % len(callers.doors)
            await stack.enter_async_context(
                listen(person, callers.doors[worker], checks.of(worker))
            )
        with slow_commits(callers.cluster):
            await run_all([send] * SENDS, at_once=AT_ONCE)
            await checks.finish(LISTENERS * SENDS)
    assert checks.statuses == {200: LISTENERS * SENDS}
