"""What is hurt is really hurt, comes back whole, and leaves nothing behind."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx
import psutil
import pytest
import redis.asyncio

from tests.faults.cluster import Cluster, Worker, run_cluster
from tests.faults.nemesis import Fault, Nemesis, Planned
from tests.support import missing
from tests.support.servers import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

_PATIENCE_SECONDS = 20.0
_STORY = textwrap.dedent(
    """
    import asyncio, pathlib, sys
    from tests.faults.cluster import run_sqlite_cluster

    async def main():
        async with run_sqlite_cluster(pathlib.Path(sys.argv[1])) as cluster:
            print(cluster.workers[0].server.pid, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
    """
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="messenger-cluster-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
async def running(anyio_backend: str, directory: Path) -> AsyncIterator[Cluster]:
    del anyio_backend
    try:
        async with run_cluster(directory / "cluster", workers=2) as cluster:
            yield cluster
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


@pytest.fixture
async def cluster(running: Cluster) -> AsyncIterator[Cluster]:
    """No fault may make a worker log what it would log of a bug."""
    running.take_logged_errors()
    yield running
    await running.heal()
    await eventually(lambda: is_whole(running), timeout_seconds=_PATIENCE_SECONDS)
    assert running.take_logged_errors() == []


async def is_whole(cluster: Cluster) -> bool:
    answers = [await ask(worker.base_url) for worker in cluster.workers]
    return answers == [httpx.codes.OK] * len(cluster.workers)


async def ask(base_url: str, path: str = "/health/ready") -> int | None:
    """The status; None: nobody answered."""
    try:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            return (await client.get(base_url + path)).status_code
    except httpx.TransportError:
        return None


async def test_clients_reach_who_is_up_and_a_killed_worker_comes_back_in_its_place(
    cluster: Cluster,
) -> None:
    first, second = cluster.workers
    first.kill()
    assert await ask(first.base_url) is None
    assert [await ask(cluster.front_url) for _ in range(3)] == [httpx.codes.OK] * 3
    second.stop()
    assert await ask(cluster.front_url) is None
    second.go_on()
    assert await ask(cluster.front_url) == httpx.codes.OK
    assert await first.start() > 0
    assert cluster.choose()[0] != cluster.choose()[0]


async def test_a_worker_that_ends_by_itself_is_told_of_and_starts_when_there_is_a_database(
    cluster: Cluster,
) -> None:
    worker = cluster.workers[0]
    assert cluster.postgres is not None
    os.kill(worker.server.pid, signal.SIGKILL)
    await eventually(lambda: has_ended(worker))
    assert cluster.take_logged_errors() == ["worker 0 ended by itself with status -9"]
    cluster.postgres.kill()
    healing = asyncio.create_task(cluster.heal())
    await eventually(lambda: has_refused(worker), timeout_seconds=_PATIENCE_SECONDS)
    await asyncio.to_thread(cluster.postgres.start)
    await healing
    assert await ask(worker.base_url) == httpx.codes.OK


async def has_ended(worker: Worker) -> bool:
    return not worker.server.is_running


async def has_refused(worker: Worker) -> bool:
    return "the database does not answer" in worker.server.output()


async def test_overlapping_faults_are_all_done_and_all_mended(cluster: Cluster) -> None:
    assert cluster.redis is not None
    connection = await asyncpg.connect(cluster.postgres_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (word TEXT)")
    await connection.execute("INSERT INTO kept VALUES ('acknowledged')")
    async with redis.asyncio.Redis.from_url(cluster.redis.url) as client:
        await client.set("key", "value")
    nemesis = Nemesis(cluster, 1)
    faults = [
        *(Fault.REDIS_RESTART, Fault.REDIS_RESTART, Fault.REDIS_PAUSE),
        *(Fault.POSTGRES_KILL, Fault.POSTGRES_KILL, Fault.POSTGRES_PAUSE),
        *(Fault.WORKER_PAUSE, Fault.PUBLISHES_LOST),
    ]
    numbers = itertools.count()
    await asyncio.gather(
        *(nemesis.inflict(Planned(next(numbers), fault, 0.2, 0.9)) for fault in faults)
    )
    await nemesis.heal()
    assert nemesis.done == {fault: faults.count(fault) for fault in faults}
    assert all(worker.redis is not None and worker.redis.lost == 0 for worker in cluster.workers)
    await eventually(lambda: is_whole(cluster), timeout_seconds=_PATIENCE_SECONDS)
    connection = await asyncpg.connect(cluster.postgres_url)
    assert await connection.fetchval("SELECT word FROM kept") == "acknowledged"
    await connection.close()
    async with redis.asyncio.Redis.from_url(cluster.redis.url) as client:
        assert await client.get("key") is None


async def test_sigterm_leaves_no_process_behind(directory: Path) -> None:
    command = [sys.executable, "-c", _STORY, str(directory / "sqlite")]
    runner = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    assert runner.stdout is not None
    worker = int(await runner.stdout.readline())
    assert psutil.pid_exists(worker)
    runner.terminate()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await runner.wait()
    assert not psutil.pid_exists(worker)
