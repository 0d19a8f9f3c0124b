"""My profile, and what others see of it."""

import asyncio

import pytest

from tests.support.people import Backend, is_time, new_id

pytestmark = pytest.mark.anyio

ME = {
    "id",
    "phone",
    "username",
    "first_name",
    "last_name",
    "bio",
    "photo",
    "language",
    "created_at",
}


def username() -> str:
    return "u" + new_id().replace("-", "")[:20]


async def test_my_profile_has_the_documented_members(backend: Backend) -> None:
    anna = await backend.sign_up()
    me = await anna.get("/users/me")
    assert me.keys() == ME
    assert is_time(me["created_at"])


async def test_any_subset_of_my_profile_is_changed(backend: Backend) -> None:
    anna = await backend.sign_up(first_name="Anna", last_name="Schmidt")
    name = username()
    assert (await anna.put("/users/me", {"bio": "Hi 👋"}))["bio"] == "Hi 👋"
    changed = await anna.put("/users/me", {"username": name, "last_name": None, "language": "de"})
    assert (changed["username"], changed["last_name"], changed["bio"]) == (name, None, "Hi 👋")
    assert await anna.get("/users/me") == changed
    assert (await anna.put("/users/me", {"username": None}))["username"] is None
    assert await anna.put("/users/me", {}) == {**changed, "username": None}


async def test_text_is_stored_exactly_as_sent(backend: Backend) -> None:
    anna = await backend.sign_up()
    for name in ("e\u0301 decomposed", "é composed", "\uff26ull", "日本語", "👩‍👩‍👧"):
        assert (await anna.put("/users/me", {"first_name": name}))["first_name"] == name
        assert (await anna.get("/users/me"))["first_name"] == name


@pytest.mark.parametrize(
    "change",
    [
        {"first_name": ""},
        {"first_name": None},
        {"first_name": "x" * 65},
        {"first_name": "a\u202eb"},
        {"last_name": "x" * 65},
        {"bio": "x" * 1000},
        {"username": "ab"},
        {"username": "with space"},
        {"username": "ä" * 8},
        {"username": "1number"},
        {"username": "x" * 40},
        {"language": "not a language"},
        {"phone": "+491709999999"},
        {"id": 5},
    ],
)
async def test_a_wrong_value_changes_nothing(backend: Backend, change: dict[str, object]) -> None:
    anna = await backend.sign_up()
    before = await anna.get("/users/me")
    await anna.put("/users/me", {"bio": "new", **change}, expect=422)
    assert await anna.get("/users/me") == before


async def test_a_username_belongs_to_one_alone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    name = username()
    await anna.put("/users/me", {"username": name})
    await bruno.put("/users/me", {"username": name.upper()}, expect=409)
    await bruno.post("/chats/", {"type": "group", "title": "Public", "username": name}, expect=409)
    await anna.put("/users/me", {"username": None})
    await bruno.put("/users/me", {"username": name})


async def test_a_username_asked_for_by_many_at_once_goes_to_one(backend: Backend) -> None:
    people = await backend.people(6)
    body = {"username": username()}
    answers = await asyncio.gather(*(p.call("PUT", "/users/me", body) for p in people))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5


async def test_others_see_my_profile_without_my_phone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await anna.put("/users/me", {"bio": "Hello"})
    seen = await bruno.get(f"/users/{anna.id}")
    documented = {
        "id",
        "username",
        "first_name",
        "last_name",
        "bio",
        "photo",
        "is_contact",
        "is_blocked",
        "presence",
    }
    assert seen.keys() - {"phone"} == documented
    assert (seen["id"], seen["bio"], seen["is_contact"]) == (anna.id, "Hello", False)
    assert seen["presence"]["online"] is False


async def test_nobody_has_an_unknown_id(backend: Backend) -> None:
    anna = await backend.sign_up()
    for user_id in (1, 2**53 - 1):
        await anna.get(f"/users/{user_id}", expect=404, code="user_not_found")


async def test_my_other_devices_learn_of_the_change(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect()
    await anna.put("/users/me", {"first_name": "Anne"})
    await socket.expect("profile_updated", scope="user")
