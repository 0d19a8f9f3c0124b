"""Finding people."""

import pytest

from tests.support.people import Backend, Person, new_id

pytestmark = pytest.mark.anyio


async def find(person: Person, text: str) -> list[int]:
    answer = await person.get("/users/search", q=text)
    assert "total" not in answer
    return [item["id"] for item in answer["items"]]


async def test_everyone_is_found_by_the_start_of_the_username(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    name = "q" + new_id().replace("-", "")[:20]
    await bruno.put("/users/me", {"username": name})
    assert await find(anna, name[:8]) == [bruno.id]
    assert await find(anna, name[:8].upper()) == [bruno.id]
    assert await find(anna, name[1:9]) == []


async def test_two_letters_of_a_username_find_nobody(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await bruno.put("/users/me", {"username": "zq" + new_id().replace("-", "")[:20]})
    answer = await anna.call("GET", "/users/search", query={"q": "zq"})
    assert answer.status_code == 422 or answer.json()["items"] == []


async def test_a_name_finds_contacts_and_people_of_shared_groups_only(backend: Backend) -> None:
    anna = await backend.sign_up()
    word = "Xaver" + new_id()[:6].translate(str.maketrans("0123456789-", "abcdefghijk"))
    contact, member, unknown = [
        await backend.sign_up(first_name="Karl", last_name=word) for _ in range(3)
    ]
    contacts = [{"phone": contact.phone, "first_name": "Karl", "last_name": word}]
    await anna.post("/users/contacts", {"contacts": contacts})
    await anna.group("Shared", [member])
    found = await find(anna, word[:7].lower())
    assert sorted(found) == sorted([contact.id, member.id])
    assert unknown.id not in found


async def test_an_exact_phone_finds_its_owner_where_he_allows(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    spelling = f"{bruno.phone[:3]} {bruno.phone[3:6]} {bruno.phone[6:]}"
    assert await find(anna, spelling) == [bruno.id]
    assert await find(anna, bruno.phone[:-1]) == []
    await bruno.put("/users/me/privacy", {"find_by_phone": "nobody"})
    assert await find(anna, bruno.phone) == []


@pytest.mark.parametrize("text", ["%%%", "___", "(a+)+$", "***", "'; --", "\\\\\\"])
async def test_wildcards_are_letters_like_others(backend: Backend, text: str) -> None:
    anna, bruno = await backend.people(2)
    await bruno.put("/users/me", {"username": "w" + new_id().replace("-", "")[:20]})
    assert await find(anna, text) == []


async def test_a_search_needs_a_word_of_sane_length(backend: Backend) -> None:
    anna = await backend.sign_up()
    await anna.get("/users/search", expect=422)
    await anna.get("/users/search", q="x" * 1000, expect=422)
