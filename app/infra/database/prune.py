"""Deleting what is over, however much that is: in small transactions, for a long one stops every other writer."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import ColumnElement, delete, inspect, select

from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tables import Row
from app.infra.database.tx import Tx

BATCH = 1_000


async def prune_rows(
    db: Database, row_class: type[Row], is_over: Callable[[datetime], ColumnElement[bool]]
) -> int:
    """Delete the rows for which `is_over(now)` holds; it must be found by an index.

    Returns:
        How many there were.
    """
    [key] = inspect(row_class).primary_key
    found = 0

    async def work(tx: Tx) -> int:
        some = select(key).where(is_over(tx.now)).limit(BATCH)
        return await tx.execute(delete(row_class).where(key.in_(some)))

    while count := await db.write(work, timeout_seconds=LONG_SECONDS):
        found += count
    return found
