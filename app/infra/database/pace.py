"""Commands that write transaction after transaction, beside a server that has the same SQLite file open.

Whoever waits for the lock of another process looks for it now and then, up to 100 ms apart; whoever takes it
again at once is always faster. So a command pauses behind each of its transactions.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from app.infra.database.tx import Dialect

_LEAST_SECONDS: Final = 0.02


@asynccontextmanager
async def paced(dialect: Dialect) -> AsyncGenerator[None]:
    """Around a transaction: it is followed by as long a pause."""
    begun = time.monotonic()
    yield
    if dialect == "sqlite":
        await asyncio.sleep(max(_LEAST_SECONDS, time.monotonic() - begun))
