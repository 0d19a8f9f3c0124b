"""Retention: rows older than AUDIT_RETENTION_DAYS go, and the chain says so itself."""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select

from app.features.audit.chain import CHAIN_LOCK, CHECKPOINT_NAME, Link, read_link, write_link
from app.features.audit.models import AuditEventRow
from app.features.audit.record import record
from app.features.audit.verify import PRUNED, checkpoint_details
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent

_BATCH = 5_000


async def prune_events(db: Database, *, retention: timedelta) -> None:
    """Delete from the old end, in small transactions. Each leaves the hash of the last row that it
    deleted as the checkpoint from which the chain goes on, in `server_state` and as a row of the
    chain, so that a checkpoint which somebody made up is found out.
    """
    while await db.write(lambda tx: _prune(tx, tx.now - retention), timeout_seconds=LONG_SECONDS):
        pass


async def _prune(tx: Tx, before: datetime) -> int:
    """Returns: how many rows were deleted."""
    if not await tx.try_lock_names([CHAIN_LOCK]):
        return 0
    start = await read_link(tx, CHECKPOINT_NAME)
    row = AuditEventRow
    newest = await tx.scalar(select(func.max(row.seq)))
    end = min(newest or 0, start.seq + _BATCH)
    # Of these alone: whoever has years to forget must not look at all of them each time.
    some = row.seq.between(start.seq + 1, end)
    kept = await tx.scalar(select(func.min(row.seq)).where(some, row.at >= before))
    end = end if kept is None else kept - 1
    digest = await tx.scalar(select(row.hash).where(row.seq == end))
    if end <= start.seq or digest is None:
        return 0
    checkpoint = Link(end, digest)
    await tx.execute(delete(row).where(row.seq <= end))
    await write_link(tx, CHECKPOINT_NAME, checkpoint)
    record(tx, SecurityEvent(PRUNED, details=checkpoint_details(checkpoint)))
    return end - start.seq
