"""Background work: learn of revocations, write down activity, forget what is over."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from sqlalchemy import delete, select, update

from app.features.sessions.activity import FLUSH_INTERVAL, Activity
from app.features.sessions.models import RefreshTokenRow, RevocationRow, SessionRow, TicketRow
from app.features.sessions.refresh import REPLAY_MEMORY, RETRY_WINDOW
from app.features.sessions.revocations import POLL_INTERVAL, RevocationList
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.prune import prune_rows
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Job

# Longer than any access token lives (a day at most).
_REVOCATION_MEMORY = timedelta(days=2)
_SESSION_MEMORY = timedelta(days=7)
# A server that was away for longer leaves some sealed until they are deleted.
_SUCCESSOR_MEMORY = timedelta(days=1)
_BATCH = 500


async def poll_revocations(services: Services) -> None:
    await services.rules.one(RevocationList).poll(services.db)


async def write_activity(services: Services) -> None:
    await services.rules.one(Activity).flush(services.db, services.clock.now())


async def prune_sessions(services: Services) -> None:
    await prune(services.db)


async def prune(db: Database) -> None:
    """Delete what can no longer be used or asked for, in small transactions."""
    await prune_rows(db, TicketRow, lambda now: TicketRow.expires_at <= now)
    await prune_rows(db, RefreshTokenRow, lambda now: RefreshTokenRow.expires_at <= now)
    await prune_rows(
        db, RevocationRow, lambda now: RevocationRow.revoked_at < now - _REVOCATION_MEMORY
    )
    for part in (_empty_successors, _prune_sessions):
        await _repeat(db, part)


async def _repeat(db: Database, part: Callable[[Tx], Awaitable[int]]) -> None:
    while await db.write(part, timeout_seconds=LONG_SECONDS) == _BATCH:
        pass


async def _empty_successors(tx: Tx) -> int:
    """Of tokens that were used some time ago: nobody may ask for those any more.

    Found by the index on `expires_at`, which the use of a token has set: without its lower bound, all
    tokens of a week would be looked at each time.
    """
    oldest, newest = tx.now - _SUCCESSOR_MEMORY, tx.now - RETRY_WINDOW
    row = RefreshTokenRow
    some = select(row.hash).where(
        row.expires_at.between(oldest + REPLAY_MEMORY, newest + REPLAY_MEMORY),
        row.successor.is_not(None),
        row.used_at < newest,
    )
    found = row.hash.in_(some.limit(_BATCH))
    return await tx.execute(update(row).where(found).values(successor=None))


async def _prune_sessions(tx: Tx) -> int:
    over = await tx.scalars(
        select(SessionRow.id)
        .where(SessionRow.idle_expires_at < tx.now - _SESSION_MEMORY)
        .limit(_BATCH)
    )
    for table in (RefreshTokenRow, TicketRow, RevocationRow):
        await tx.execute(delete(table).where(table.session_id.in_(over)))
    await tx.execute(delete(SessionRow).where(SessionRow.id.in_(over)))
    return len(over)


JOBS = (
    Job("poll_revocations", POLL_INTERVAL, poll_revocations),
    Job("write_activity", FLUSH_INTERVAL, write_activity),
    Job("prune_sessions", timedelta(minutes=10), prune_sessions),
)
