"""A club in a real database; each test runs on SQLite and on PostgreSQL."""

import pytest

from app.infra.database.database import Database
from tests.support.clubs import Club, build_club
from tests.support.databases import SetClock


@pytest.fixture
async def club(db: Database, clock: SetClock) -> Club:
    return await build_club(db, clock)
