"""Background work: forget codes."""

from datetime import timedelta

from sqlalchemy import delete, or_

from app.features.auth.limits import KNOWN_FOR
from app.features.auth.models import VerificationRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Job

# Longer than every window in which codes and guesses are counted.
_MEMORY = timedelta(days=2)


async def prune_codes(services: Services) -> None:
    await services.db.write(_prune)


async def _prune(tx: Tx) -> None:
    is_old = VerificationRow.created_at < tx.now - _MEMORY
    is_ancient = VerificationRow.created_at < tx.now - KNOWN_FOR
    await tx.execute(
        delete(VerificationRow).where(is_old, or_(VerificationRow.used_at.is_(None), is_ancient))
    )


JOBS = (Job("prune_codes", timedelta(minutes=30), prune_codes),)
