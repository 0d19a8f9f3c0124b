"""Background work: write refusals, chain what is queued, tell the head."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from app.features.audit.chain import (
    BATCH,
    HEAD_NAME,
    START,
    append_queued,
    has_queued,
    read_link,
)
from app.features.audit.phones import prune_phones
from app.features.audit.prune import prune_events
from app.features.audit.sink import FLUSH_INTERVAL, AuditSink
from app.features.audit.watch import Watch
from app.infra.database.database import LONG_SECONDS
from app.infra.services import Services
from app.kernel.problems import Problem
from app.transport.feature import Job

# Of a stop whose database hangs; the rows that are queued there wait for the next worker.
_LAST_LINK_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger("app.security")


async def flush_refusals(services: Services) -> None:
    await services.rules.one(AuditSink).flush(services.db, services.keyring)


async def chain_events(services: Services) -> None:
    """All that is queued at this moment; every worker tries, one at a time does it, and looks at it."""
    watch = services.rules.one(Watch)
    try:
        # A look costs nobody a turn at writing.
        while await services.db.read(has_queued, timeout_seconds=LONG_SECONDS):
            chained = await services.db.write(
                lambda tx: append_queued(tx, services.keyring), timeout_seconds=LONG_SECONDS
            )
            if chained:
                await services.db.write(
                    lambda tx: watch.look(tx, services.keyring), timeout_seconds=LONG_SECONDS
                )
            if chained < BATCH:
                return
    except Problem:
        return  # the database is away; what is queued there waits


async def log_head(services: Services) -> None:
    """For whoever keeps the log elsewhere: `admin audit verify --head` holds the chain against it."""
    head = await services.db.read(lambda tx: read_link(tx, HEAD_NAME), timeout_seconds=LONG_SECONDS)
    if head != START:
        log.info("audit_head", head=str(head))


async def settle_record(services: Services) -> None:
    """The last act of a worker: what it has counted is written and chained, and the head told.

    A server that never runs for an hour would keep no head anywhere else.
    """
    if await services.rules.one(AuditSink).close(services.db, services.keyring):
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(_LAST_LINK_SECONDS):
                await chain_events(services)
                await log_head(services)


async def prune_record(services: Services) -> None:
    retention = timedelta(days=services.settings.audit.retention_days)
    await prune_events(services.db, retention=retention)
    await prune_phones(services.db, services.keyring, retention=retention)


JOBS = (
    Job("flush_refusals", FLUSH_INTERVAL, flush_refusals),
    Job("chain_events", timedelta(milliseconds=300), chain_events),
    Job("log_audit_head", timedelta(hours=1), log_head),
    Job("prune_audit_events", timedelta(minutes=50), prune_record),
)
