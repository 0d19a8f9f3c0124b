"""Reading a chat's past, newest first, around any message."""

import pytest

from tests.support.people import Backend, Json

pytestmark = pytest.mark.anyio


async def page(person: Json, chat: Json, **query: object) -> tuple[list[str], bool, bool]:
    answer = await person.get(f"/messages/chat/{chat['id']}", **query)
    assert answer.keys() == {"items", "has_more_before", "has_more_after"}
    texts = [item["text"] for item in answer["items"]]
    return texts, answer["has_more_before"], answer["has_more_after"]


async def test_history_is_read_before_after_and_around_a_message(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    ids = [(await anna.say(chat, str(n)))["id"] for n in range(10)]
    assert await page(bruno, chat, limit=3) == (["9", "8", "7"], True, False)
    assert await page(bruno, chat, limit=3, before=ids[7]) == (["6", "5", "4"], True, True)
    assert await page(bruno, chat, limit=3, before=ids[2]) == (["1", "0"], False, True)
    assert await page(bruno, chat, limit=3, after=ids[2]) == (["5", "4", "3"], True, True)
    assert await page(bruno, chat, limit=3, after=ids[7]) == (["9", "8"], True, False)
    texts, before, after = await page(bruno, chat, limit=5, around=ids[5])
    assert "5" in texts
    assert len(texts) == 5
    assert texts == sorted(texts, reverse=True)
    assert (before, after) == (True, True)
    assert await page(bruno, chat) == ([str(n) for n in range(9, -1, -1)], False, False)


async def test_an_anchor_need_not_exist(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    ids = [(await anna.say(chat, str(n)))["id"] for n in range(3)]
    await anna.delete(f"/messages/{ids[1]}", for_everyone=True)
    assert (await page(anna, chat, before=ids[1]))[0] == ["0"]
    assert (await page(anna, chat, after=ids[1]))[0] == ["2"]
    assert (await page(anna, chat, around=ids[1]))[0] == ["2", "0"]
    assert (await page(anna, chat, before=2**53 - 1))[0] == ["2", "0"]


@pytest.mark.parametrize(
    "query",
    [
        {"before": 1, "after": 1},
        {"before": 1, "around": 1},
        {"limit": 0},
        {"limit": 101},
        {"limit": -1},
        {"limit": "1_0"},
        {"limit": "+1"},
        {"limit": "true"},
        {"before": 0},
        {"before": 2**53},
        {"before": 2**64},
        {"before": "x"},
        {"after": "01"},
        {"around": "1.0"},
    ],
)
async def test_a_wrong_page_is_refused(backend: Backend, query: dict[str, object]) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    await anna.get(f"/messages/chat/{chat['id']}", expect=422, **query)


async def test_a_page_has_fifty_messages_unless_asked(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    for n in range(51):
        await anna.say(chat, str(n))
    assert len((await page(anna, chat))[0]) == 50
    assert len((await page(anna, chat, limit=100))[0]) == 51


async def test_the_history_of_others_is_as_if_it_were_not(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "secret")
    answers = [
        await eve.get(f"/messages/chat/{chat_id}", expect=404)
        for chat_id in (chat["id"], 2**53 - 1)
    ]
    assert answers[0] == answers[1]
    singles = [
        await eve.get(f"/messages/{message_id}", expect=404)
        for message_id in (message["id"], 2**53 - 1)
    ]
    assert singles[0] == singles[1]


async def test_newcomers_read_from_their_joining_on(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Private", [bruno])
    old = await anna.say(group, "before")
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [clara.id]})
    new = await anna.say(group, "after", reply_to_message_id=old["id"])
    seen = [message for message in await clara.history(group) if message["type"] == "text"]
    assert [message["id"] for message in seen] == [new["id"]]
    assert "before" not in str(seen)
    await clara.get(f"/messages/{old['id']}", expect=404)
    await bruno.get(f"/messages/{old['id']}", expect=200)
    texts = [m["text"] for m in await clara.history(group, around=old["id"]) if m["type"] == "text"]
    assert texts == ["after"]


async def test_newcomers_read_everything_where_history_is_visible(backend: Backend) -> None:
    anna, clara = await backend.people(2)
    for chat in (await anna.group("Open", history_visible=True), await anna.channel("News")):
        await anna.say(chat, "before")
        await anna.post(f"/chats/{chat['id']}/members", {"user_ids": [clara.id]})
        assert "before" in [message.get("text") for message in await clara.history(chat)]


async def test_who_was_removed_reads_nothing_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    message = await anna.say(group, "old")
    await anna.delete(f"/chats/{group['id']}/members/{bruno.id}", expect=204)
    await bruno.get(f"/messages/chat/{group['id']}", expect=404)
    await bruno.get(f"/messages/{message['id']}", expect=404)
    await bruno.get(f"/chats/{group['id']}", expect=404)
