"""Privacy: everyone, contacts or nobody."""

import pytest

from tests.support.people import Backend, Person, new_id

pytestmark = pytest.mark.anyio

KEYS = {"phone", "last_seen", "photo", "find_by_phone", "add_to_groups", "call"}


async def add_contact(person: Person, other: Person) -> None:
    """The phone must be findable at this moment."""
    contacts = [{"phone": other.phone, "first_name": "Friend"}]
    answer = await person.post("/users/contacts", {"contacts": contacts})
    assert answer["not_found_count"] == 0


async def test_six_rules_are_read_and_changed(backend: Backend) -> None:
    anna = await backend.sign_up()
    before = await anna.get("/users/me/privacy")
    assert before.keys() == KEYS
    assert set(before.values()) <= {"everyone", "contacts", "nobody"}
    changed = await anna.put("/users/me/privacy", {"phone": "nobody", "call": "contacts"})
    assert changed == {**before, "phone": "nobody", "call": "contacts"}
    assert await anna.get("/users/me/privacy") == changed


@pytest.mark.parametrize("rule", [{"phone": "friends"}, {"phone": None}, {"name": "nobody"}])
async def test_an_unknown_rule_is_refused(backend: Backend, rule: dict[str, object]) -> None:
    anna = await backend.sign_up()
    await anna.put("/users/me/privacy", rule, expect=422)


async def test_the_phone_is_shown_to_whom_the_owner_allows(backend: Backend) -> None:
    anna, friend, stranger = await backend.people(3)
    await add_contact(anna, friend)
    shown = {"everyone": (True, True), "contacts": (True, False), "nobody": (False, False)}
    for rule, expected in shown.items():
        await anna.put("/users/me/privacy", {"phone": rule})
        views = [await viewer.get(f"/users/{anna.id}") for viewer in (friend, stranger)]
        assert tuple(view.get("phone") == anna.phone for view in views) == expected, rule


async def test_last_seen_is_shown_to_whom_the_owner_allows(backend: Backend) -> None:
    anna, friend, stranger = await backend.people(3)
    await add_contact(anna, friend)
    await anna.connect()
    shown = {"everyone": (True, True), "contacts": (True, False), "nobody": (False, False)}
    for rule, expected in shown.items():
        await anna.put("/users/me/privacy", {"last_seen": rule})
        views = [await viewer.get(f"/users/{anna.id}") for viewer in (friend, stranger)]
        assert tuple(view["presence"]["online"] for view in views) == expected, rule
        assert views[1]["presence"].get("last_seen_at") is None or expected[1]


async def test_who_may_add_me_to_groups(backend: Backend) -> None:
    anna, friend, stranger = await backend.people(3)
    await add_contact(anna, friend)
    allowed = {"everyone": (True, True), "contacts": (True, False), "nobody": (False, False)}
    for rule, expected in allowed.items():
        await anna.put("/users/me/privacy", {"add_to_groups": rule})
        for adder, may in zip((friend, stranger), expected, strict=True):
            group = await adder.group("Group")
            path, body = f"/chats/{group['id']}/members", {"user_ids": [anna.id]}
            if may:
                await adder.post(path, body)
            else:
                await adder.post(path, body, expect=403, code="not_allowed")


async def test_who_may_call_me(backend: Backend) -> None:
    anna, friend, stranger = await backend.people(3)
    await add_contact(anna, friend)
    await anna.put("/users/me/privacy", {"call": "contacts"})
    call = {"call_id": new_id(), "kind": "audio", "action": "offer", "sdp": "v=0"}
    chats = [await caller.private_chat(anna) for caller in (friend, stranger)]
    sockets = [await caller.connect() for caller in (friend, stranger)]
    await sockets[0].request("call", {**call, "chat_id": chats[0]["id"]})
    await sockets[1].refused("call", {**call, "chat_id": chats[1]["id"]}, "call_not_allowed")
