"""No statement on a hot path reads a whole table, or another chat's messages."""

import pytest

from app.features.messages import queries, unread
from app.infra.database.key_lists import key_parameters
from tests.support.plans import Explain
from tests.unit.features.messages.conftest import Rooms

pytestmark = pytest.mark.anyio


PAIRS = [(1, 2), (3, 4)]
PAGE = {"chat_id": 1, "user_id": 2, "floor": 0, "pivot": 50, "older": 51, "newer": 1}
STATEMENTS = {
    "newest": (queries._NEWEST, PAGE),
    "around": (queries._AROUND, PAGE),
    "unread": (unread._COUNT, key_parameters("sqlite", PAIRS)),
    "memberships": (queries._MEMBERSHIPS, key_parameters("sqlite", PAIRS)),
    "members": (queries._CURRENT_MEMBERS, key_parameters("sqlite", PAIRS)),
    "blocks": (queries._BLOCKS, key_parameters("sqlite", PAIRS)),
    "seen": (queries._SEEN, key_parameters("sqlite", [(1, "a"), (2, "b")])),
    "hidden": (queries._HIDDEN, key_parameters("sqlite", [(1, 2, 3)])),
}
TABLES = ("messages", "chat_participants", "chats", "hidden_messages", "blocks", "message_mentions")


# PostgreSQL plans by statistics, which a test has not got.
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", STATEMENTS)
async def test_sqlite_searches_by_an_index(rooms: Rooms, name: str) -> None:
    statements, parameters = STATEMENTS[name]
    rows = await rooms.db.read(lambda tx: tx.all(Explain(statements["sqlite"]), parameters))
    plan = [str(row[3]) for row in rows]
    assert not [line for line in plan if line.split()[0] == "SCAN" and line.split()[1] in TABLES]
    walks = [line for line in plan if line.startswith("SEARCH messages ")]
    if name in {"newest", "unread"}:
        assert any("(chat_id=? AND id>?" in line for line in walks)
