"""Every list that a person can grow has an end, and so has every day's number of questions."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.features.users.address_book import MAX_CONTACTS
from app.features.users.block import MAX_BLOCKED
from tests.support.people import Backend, Person
from tests.support.rows import change_rows

pytestmark = pytest.mark.anyio

LOOKUPS_PER_DAY = 2000  # the default of CONTACT_LOOKUPS_PER_DAY
_CROWD = 900_000_000_000


async def dial(person: Person, first: int, count: int) -> httpx.Response:
    contacts = [
        {"phone": f"+49172{number:07d}", "first_name": "N"}
        for number in range(first, first + count)
    ]
    return await person.call("POST", "/users/contacts", {"contacts": contacts})


@pytest.fixture
async def crowd(backend: Backend) -> AsyncIterator[Person]:
    """Somebody in a town of many people, who are rows and nothing else."""
    anna = await backend.sign_up()
    await change_rows(
        backend.deployment,
        f"""
        INSERT INTO users (id, first_name, privacy, created_at)
        WITH RECURSIVE crowd(number) AS (
            SELECT 1 UNION ALL SELECT number + 1 FROM crowd WHERE number < {MAX_BLOCKED}
        )
        SELECT {_CROWD} + number, users.first_name, users.privacy, users.created_at
        FROM crowd, users WHERE users.id = {anna.id}
        """,
    )
    yield anna
    for table, column in (("contacts", "user_id"), ("blocks", "user_id"), ("users", "id")):
        await change_rows(
            backend.deployment,
            f"DELETE FROM {table} WHERE {column} BETWEEN {_CROWD + 1} AND {_CROWD + MAX_BLOCKED}",
        )


async def test_import_and_search_share_a_daily_budget_of_new_numbers(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    for first in range(0, LOOKUPS_PER_DAY, 500):
        answer = await dial(anna, first, 500)
        assert answer.status_code == 200
    assert '"lookups";r=0;t=' in answer.headers["ratelimit"]
    refused = await dial(anna, LOOKUPS_PER_DAY, 1)
    assert refused.status_code == 429
    assert refused.json()["code"] == "lookups_exhausted"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    await anna.get("/users/search", q=bruno.phone, expect=429, code="lookups_exhausted")
    # What was asked before is no news, and others have a budget of their own.
    assert (await dial(anna, 0, 500)).status_code == 200
    assert (await dial(bruno, LOOKUPS_PER_DAY, 1)).status_code == 200


async def test_a_new_account_of_the_same_number_goes_on_with_what_is_left(backend: Backend) -> None:
    anna = await backend.sign_up()
    for deleted in range(3):
        assert (await dial(anna, 600 * deleted, 500)).status_code == 200
        await anna.delete("/users/me", expect=204)
        anna = await backend.sign_up(anna.phone)
    last = await dial(anna, 1800, 500)
    assert last.status_code == 200
    assert '"lookups";r=0;t=' in last.headers["ratelimit"]
    refused = await dial(anna, 2300, 1)
    assert (refused.status_code, refused.json()["code"]) == (429, "lookups_exhausted")
    bruno = await backend.sign_up()
    assert (await dial(bruno, 2300, 1)).status_code == 200


async def test_an_address_book_has_an_end(backend: Backend, crowd: Person) -> None:
    bruno = await backend.sign_up()
    await change_rows(
        backend.deployment,
        f"""
        INSERT INTO contacts (owner_id, user_id, first_name, created_at)
        SELECT {crowd.id}, id, first_name, created_at FROM users
        WHERE id BETWEEN {_CROWD + 1} AND {_CROWD + MAX_CONTACTS}
        """,
    )
    contacts = [{"phone": bruno.phone, "first_name": "One too many"}]
    body = {"contacts": contacts}
    await crowd.post("/users/contacts", body, expect=409, code="too_many_contacts")


async def test_the_list_of_blocked_has_an_end(backend: Backend, crowd: Person) -> None:
    bruno = await backend.sign_up()
    await change_rows(
        backend.deployment,
        f"""
        INSERT INTO blocks (owner_id, user_id, created_at)
        SELECT {crowd.id}, id, created_at FROM users
        WHERE id BETWEEN {_CROWD + 1} AND {_CROWD + MAX_BLOCKED}
        """,
    )
    await crowd.put(f"/users/blocked/{bruno.id}", expect=409, code="too_many_blocked")
    assert not (await crowd.get(f"/users/{bruno.id}"))["is_blocked"]
