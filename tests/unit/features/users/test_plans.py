"""Finding people walks indexes, however many there are."""

import pytest
from sqlalchemy import select

from app.features.users.models import UserRow
from app.features.users.names import query_tokens
from app.features.users.search import select_named
from tests.support.plans import Explain
from tests.support.town import Town

pytestmark = pytest.mark.anyio


# PostgreSQL plans by statistics, which a test has not got; `make bench-search` has.
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_sqlite_finds_people_by_indexes(town: Town) -> None:
    statements = {
        "phones": select(UserRow.id).where(UserRow.phone_index.in_([b"a" * 16, b"b" * 16])),
        "names": select_named(query_tokens(town.index, "anna maria")),
    }
    for name, statement in statements.items():
        rows = await town.db.read(lambda tx, it=statement: tx.all(Explain(it)))
        plan = [str(row[3]) for row in rows]
        assert plan, name
        assert not [line for line in plan if line.startswith("SCAN")], plan
        assert not [line for line in plan if "TEMP B-TREE" in line], plan


async def test_a_name_of_several_words_is_found_by_the_beginnings_of_each(town: Town) -> None:
    viewer, anna = await town.settle("Viewer"), await town.settle("Anna", "Marek")
    other = await town.settle("Anna", "Zorn")
    for query in ("anna mar", "mar an", "a m", "marek anna"):
        assert await town.find(viewer, query, is_open=True) == [anna], query
    assert await town.find(viewer, "ann", is_open=True) == sorted([anna, other])
    assert await town.find(viewer, "anna anna zo", is_open=True) == [other]
    assert await town.find(viewer, "marek zorn", is_open=True) == []
