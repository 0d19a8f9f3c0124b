"""Background work: forget what nobody may ask for any more."""

from datetime import timedelta

import structlog

from app.features.updates.prune import claim_pass, prune_updates
from app.infra.services import Services
from app.transport.feature import Job

log = structlog.stdlib.get_logger("app.updates")


async def prune(services: Services) -> None:
    """A pass every few hours, by one worker; one that dies in it is followed by the next pass."""
    if not await claim_pass(services.db):
        return
    keep = timedelta(days=services.settings.updates.retention_days)
    forgotten = await prune_updates(services.db, before=services.clock.now() - keep)
    log.info("updates_pruned", count=forgotten)


JOBS = (Job("prune_updates", timedelta(minutes=30), prune),)
