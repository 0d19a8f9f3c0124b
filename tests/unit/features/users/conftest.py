"""People in a real database; each test runs on SQLite and on PostgreSQL."""

import pytest

from app.infra.database.database import Database
from tests.support.databases import SetClock
from tests.support.town import Town, build_town


@pytest.fixture
async def town(db: Database, clock: SetClock) -> Town:
    return await build_town(db, clock)
