"""Background work: learn of revocations, write down activity, forget what is over."""

from datetime import timedelta

from sqlalchemy import delete, select, update

from app.features.sessions.activity import FLUSH_INTERVAL, Activity
from app.features.sessions.models import RefreshTokenRow, RevocationRow, SessionRow, TicketRow
from app.features.sessions.refresh import RETRY_WINDOW
from app.features.sessions.revocations import POLL_INTERVAL, RevocationList
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Job

# Longer than any access token lives (a day at most).
_REVOCATION_MEMORY = timedelta(days=2)
_SESSION_MEMORY = timedelta(days=7)
_BATCH = 500


async def poll_revocations(services: Services) -> None:
    await services.rules.one(RevocationList).poll(services.db)


async def write_activity(services: Services) -> None:
    await services.rules.one(Activity).flush(services.db, services.clock.now())


async def prune_sessions(services: Services) -> None:
    await prune(services.db)


async def prune(db: Database) -> None:
    """Delete what can no longer be used or asked for, in small transactions."""
    await db.write(_prune_tokens)
    while await db.write(_prune_sessions) == _BATCH:
        pass


async def _prune_tokens(tx: Tx) -> None:
    await tx.execute(delete(TicketRow).where(TicketRow.expires_at <= tx.now))
    await tx.execute(delete(RefreshTokenRow).where(RefreshTokenRow.expires_at <= tx.now))
    await tx.execute(
        update(RefreshTokenRow)
        .where(
            RefreshTokenRow.successor.is_not(None), RefreshTokenRow.used_at < tx.now - RETRY_WINDOW
        )
        .values(successor=None)
    )
    await tx.execute(
        delete(RevocationRow).where(RevocationRow.revoked_at < tx.now - _REVOCATION_MEMORY)
    )


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
