"""My photo: choosing, replacing and removing it, and how long anybody can read it."""

import asyncio

import pytest

from tests.support.people import Backend, Json
from tests.support.photos import fetch, make_photo, may_read, upload_photo
from tests.support.rows import read_values

pytestmark = pytest.mark.anyio

SHAPE = {"file_id", "url", "thumbnail_url", "width", "height", "placeholder"}


async def test_my_photo_is_shown_wherever_i_am(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    file = await upload_photo(anna)
    me = await anna.put("/users/me", {"photo": file["id"]})
    photo = me["photo"]
    assert photo.keys() == SHAPE
    assert (photo["file_id"], photo["url"]) == (file["id"], file["url"])
    assert (photo["width"], photo["height"]) == (800, 600)
    assert photo["placeholder"]
    assert await anna.get("/users/me") == me
    assert (await bruno.get(f"/users/{anna.id}"))["photo"] == photo
    for person in (anna, bruno):
        assert await may_read(person, photo)
    small = await fetch(bruno, photo["thumbnail_url"])
    assert small.headers["content-type"] == "image/webp"
    assert (await backend.sign_in(anna.phone)).user["photo"] == photo


async def test_the_photo_that_is_replaced_or_removed_is_gone_at_once(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    first, second = [await upload_photo(anna, seed) for seed in (1, 2)]
    before = (await anna.put("/users/me", {"photo": first["id"]}))["photo"]
    after = (await anna.put("/users/me", {"photo": second["id"]}))["photo"]
    assert after["file_id"] == second["id"]
    for person in (anna, bruno):
        assert not await may_read(person, before)
        assert await may_read(person, after)
    await anna.put("/users/me", {"photo": first["id"]}, expect=404, code="file_not_found")
    assert (await anna.put("/users/me", {"photo": None}))["photo"] is None
    assert (await bruno.get(f"/users/{anna.id}"))["photo"] is None
    for person in (anna, bruno):
        assert not await may_read(person, after)


async def test_what_else_is_changed_leaves_the_photo(backend: Backend) -> None:
    anna = await backend.sign_up()
    photo = (await anna.put("/users/me", {"photo": (await upload_photo(anna))["id"]}))["photo"]
    changed = await anna.put("/users/me", {"bio": "Hello", "first_name": "Anne"})
    assert changed["photo"] == photo
    assert await may_read(anna, photo)


async def test_only_an_upload_of_mine_becomes_my_photo(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    mine = (await anna.put("/users/me", {"photo": (await upload_photo(anna))["id"]}))["photo"]
    theirs = await upload_photo(bruno)
    shown = (await bruno.put("/users/me", {"photo": (await upload_photo(bruno, 2))["id"]}))["photo"]
    gone = await upload_photo(anna, 3)
    await anna.delete(gone["url"].removeprefix("/api/v1"), expect=204)
    for file_id in (theirs["id"], shown["file_id"], gone["id"], 2**53 - 1):
        body = {"photo": file_id, "bio": "new"}
        await anna.put("/users/me", body, expect=404, code="file_not_found")
    me = await anna.get("/users/me")
    assert (me["photo"], me["bio"]) == (mine, None)
    assert await may_read(anna, mine)


async def test_a_file_of_another_type_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    text = await anna.upload(b"no picture", name="photo.jpg")
    kept = await anna.upload(make_photo(), purpose="document")
    for file in (text, kept):
        answer = await anna.put(
            "/users/me", {"photo": file["id"]}, expect=422, code="photo_invalid"
        )
        assert [it["field"] for it in answer["errors"]] == ["photo"]
    assert (await anna.get("/users/me"))["photo"] is None


@pytest.mark.parametrize("value", [0, -1, "5", True, 1.0, [5], {"id": 5}, 2**53])
async def test_a_photo_is_named_by_the_id_of_a_file(backend: Backend, value: object) -> None:
    anna = await backend.sign_up()
    await anna.put("/users/me", {"photo": value}, expect=422, code="validation_error")


async def test_my_devices_are_told_once(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await upload_photo(anna)
    socket = await anna.connect()
    me = await anna.put("/users/me", {"photo": file["id"]})
    told = await socket.expect("profile_updated", scope="user")
    assert told["data"]["user"] == me
    await anna.put("/users/me", {"photo": file["id"]})
    assert await may_read(anna, me["photo"])
    await anna.put("/users/me", {"photo": None})
    again = await socket.expect("profile_updated", scope="user")
    assert (again["seq"], again["data"]["user"]["photo"]) == (told["seq"] + 1, None)


async def test_two_photos_at_once_leave_one(backend: Backend) -> None:
    anna = await backend.sign_up()
    devices = [anna, *[await backend.sign_in(anna.phone) for _ in range(3)]]
    files = [await upload_photo(anna, seed) for seed in range(4)]
    answers = await asyncio.gather(
        *(
            device.put("/users/me", {"photo": file["id"]})
            for device, file in zip(devices, files, strict=True)
        )
    )
    assert [it["photo"]["file_id"] for it in answers] == [file["id"] for file in files]
    last = (await anna.get("/users/me"))["photo"]
    readable = [await may_read(anna, it["photo"]) for it in answers]
    assert readable == [it["photo"] == last for it in answers]
    assert await count_uses(backend, anna.id) == 1


async def test_a_photo_shown_elsewhere_too_stays_there(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    file = await upload_photo(anna)
    group = await anna.group("Group", [bruno])
    photo = (await anna.put("/users/me", {"photo": file["id"]}))["photo"]
    await anna.put(f"/chats/{group['id']}", {"photo": file["id"]})
    await anna.put("/users/me", {"photo": None})
    assert await may_read(bruno, photo)
    assert not await may_read(clara, photo)
    await anna.put(f"/chats/{group['id']}", {"photo": None})
    assert not await may_read(anna, photo)
    assert not await may_read(bruno, photo)


async def test_removing_a_photo_while_a_chat_takes_it_leaves_it_whole_or_gone(
    backend: Backend,
) -> None:
    anna, bruno = await backend.people(2)
    outcomes: set[int] = set()
    for seed in range(6):
        group = await anna.group("Group", [bruno])
        photo = (await anna.put("/users/me", {"photo": (await upload_photo(anna, seed))["id"]}))[
            "photo"
        ]
        _, taken = await asyncio.gather(
            anna.put("/users/me", {"photo": None}),
            anna.call("PUT", f"/chats/{group['id']}", {"photo": photo["file_id"]}),
        )
        outcomes.add(taken.status_code)
        shown = (await bruno.chat(group))["photo"]
        assert shown == (photo if taken.is_success else None)
        assert await may_read(bruno, photo) is taken.is_success
    assert outcomes <= {200, 404}


async def test_removing_a_photo_while_a_message_shows_it_leaves_it_whole_or_gone(
    backend: Backend,
) -> None:
    anna, bruno, clara = await backend.people(3)
    chat = await anna.private_chat(bruno)
    for seed in range(6):
        photo = (await anna.put("/users/me", {"photo": (await upload_photo(anna, seed))["id"]}))[
            "photo"
        ]
        body = {"chat_id": chat["id"], "attachments": [photo["file_id"]]}
        _, sent = await asyncio.gather(
            anna.put("/users/me", {"photo": None}), anna.call("POST", "/messages/", body)
        )
        assert sent.status_code in {201, 404}
        assert await may_read(bruno, photo) is sent.is_success
        assert not await may_read(clara, photo)
        if sent.is_success:
            await anna.delete(f"/messages/{sent.json()['id']}", for_everyone=True, expect=204)
        assert not await may_read(bruno, photo)


async def test_a_deleted_account_has_no_photo_and_its_file_is_gone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    for keep_messages in (False, True):
        leaver = await backend.sign_up()
        await bruno.post(
            "/users/contacts", {"contacts": [{"phone": leaver.phone, "first_name": "L"}]}
        )
        photo = (await leaver.put("/users/me", {"photo": (await upload_photo(leaver))["id"]}))[
            "photo"
        ]
        assert await may_read(bruno, photo)
        await leaver.delete("/users/me", expect=204, keep_messages=keep_messages)
        assert (await bruno.get(f"/users/{leaver.id}"))["photo"] is None
        assert not await may_read(bruno, photo)
        assert not await may_read(anna, photo)
        assert await count_uses(backend, leaver.id) == 0


async def test_the_export_has_my_photo(backend: Backend) -> None:
    anna = await backend.sign_up()
    me: Json = await anna.put("/users/me", {"photo": (await upload_photo(anna))["id"]})
    assert (await anna.get("/users/me/export"))["profile"]["photo"] == me["photo"]


async def count_uses(backend: Backend, user_id: int) -> int:
    [count] = await read_values(
        backend.deployment,
        f"SELECT count(*) FROM file_uses WHERE kind = 'user' AND subject_id = {user_id}",
    )
    return int(str(count))
