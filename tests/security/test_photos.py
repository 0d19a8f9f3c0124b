"""Who sees a person's photo: what the owner chose holds on every door that shows it or leads to it.

ASSURANCE: C2, F1, H2, H4 of the security checklist.
"""

import pytest

from tests.support.people import Backend, Json, Person
from tests.support.photos import fetch, may_read, upload_photo

pytestmark = pytest.mark.anyio

_AUDIENCES = {
    # Whom: a contact of the owner, somebody who keeps the owner as a contact, and who is blocked.
    "everyone": (True, True, False),
    "contacts": (True, False, False),
    "nobody": (False, False, False),
}


async def put_photo(person: Person) -> Json:
    file = await upload_photo(person)
    return (await person.put("/users/me", {"photo": file["id"]}))["photo"]


async def keep(person: Person, other: Person) -> None:
    contacts = [{"phone": other.phone, "first_name": other.user["first_name"]}]
    answer = await person.post("/users/contacts", {"contacts": contacts})
    assert answer["not_found_count"] == 0


async def look_everywhere(viewer: Person, owner: Person, group: Json) -> dict[str, Json]:
    """The owner's photo, as each door shows it to this viewer, who keeps the owner as a contact."""
    contacts = [{"phone": owner.phone, "first_name": "Again"}]
    private = await viewer.private_chat(owner)
    members = await viewer.walk(f"/chats/{group['id']}/members")
    found = await viewer.get("/users/search", q=owner.user["username"])
    by_phone = await viewer.get("/users/search", q=owner.phone)
    imported = await viewer.post("/users/contacts", {"contacts": contacts})
    return {
        "profile": (await viewer.get(f"/users/{owner.id}"))["photo"],
        "search by username": pick(found["items"], owner)["photo"],
        "search by phone": pick(by_phone["items"], owner)["photo"],
        "import": pick(imported["items"], owner)["photo"],
        "contacts": pick(await viewer.walk("/users/contacts"), owner)["photo"],
        "private chat": private["peer"]["photo"],
        "one chat": (await viewer.chat(private))["peer"]["photo"],
        "chat list": pick_chat(await viewer.walk("/chats/"), private)["peer"]["photo"],
        "members": pick([it["user"] for it in members], owner)["photo"],
    }


def pick(people: list[Json], person: Person) -> Json:
    [found] = [it for it in people if it["id"] == person.id]
    return found


def pick_chat(chats: list[Json], chat: Json) -> Json:
    [found] = [it for it in chats if it["id"] == chat["id"]]
    return found


async def test_every_door_shows_the_photo_to_whom_its_owner_allows(backend: Backend) -> None:
    owner, friend, fan, blocked = await backend.people(4)
    owner.user = await owner.put("/users/me", {"username": f"own_{owner.id}"})
    viewers = (friend, fan, blocked)
    group = await owner.group("Group", viewers)
    for viewer in viewers:
        await viewer.private_chat(owner)
        await viewer.say(await viewer.private_chat(owner), "hello")
        await keep(viewer, owner)
    await keep(owner, friend)
    await keep(owner, blocked)
    await owner.put(f"/users/blocked/{blocked.id}", expect=200)
    photo = await put_photo(owner)
    for audience, expected in _AUDIENCES.items():
        await owner.put("/users/me/privacy", {"photo": audience})
        for viewer, may in zip(viewers, expected, strict=True):
            for door, shown in (await look_everywhere(viewer, owner, group)).items():
                assert shown == (photo if may else None), (audience, door)
            assert await may_read(viewer, photo) is may, audience
        assert (await owner.get("/users/me"))["photo"] == photo
        assert await may_read(owner, photo)
    # What is kept of the private chat does not bring it back, and unblocking does.
    await owner.put("/users/me/privacy", {"photo": "everyone"})
    await owner.delete(f"/users/blocked/{blocked.id}", expect=204)
    assert await may_read(blocked, photo)


async def test_whom_i_have_blocked_is_shown_as_before(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    photo = await put_photo(bruno)
    blocked = await anna.put(f"/users/blocked/{bruno.id}", expect=200)
    assert blocked["photo"] == photo
    assert [it["photo"] for it in await anna.walk("/users/blocked")] == [photo]
    assert await may_read(anna, photo)


async def test_a_hidden_photo_answers_as_one_that_never_was(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    photo = await put_photo(anna)
    await anna.put("/users/me/privacy", {"photo": "nobody"})
    name = photo["url"].rpartition("/")[2]
    for door in ("url", "thumbnail_url"):
        hidden = await fetch(bruno, photo[door])
        never = await fetch(bruno, photo[door].replace(name, "x" * len(name)))
        assert (hidden.status_code, hidden.content) == (404, never.content)
        assert names_of(hidden.headers) == names_of(never.headers)
    assert (await bruno.get(f"/users/{anna.id}"))["photo"] is None


async def test_updates_that_are_the_same_for_all_carry_no_photo_of_a_person(
    backend: Backend,
) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    await put_photo(clara)
    socket = await bruno.connect()
    added = await anna.post(f"/chats/{group['id']}/members", {"user_ids": [clara.id]})
    assert added["items"][0]["user"]["photo"] is not None
    told = await socket.expect("members_changed", scope=f"chat:{group['id']}")
    assert "photo" not in told["data"]["members"][0]["user"]


async def test_a_stranger_without_a_token_reads_no_photo(backend: Backend) -> None:
    anna = await backend.sign_up()
    photo = await put_photo(anna)
    for door in ("url", "thumbnail_url"):
        for method in ("GET", "HEAD"):
            answer = await fetch(backend.stranger(), photo[door], method=method)
            assert answer.status_code == 401


def names_of(headers: Json) -> set[str]:
    return {name.lower() for name in headers}
