"""Repeating work goes on after every failure, and tells an outage from a bug."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app.infra.database.errors import DatabaseUnavailable
from app.infra.services import Services
from app.transport.feature import Job
from app.transport.jobs import JobRunner

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("failure", "event", "level"),
    [
        (DatabaseUnavailable(retry_after=1), "job_put_off", "warning"),
        (ZeroDivisionError(), "job_failed", "error"),
    ],
)
async def test_a_job_that_fails_is_logged_once_a_run_and_runs_again(
    failure: Exception, event: str, level: str
) -> None:
    runs: list[int] = []
    has_run_again = asyncio.Event()

    async def run(services: Services) -> None:
        runs.append(len(runs))
        if len(runs) > 1:
            has_run_again.set()
        raise failure

    runner = JobRunner([Job("job", timedelta(milliseconds=1), run)], None)
    with capture_logs() as logs:
        await runner.start()
        async with asyncio.timeout(30):
            await has_run_again.wait()
        await runner.stop()
    assert {(entry["event"], entry["log_level"]) for entry in logs} == {(event, level)}
