"""Background work: forget codes, half-done sign-ins and tries."""

from datetime import timedelta

from sqlalchemy import delete, or_, update

from app.features.auth import tries
from app.features.auth.limits import KNOWN_FOR
from app.features.auth.models import (
    FactorTryRow,
    PasswordTokenRow,
    SecondFactorRow,
    VerificationRow,
)
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Job

# Longer than every window in which codes, guesses and tries are counted.
_MEMORY = timedelta(days=2)


async def prune_codes(services: Services) -> None:
    await services.db.write(_prune)


async def prune_factor(services: Services) -> None:
    await services.db.write(_prune_factor)


async def _prune(tx: Tx) -> None:
    is_old = VerificationRow.created_at < tx.now - _MEMORY
    is_ancient = VerificationRow.created_at < tx.now - KNOWN_FOR
    await tx.execute(
        delete(VerificationRow).where(is_old, or_(VerificationRow.used_at.is_(None), is_ancient))
    )


async def _prune_factor(tx: Tx) -> None:
    await tx.execute(delete(PasswordTokenRow).where(PasswordTokenRow.expires_at <= tx.now))
    is_old = FactorTryRow.created_at < tx.now - _MEMORY
    is_ancient = FactorTryRow.created_at < tx.now - tries.KNOWN_FOR
    await tx.execute(
        delete(FactorTryRow).where(is_old, or_(FactorTryRow.was_right.is_(False), is_ancient))
    )
    await tx.execute(
        update(SecondFactorRow)
        .where(SecondFactorRow.pending_until <= tx.now)
        .values(pending_secret=None, pending_until=None)
    )


JOBS = (
    Job("prune_codes", timedelta(minutes=30), prune_codes),
    Job("prune_factor", timedelta(minutes=30), prune_factor),
)
