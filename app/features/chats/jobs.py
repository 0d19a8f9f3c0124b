"""Background work: tell what is due."""

from datetime import timedelta

from app.features.chats.tell_counts import tell_due_counts
from app.infra.services import Services
from app.transport.feature import Job


async def tell_counts(services: Services) -> None:
    await tell_due_counts(services.db)


JOBS = (Job("tell_counts", timedelta(seconds=10), tell_counts),)
