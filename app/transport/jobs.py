"""Runs the repeating work of all slices in the background of a worker."""

import asyncio
import secrets
from collections.abc import Iterable

import structlog

from app.infra.services import Services
from app.kernel.problems import Problem
from app.transport.feature import Job

log = structlog.stdlib.get_logger("app.jobs")
_jitter = secrets.SystemRandom()


class JobRunner:
    """Owns one task a job; a job that fails is logged and tried again at its next time."""

    def __init__(self, jobs: Iterable[Job], services: Services) -> None:
        self._jobs = tuple(jobs)
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        period = job.every.total_seconds()
        while True:
            # Workers that started together shall not all run it at the same moment.
            await asyncio.sleep(period * _jitter.uniform(0.9, 1.1))
            try:
                await job.run(self._services)
            except Problem as problem:
                # The database is away; whoever waits for it says so in its own lines.
                log.warning("job_put_off", job=job.name, code=problem.code)
            except Exception:  # an edge: one failure must not end the job for good
                log.exception("job_failed", job=job.name)
