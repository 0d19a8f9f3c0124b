"""Contacts: imported by phone, named by their owner."""

import pytest

from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio


async def add(person: Person, *others: Person, first_name: str = "Friend") -> Json:
    contacts = [{"phone": other.phone, "first_name": first_name} for other in others]
    return await person.post("/users/contacts", {"contacts": contacts}, expect=200)


async def test_phones_with_an_account_become_contacts(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    unknown = backend.deployment.next_phone()
    contacts = [
        {"phone": bruno.phone, "first_name": "Brother", "last_name": "B"},
        {"phone": unknown, "first_name": "Nobody"},
    ]
    answer = await anna.post("/users/contacts", {"contacts": contacts}, expect=200)
    assert answer["not_found_count"] == 1
    assert [item["id"] for item in answer["items"]] == [bruno.id]
    assert (await anna.get(f"/users/{bruno.id}"))["is_contact"]
    assert not (await bruno.get(f"/users/{anna.id}"))["is_contact"]


async def test_contacts_are_listed_page_by_page(backend: Backend) -> None:
    anna, *others = await backend.people(6)
    await add(anna, *others)
    listed = await anna.walk("/users/contacts", limit=2)
    assert sorted(item["id"] for item in listed) == sorted(other.id for other in others)


async def test_an_import_is_repeatable(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await add(anna, bruno, first_name="Old")
    await add(anna, bruno, first_name="New")
    assert len(await anna.walk("/users/contacts")) == 1


async def test_a_contact_is_removed_once(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await add(anna, bruno)
    await anna.delete(f"/users/contacts/{bruno.id}", expect=204)
    await anna.delete(f"/users/contacts/{bruno.id}", expect=404)
    assert await anna.walk("/users/contacts") == []


async def test_who_hides_from_phone_search_counts_as_not_found(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await bruno.put("/users/me/privacy", {"find_by_phone": "nobody"})
    answer = await add(anna, bruno)
    assert (answer["items"], answer["not_found_count"]) == ([], 1)


async def test_five_hundred_at_once_and_no_more(backend: Backend) -> None:
    anna = await backend.sign_up()
    contacts = [{"phone": f"+49171{n:07d}", "first_name": "N"} for n in range(501)]
    await anna.post("/users/contacts", {"contacts": contacts}, expect=422)
    answer = await anna.post("/users/contacts", {"contacts": contacts[:500]}, expect=200)
    assert answer["not_found_count"] == 500


@pytest.mark.parametrize("contact", [{}, {"phone": "+491701"}, {"first_name": "x"}, "x", None])
async def test_a_broken_import_changes_nothing(backend: Backend, contact: object) -> None:
    anna, bruno = await backend.people(2)
    good = {"phone": bruno.phone, "first_name": "B"}
    await anna.post("/users/contacts", {"contacts": [good, contact]}, expect=422)
    assert await anna.walk("/users/contacts") == []


async def test_my_other_devices_learn_of_my_contacts(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    socket = await anna.connect()
    await add(anna, bruno)
    await socket.expect("contacts_changed", scope="user")
