"""The list of my chats and what only I see of them."""

import pytest

from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio


async def listed(person: Person, **query: object) -> list[int]:
    return [item["id"] for item in await person.walk("/chats/", **query)]


async def three_chats(anna: Person) -> list[Json]:
    """Groups with a message each, oldest first."""
    chats = [await anna.group(f"Group {n}") for n in range(3)]
    for chat in chats:
        await anna.say(chat, "text")
    return chats


async def test_the_newest_talk_stands_first(backend: Backend) -> None:
    anna = await backend.sign_up()
    a, b, c = await three_chats(anna)
    assert await listed(anna) == [c["id"], b["id"], a["id"]]
    await anna.say(a, "again")
    assert await listed(anna) == [a["id"], c["id"], b["id"]]


async def test_pinned_chats_stand_above(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    a, b, c = await three_chats(anna)
    pinned = await anna.put(f"/chats/{a['id']}/settings", {"is_pinned": True}, expect=200)
    assert pinned.get("my", pinned)["is_pinned"] is True
    assert await listed(anna) == [a["id"], c["id"], b["id"]]
    await anna.post(f"/chats/{a['id']}/members", {"user_ids": [bruno.id]})
    assert (await bruno.chat(a))["my"]["is_pinned"] is False
    await anna.put(f"/chats/{a['id']}/settings", {"is_pinned": False})
    assert (await anna.chat(a))["my"]["is_pinned"] is False


async def test_at_most_ten_chats_are_pinned(backend: Backend) -> None:
    anna = await backend.sign_up()
    chats = [await anna.group(f"Group {n}") for n in range(11)]
    for chat in chats[:10]:
        await anna.put(f"/chats/{chat['id']}/settings", {"is_pinned": True}, expect=200)
    answer = await anna.call("PUT", f"/chats/{chats[10]['id']}/settings", {"is_pinned": True})
    assert answer.status_code in {409, 422}
    assert (await anna.chat(chats[10]))["my"]["is_pinned"] is False


async def test_archived_chats_have_a_list_of_their_own(backend: Backend) -> None:
    anna = await backend.sign_up()
    a, b, c = await three_chats(anna)
    await anna.put(f"/chats/{b['id']}/settings", {"is_archived": True})
    assert await listed(anna) == [c["id"], a["id"]]
    assert await listed(anna, archived=True) == [b["id"]]


async def test_my_settings_reach_my_other_devices_alone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    mine, theirs = await anna.connect(), await bruno.connect()
    until = "2099-01-01T00:00:00.000Z"
    await anna.put(f"/chats/{group['id']}/settings", {"muted_until": until})
    await mine.expect("chat_settings", scope="user")
    assert (await anna.chat(group))["my"]["muted_until"] == until
    marker = await anna.say(group, "marker")
    await theirs.expect_message(marker["id"])
    assert theirs.seen("chat_settings") == []


@pytest.mark.parametrize(
    "settings",
    [{"is_pinned": 1}, {"is_pinned": "true"}, {"muted_until": "x"}, {"role": "owner"}, []],
)
async def test_wrong_settings_are_refused(backend: Backend, settings: object) -> None:
    anna = await backend.sign_up()
    group = await anna.group("Group")
    await anna.put(f"/chats/{group['id']}/settings", settings, expect=422)


async def test_a_walk_repeats_no_chat_while_others_move(backend: Backend) -> None:
    anna = await backend.sign_up()
    chats = [await anna.group(f"Group {n}") for n in range(9)]
    for chat in chats:
        await anna.say(chat, "text")
    seen: list[int] = []
    cursor = None
    while True:
        page = await anna.get("/chats/", limit=2, cursor=cursor)
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await anna.say(chats[0] if len(seen) < 4 else chats[-1], "moves up")
    assert len(seen) == len(set(seen))
    assert set(seen) >= {chat["id"] for chat in chats[1:]}


async def test_an_item_shows_the_last_message_and_what_is_unread(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "one")
    last = await anna.say(chat, "two")
    item = (await bruno.walk("/chats/"))[0]
    assert (item["unread_count"], item["last_message"]) == (2, last)
    assert item["peer"]["id"] == anna.id
    assert item == await bruno.chat(chat)
    assert "unread_capped" not in item or item["unread_capped"] is False


async def test_newcomers_do_not_see_the_last_message_of_before(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Private")
    await anna.say(group, "secret before")
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [bruno.id]})
    item = await bruno.chat(group)
    assert "secret" not in str(item)
    assert item["unread_count"] == 0


async def test_messages_hidden_by_me_are_not_my_last(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first, second = await anna.say(chat, "first"), await anna.say(chat, "second")
    await bruno.delete(f"/messages/{second['id']}")
    assert (await bruno.chat(chat))["last_message"]["id"] == first["id"]
    assert (await anna.chat(chat))["last_message"]["id"] == second["id"]


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"cursor": "e30"}, {"archived": "1_0"}])
async def test_a_forged_cursor_is_refused(backend: Backend, query: dict[str, object]) -> None:
    anna = await backend.sign_up()
    await anna.get("/chats/", expect=422, **query)


async def test_a_cursor_of_somebody_else_shows_nothing_of_theirs(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await three_chats(anna)
    own = await bruno.group("Mine")
    cursor = (await anna.get("/chats/", limit=1))["next_cursor"]
    answer = await bruno.call("GET", "/chats/", query={"cursor": cursor})
    if answer.status_code == 200:
        assert {item["id"] for item in answer.json()["items"]} <= {own["id"]}
    else:
        assert answer.status_code == 422
