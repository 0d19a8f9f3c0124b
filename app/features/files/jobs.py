"""Background work: look into what was uploaded, and take back the room of what nobody reads any more."""

from datetime import timedelta

import structlog

from app.features.files.process import process_files
from app.features.files.reclaim import (
    delete_doomed_objects,
    delete_ended_files,
    end_unused_files,
)
from app.features.files.sweep import LEAST_AGE, claim_sweep, sweep_storage
from app.infra.services import Services
from app.settings import SettingsError
from app.transport.feature import Job

log = structlog.stdlib.get_logger("app.files")


async def reclaim(services: Services) -> None:
    settings, now = services.settings.files, services.clock.now()
    unused = timedelta(hours=settings.unused_hours)
    ended = await end_unused_files(services.db, before=now - unused)
    grace = timedelta(minutes=settings.grace_minutes)
    deleted = await delete_ended_files(services.db, services.keyring, before=now - grace)
    if ended or deleted:
        log.info("files_reclaimed", unused_count=ended, deleted_count=deleted)


async def delete_objects(services: Services) -> None:
    await delete_doomed_objects(services)


async def sweep(services: Services) -> None:
    """Once a day, by one worker; where that is killed, by the first one of the next day."""
    if not await claim_sweep(services.db):
        return
    try:
        doomed = await sweep_storage(services, before=services.clock.now() - LEAST_AGE)
    except SettingsError as error:
        log.error("storage_of_another_database", fault=str(error))  # noqa: TRY400 - it is told whole
        return
    if doomed:
        log.warning("objects_of_nobody", count=doomed)


JOBS = (
    Job("process_files", timedelta(seconds=1), process_files),
    Job("reclaim_files", timedelta(seconds=10), reclaim),
    Job("delete_objects", timedelta(seconds=5), delete_objects),
    Job("sweep_storage", timedelta(hours=1), sweep),
)
