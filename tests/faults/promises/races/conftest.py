"""One deployment for all races, with people who call its workers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.cluster import Cluster, run_cluster, run_sqlite_cluster
from tests.faults.promises.races.callers import Callers
from tests.faults.promises.scale import scaled
from tests.support import missing

# Tokens shall outlive the package.
_ENVIRONMENT = {"ACCESS_TOKEN_MINUTES": "1440"}


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="messenger-races-") as path:
        yield Path(path)


@pytest.fixture(scope="package")
async def cluster(anyio_backend: str, folder: Path) -> AsyncIterator[Cluster]:
    """Three workers, PostgreSQL and Redis."""
    del anyio_backend
    try:
        async with run_cluster(folder / "postgresql", environment=_ENVIRONMENT) as made:
            yield made
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


@pytest.fixture(scope="package")
async def sqlite_cluster(anyio_backend: str, folder: Path) -> AsyncIterator[Cluster]:
    """One process."""
    del anyio_backend
    async with run_sqlite_cluster(folder / "sqlite", environment=_ENVIRONMENT) as made:
        yield made


@pytest.fixture
async def callers(cluster: Cluster) -> AsyncIterator[Callers]:
    """Whatever happened, no worker may have logged an unexpected error."""
    cluster.take_logged_errors()
    made = Callers(cluster)
    yield made
    made.close()
    assert cluster.take_logged_errors() == []


@pytest.fixture
async def sqlite_callers(sqlite_cluster: Cluster) -> AsyncIterator[Callers]:
    sqlite_cluster.take_logged_errors()
    made = Callers(sqlite_cluster)
    yield made
    made.close()
    assert sqlite_cluster.take_logged_errors() == []


@pytest.fixture(params=scaled(quick=["postgresql"], full=["postgresql", "sqlite"]))
def either(request: pytest.FixtureRequest) -> Callers:
    """On both databases, in full."""
    return request.getfixturevalue("callers" if request.param == "postgresql" else "sqlite_callers")
