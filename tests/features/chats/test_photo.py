"""Photos of groups and channels: who changes and sees them, and how long anybody can read them."""

import asyncio

import pytest

from tests.support.people import Backend, Json, Person, new_id
from tests.support.photos import make_photo, may_read, upload_photo
from tests.support.rows import read_values
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SHAPE = {"file_id", "url", "thumbnail_url", "width", "height", "placeholder"}


def path(chat: Json) -> str:
    return f"/chats/{chat['id']}"


async def put_photo(person: Person, chat: Json, seed: int = 1) -> Json:
    file = await upload_photo(person, seed)
    return (await person.put(path(chat), {"photo": file["id"]}))["photo"]


async def list_actions(person: Person, chat: Json) -> list[str]:
    """Of the service messages, the newest first."""
    return [it["service"]["action"] for it in await person.history(chat) if it["type"] == "service"]


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_a_photo_is_shown_with_its_chat(backend: Backend, kind: str) -> None:
    anna, bruno = await backend.people(2)
    chat = await (anna.group if kind == "group" else anna.channel)("Title", [bruno])
    assert chat["photo"] is None
    socket = await bruno.connect()
    photo = await put_photo(anna, chat)
    assert photo.keys() == SHAPE
    told = await socket.expect("chat_updated", scope=f"chat:{chat['id']}")
    assert told["data"]["photo"] == photo
    for person in (anna, bruno):
        assert (await person.chat(chat))["photo"] == photo
        [item] = await person.walk("/chats/")
        assert item["photo"] == photo
        assert await may_read(person, photo)
    await anna.put(path(chat), {"photo": None})
    told = await socket.expect("chat_updated", scope=f"chat:{chat['id']}")
    assert told["data"]["photo"] is None
    assert not await may_read(bruno, photo)
    assert not await may_read(anna, photo)


async def test_a_group_is_told_in_the_chat_itself_and_a_channel_is_not(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    await put_photo(anna, group)
    same = (await anna.chat(group))["photo"]["file_id"]
    seq = (await anna.put(path(group), {"photo": same}))["seq"]
    assert (await anna.put(path(group), {"photo": same}))["seq"] == seq
    await anna.put(path(group), {"photo": None, "title": "New"})
    assert await list_actions(bruno, group) == [
        "photo_removed",
        "title_changed",
        "photo_changed",
        "group_created",
    ]
    channel = await anna.channel("Channel", [bruno])
    await put_photo(anna, channel)
    assert await bruno.history(channel) == []


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_a_chat_is_made_with_its_photo(backend: Backend, kind: str) -> None:
    anna, bruno = await backend.people(2)
    socket = await bruno.connect()
    file = await upload_photo(anna)
    body = {"type": kind, "title": "Title", "member_ids": [bruno.id], "photo": file["id"]}
    chat = await anna.post("/chats/", body, expect=201)
    assert chat["photo"]["file_id"] == file["id"]
    told = await socket.expect("chat_created", scope="user")
    assert told["data"]["photo"] == chat["photo"]
    assert await may_read(bruno, chat["photo"])
    theirs = await upload_photo(bruno)
    text = await anna.upload(b"no picture", purpose="document")
    before = len(await anna.walk("/chats/"))
    for photo, status, code in (
        (theirs["id"], 404, "file_not_found"),
        (text["id"], 422, "photo_invalid"),
    ):
        await anna.post("/chats/", {**body, "photo": photo}, expect=status, code=code)
    assert len(await anna.walk("/chats/")) == before


async def test_whoever_may_change_the_chat_changes_its_photo_by_an_upload_of_theirs(
    backend: Backend,
) -> None:
    anna, bruno, clara, eve = await backend.people(4)
    group = await anna.group("Group", [bruno, clara])
    private = await anna.private_chat(bruno)
    hers, his, strange = [await upload_photo(it) for it in (anna, bruno, eve)]
    await bruno.put(path(group), {"photo": his["id"]}, expect=403, code="not_allowed")
    await eve.put(path(group), {"photo": strange["id"]}, expect=404, code="chat_not_found")
    for photo in (hers["id"], None):
        await anna.put(path(private), {"photo": photo}, expect=403, code="not_allowed")
    rights = {"role": "admin", "permissions": ["change_info"]}
    await anna.put(f"{path(group)}/members/{bruno.id}", rights)
    await bruno.put(path(group), {"photo": hers["id"]}, expect=404, code="file_not_found")
    body = {"photo": (await bruno.upload(b"text", purpose="document"))["id"], "title": "New"}
    await bruno.put(path(group), body, expect=422, code="photo_invalid")
    assert (await clara.chat(group))["title"] == "Group"
    photo = (await bruno.put(path(group), {"photo": his["id"]}))["photo"]
    assert await may_read(clara, photo)
    # Whoever uploaded it, the chat shows it, also after that person has gone.
    await bruno.post(f"{path(group)}/leave", expect=204)
    assert await may_read(clara, photo)
    await anna.put(path(group), {"photo": None})
    assert not await may_read(clara, photo)


async def test_the_photo_of_a_private_group_is_for_its_members(backend: Backend) -> None:
    anna, bruno, clara, eve = await backend.people(4)
    group = await anna.group("Group", [bruno, clara])
    photo = await put_photo(anna, group)
    assert await may_read(bruno, photo)
    assert not await may_read(eve, photo)
    await bruno.post(f"{path(group)}/leave", expect=204)
    await anna.put(f"{path(group)}/members/{clara.id}", {"role": "banned"})
    for person in (bruno, clara):
        assert not await may_read(person, photo)
    await anna.post(f"{path(group)}/members", {"user_ids": [bruno.id]})
    assert await may_read(bruno, photo)


async def test_the_photo_of_a_public_chat_is_for_everyone_while_it_is_public(
    backend: Backend,
) -> None:
    anna, bruno, eve = await backend.people(3)
    name = "club_" + new_id()[:8]
    group = await anna.group("Club", [bruno], username=name)
    photo = await put_photo(anna, group)
    assert (await eve.get("/chats/resolve", username=name))["photo"] == photo
    assert await may_read(eve, photo)
    await anna.put(path(group), {"username": None})
    assert not await may_read(eve, photo)
    assert await may_read(bruno, photo)


async def test_an_invitation_shows_the_outline_alone(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    group = await anna.group("Group", [bruno])
    photo = await put_photo(anna, group)
    invite = await anna.post(f"{path(group)}/invites", {}, expect=201)
    link = f"/invites/{invite['code']}"
    outline = {name: photo[name] for name in ("width", "height", "placeholder")}
    assert (await eve.get(link))["chat"]["photo"] == outline
    assert (await bruno.get(link))["chat"]["photo"] == photo
    assert not await may_read(eve, photo)
    assert (await eve.post(f"{link}/join"))["photo"] == photo
    assert await may_read(eve, photo)
    await anna.put(path(group), {"username": "open_" + new_id()[:8]})
    stranger = await backend.sign_up()
    assert (await stranger.get(link))["chat"]["photo"] == photo
    await anna.put(path(group), {"photo": None})
    assert (await stranger.get(link))["chat"]["photo"] is None


async def test_a_deleted_chat_has_no_photo(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno], username="gone_" + new_id()[:8])
    photo = await put_photo(anna, group)
    await anna.delete(path(group), expect=204)
    for person in (anna, bruno):
        assert not await may_read(person, photo)
    assert await count_uses(backend, group) == 0


async def test_photos_put_at_once_leave_one(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    for admin in (bruno, clara):
        rights = {"role": "admin", "permissions": ["change_info"]}
        await anna.put(f"{path(group)}/members/{admin.id}", rights)
    people = (anna, bruno, clara)
    photos = await asyncio.gather(*(put_photo(it, group, n) for n, it in enumerate(people)))
    last = (await anna.chat(group))["photo"]
    readable = [await may_read(anna, photo) for photo in photos]
    assert readable == [photo == last for photo in photos]
    assert readable.count(True) == 1
    assert await count_uses(backend, group) == 1
    assert (await list_actions(anna, group)).count("photo_changed") == len(people)


async def test_two_chats_that_exchange_their_photos_both_have_one(backend: Backend) -> None:
    """Each takes what the other lets go: whoever waits for the other's file must not wait for ever."""
    anna = await backend.sign_up()
    groups = [await anna.group("One"), await anna.group("Other")]
    files = [(await upload_photo(anna, seed))["id"] for seed in (1, 2)]
    for _ in range(4):
        for group, file_id in zip(groups, files, strict=True):
            await anna.put(path(group), {"photo": file_id})
        # A further use of each keeps it alive, whichever is let go first.
        keepers = [await anna.group("Keeper") for _ in files]
        for keeper, file_id in zip(keepers, files, strict=True):
            await anna.put(path(keeper), {"photo": file_id})
        files.reverse()
        answers = await asyncio.gather(
            *(
                anna.put(path(group), {"photo": file_id})
                for group, file_id in zip(groups, files, strict=True)
            )
        )
        assert [answer["photo"]["file_id"] for answer in answers] == files
    for group in groups:
        assert await may_read(anna, (await anna.chat(group))["photo"])


@pytest.mark.parametrize("keep_messages", [False, True])
async def test_who_deletes_the_account_takes_the_photo_or_leaves_it(
    backend: Backend, keep_messages: bool
) -> None:
    anna, bruno = await backend.people(2)
    leaver = await backend.sign_up()
    group = await anna.group("Group", [bruno, leaver])
    left = await anna.group("Left", [bruno, leaver])
    for chat in (group, left):
        rights = {"role": "admin", "permissions": ["change_info"]}
        await anna.put(f"{path(chat)}/members/{leaver.id}", rights)
    photos = [await put_photo(leaver, group, 1), await put_photo(leaver, left, 2)]
    await leaver.post(f"{path(left)}/leave", expect=204)
    await leaver.delete("/users/me", expect=204, keep_messages=keep_messages)

    async def is_out() -> bool:
        return (await bruno.chat(group))["members_count"] == 2

    await eventually(is_out, timeout_seconds=30, what="the departure")
    for chat, photo in zip((group, left), photos, strict=True):
        assert (await bruno.chat(chat))["photo"] == (photo if keep_messages else None)
        assert await may_read(bruno, photo) is keep_messages


async def test_an_equal_upload_outlives_the_photo_that_it_replaced(backend: Backend) -> None:
    anna = await backend.sign_up()
    first, second = [await anna.upload(make_photo(7), purpose="photo") for _ in range(2)]
    group = await anna.group("Group")
    before = (await anna.put(path(group), {"photo": first["id"]}))["photo"]
    after = (await anna.put(path(group), {"photo": second["id"]}))["photo"]
    assert not await may_read(anna, before)
    assert await may_read(anna, after)


async def count_uses(backend: Backend, chat: Json) -> int:
    [count] = await read_values(
        backend.deployment,
        f"SELECT count(*) FROM file_uses WHERE kind = 'chat' AND subject_id = {chat['id']}",
    )
    return int(str(count))
