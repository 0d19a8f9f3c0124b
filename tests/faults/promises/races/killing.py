"""Workers that are killed one after the other and come back, as long as a load lasts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.promises.races.callers import Callers

_KILL_EVERY_SECONDS = 6.0


class Killing:
    """`kills`: how many so far."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self.kills = 0

    async def run(self) -> None:
        """Kill a random worker every few seconds, for ever."""
        while True:
            await asyncio.sleep(_KILL_EVERY_SECONDS)
            place = self._callers.random.randrange(len(self._callers.doors))
            worker = self._callers.cluster.workers[place]
            worker.kill()
            self._callers.doors[place].close()
            self.kills += 1
            await worker.start()


@asynccontextmanager
async def killing_workers(callers: Callers, *, is_wanted: bool) -> AsyncIterator[Killing]:
    """Within the block, if it is wanted; behind it all workers are up."""
    killing = Killing(callers)
    if not is_wanted:
        yield killing
        return
    task = asyncio.create_task(killing.run())
    try:
        yield killing
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for worker in callers.cluster.workers:
        worker.kill()
    callers.close()
    await asyncio.gather(*(worker.start() for worker in callers.cluster.workers))
