"""Background work: forget the budgets of days that are over."""

from datetime import timedelta

from app.features.users.lookups import forget_spent
from app.infra.services import Services
from app.transport.feature import Job


async def prune_spent_lookups(services: Services) -> None:
    await forget_spent(services.db)


JOBS = (Job("prune_spent_lookups", timedelta(hours=1), prune_spent_lookups),)
