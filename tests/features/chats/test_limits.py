"""What a user can grow has a cap, and the answer names it."""

import pytest

from tests.support.people import Backend

pytestmark = pytest.mark.anyio


async def test_a_chat_has_at_most_a_hundred_invite_links(backend: Backend) -> None:
    owner = await backend.sign_up()
    chat = await owner.group("Links")
    path = f"/chats/{chat['id']}/invites"
    made = [await owner.post(path, {}, expect=201) for _ in range(100)]
    await owner.post(path, {}, expect=409, code="too_many_invites")
    await owner.delete(f"{path}/{made[0]['code']}")
    await owner.post(path, {}, expect=201)


async def test_a_chat_has_at_most_fifty_admins_its_owner_included(backend: Backend) -> None:
    owner, *people = await backend.people(51)
    chat = await owner.group("Chiefs", people)
    path = f"/chats/{chat['id']}/members"
    role = {"role": "admin", "permissions": ["delete_messages"]}
    for person in people[:49]:
        await owner.put(f"{path}/{person.id}", role, expect=200)
    await owner.put(f"{path}/{people[49].id}", role, expect=409, code="too_many_admins")
    admins = [m for m in await owner.walk(path, limit=100) if m["role"] in {"admin", "owner"}]
    assert len(admins) == 50


async def test_a_group_is_made_without_those_who_may_not_be_added(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await bruno.put("/users/me/privacy", {"add_to_groups": "nobody"}, expect=200)
    assert (await anna.group("Alone", [bruno]))["members_count"] == 1


async def test_nobody_opens_a_chat_with_who_blocked_them(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await bruno.put(f"/users/blocked/{anna.id}", expect=200)
    body = {"type": "private", "user_id": bruno.id}
    await anna.post("/chats/", body, expect=403, code="not_allowed")
