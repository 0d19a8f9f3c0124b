"""Empty databases for unit tests: each test that asks for `db` runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.infra.database.database import Database
from app.settings import Settings
from tests.support.databases import SetClock, open_empty_database, settings_for


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, directory: Path) -> Iterator[Settings]:
    """Default settings that name an empty database."""
    if request.param == "sqlite":
        yield settings_for(directory)
        return
    cluster: Any = request.getfixturevalue("postgres")
    url = cluster.create_database()
    yield settings_for(directory, url=url)
    cluster.drop_database(url)


@pytest.fixture
async def db(settings: Settings, clock: SetClock, anyio_backend: str) -> AsyncIterator[Database]:
    del anyio_backend
    database = await open_empty_database(settings, clock)
    yield database
    await database.close()
