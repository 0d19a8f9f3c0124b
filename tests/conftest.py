"""What every test may ask for: the real backends, and a report of what could not run here."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from app.bootstrap import build_app
from app.settings import load_settings
from tests.support import missing
from tests.support.people import Backend, Deployment
from tests.support.postgres import Postgres, run_postgres
from tests.support.redis_server import redis_version, run_redis
from tests.support.s3_server import S3Server, run_s3_server
from tests.support.servers import Server
from tests.support.whole_run import WholeRun

BACKENDS: tuple[Literal["sqlite", "postgresql"], ...] = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL cluster; make databases in it."""
    try:
        with run_postgres() as cluster:
            yield cluster
    except missing.Missing as reason:
        missing.skip("PostgreSQL", str(reason))


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An empty Redis of this test alone."""
    try:
        with run_redis() as url:
            yield url
    except missing.Missing as reason:
        missing.skip("Redis", str(reason))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A local S3 server; make buckets in it."""
    with run_s3_server() as server:
        yield server


@pytest.fixture(scope="session", params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """SQLite in one process; PostgreSQL with Redis on two nodes, one of two workers."""
    if request.param == "sqlite":
        with sqlite_deployment() as made:
            yield made
        return
    try:
        with postgresql_deployment(request.getfixturevalue("postgres")) as made:
            yield made
    except missing.Missing as reason:
        missing.skip("Redis", str(reason))


@pytest.fixture
async def backend(deployment: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    """The backend, and people who sign in to it; runs every test on both databases."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(deployment, stack)


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory for a server of one's own."""
    with _temporary_directory() as path:
        yield path


@contextmanager
def sqlite_deployment() -> Iterator[Deployment]:
    with _temporary_directory() as directory, Server(directory, name="sqlite") as server:
        yield Deployment("sqlite", [server], {"sqlite_file": str(server.var_dir / "messenger.db")})
        server.stop()
        _refuse_faults(server)


@contextmanager
def postgresql_deployment(cluster: Postgres) -> Iterator[Deployment]:
    with ExitStack() as stack:
        directory = stack.enter_context(_temporary_directory())
        redis_address = stack.enter_context(run_redis())
        database = cluster.create_database()
        stack.callback(cluster.drop_database, database)
        shared = {
            "DATABASE_TYPE": "postgresql",
            "DATABASE_URL": database,
            "USE_REDIS": "true",
            "REDIS_URL": redis_address,
        }
        first = stack.enter_context(
            Server(directory / "one", shared | {"WORKERS": "2"}, name="node one")
        )
        # The second node stands for another machine with the same keys, codes and log.
        same = {"VAR_DIR": str(first.var_dir), "LOG_FILE": str(first.log_file)}
        second = stack.enter_context(Server(directory / "two", shared | same, name="node two"))
        details = {"database_url": database, "redis_url": redis_address}
        details |= {"PostgreSQL": cluster.version, "Redis": redis_version(redis_address)}
        VERSIONS.update({name: details[name] for name in ("PostgreSQL", "Redis")})
        yield Deployment("postgresql", [first, second], details)
        for server in (first, second):
            server.stop()
            _refuse_faults(server)


VERSIONS: dict[str, str] = {}

# `make fuzz` asks for the full numbers.
settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=2000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(WholeRun(_build_document, VERSIONS), "whole-run")


class ByFileAndBackend(LoadScopeScheduling):
    """`--dist loadscope`: the tests of one file and backend stay together, and with them what they share.

    Not by the marks of `loadgroup`, which pytest-xdist 3.8 writes where pytest 9.2 does not look.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, name = nodeid.partition("::")
        words = name.partition("[")[2].rstrip("]").split("-")
        backend = next((word for word in words if word in BACKENDS), "")
        return f"{file} {backend}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileAndBackend | None:
    return ByFileAndBackend(config, log) if config.getvalue("dist") == "loadscope" else None


def _build_document() -> dict[str, Any]:
    return build_app(load_settings(env_file=None)).openapi()


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="messenger-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_faults(server: Server) -> None:
    """No test may leave an unexpected error behind, not even one that no answer showed."""
    faults = server.faults()
    assert not faults, f"{server.name} logged {len(faults)} errors, the first: {faults[0][:2000]}"
