"""Background work: forget codes, half-done sign-ins and tries."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, update

from app.features.auth import tries
from app.features.auth.limits import KNOWN_FOR
from app.features.auth.models import (
    FactorTryRow,
    PasswordTokenRow,
    SecondFactorRow,
    VerificationRow,
)
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.prune import prune_rows
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Job

# Longer than every window in which codes, guesses and tries are counted.
_MEMORY = timedelta(days=2)


async def prune_codes(services: Services) -> None:
    await forget_codes(services.db)


async def forget_codes(db: Database) -> None:
    await prune_rows(db, VerificationRow, _is_code_over)


async def prune_factor(services: Services) -> None:
    await forget_tries(services.db)


async def forget_tries(db: Database) -> None:
    """And sign-ins that were left half done, and apps that were never confirmed."""
    await prune_rows(db, PasswordTokenRow, lambda now: PasswordTokenRow.expires_at <= now)
    await prune_rows(db, FactorTryRow, _is_try_over)
    await end_pending(db)


async def end_pending(db: Database) -> None:
    await db.write(_end_pending, timeout_seconds=LONG_SECONDS)


def _is_code_over(now: datetime) -> ColumnElement[bool]:
    row = VerificationRow
    is_ancient = row.created_at < now - KNOWN_FOR
    return and_(row.created_at < now - _MEMORY, or_(row.used_at.is_(None), is_ancient))


def _is_try_over(now: datetime) -> ColumnElement[bool]:
    row = FactorTryRow
    is_ancient = row.created_at < now - tries.KNOWN_FOR
    return and_(row.created_at < now - _MEMORY, or_(row.was_right.is_(False), is_ancient))


async def _end_pending(tx: Tx) -> None:
    await tx.execute(
        update(SecondFactorRow)
        .where(SecondFactorRow.pending_until <= tx.now)
        .values(pending_secret=None, pending_until=None)
    )


JOBS = (
    Job("prune_codes", timedelta(minutes=30), prune_codes),
    Job("prune_factor", timedelta(minutes=30), prune_factor),
)
