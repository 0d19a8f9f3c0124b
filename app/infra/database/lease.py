"""Work that is somebody's for a while: whoever is at it says so again and again; who falls silent was killed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.problems import Problem


@contextlib.asynccontextmanager
async def keep_lease(
    db: Database, renew: Callable[[Tx], Awaitable[None]], *, every_seconds: float
) -> AsyncGenerator[None]:
    """Call `renew` every so often until the block ends. Where the database is away for so long that the lease runs
    out, another takes the work up: the last step of the work has to bear that.
    """

    async def renew_forever() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            with contextlib.suppress(Problem):
                await db.write(renew, timeout_seconds=every_seconds)

    task = asyncio.create_task(renew_forever(), name="keep-lease")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
