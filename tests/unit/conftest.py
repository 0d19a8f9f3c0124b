"""Empty databases for unit tests: each test that asks for `db` runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.infra.database.database import Database
from app.settings import Settings
from tests.support.databases import SetClock, empty_database, open_empty_database, settings_for
from tests.support.postgres import Postgres


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(scope="session")
def shared_postgres_url(postgres: Postgres) -> Iterator[str]:
    """One database for all unit tests, emptied after each: making one takes longer than most tests."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, directory: Path) -> Settings:
    """Default settings that name an empty database."""
    if request.param == "sqlite":
        return settings_for(directory)
    return settings_for(directory, url=str(request.getfixturevalue("shared_postgres_url")))


@pytest.fixture
async def db(settings: Settings, clock: SetClock, anyio_backend: str) -> AsyncIterator[Database]:
    del anyio_backend
    database = await open_empty_database(settings, clock)
    yield database
    await empty_database(database)
    await database.close()
