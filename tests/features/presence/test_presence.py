"""Who is online, and who is told."""

import pytest

from tests.support.people import Backend, is_time

pytestmark = pytest.mark.anyio

# "Offline 10 s after the last socket closed", and a little for a busy machine.
OFFLINE_SECONDS = 60


async def test_people_i_talk_to_are_told_that_i_am_online(backend: Backend) -> None:
    anna, bruno, friend, eve = await backend.people(4)
    await anna.private_chat(bruno)
    contacts = [{"phone": anna.phone, "first_name": "Anna"}]
    await friend.post("/users/contacts", {"contacts": contacts})
    watchers = [await bruno.connect(), await friend.connect()]
    stranger = await eve.connect()
    await anna.connect()
    for watcher in watchers:
        frame = await watcher.expect("user_online", {"user_id": anna.id})
        assert "seq" not in frame
    await stranger.settle()
    assert stranger.seen("user_online") == []
    assert (await bruno.get(f"/users/{anna.id}"))["presence"]["online"]


async def test_people_from_whom_i_hide_are_not_told(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.put("/users/me/privacy", {"last_seen": "nobody"})
    watcher = await bruno.connect()
    await anna.connect()
    marker = await anna.say(chat, "marker")
    await watcher.expect_message(marker["id"])
    assert watcher.seen("user_online") == []
    assert not (await bruno.get(f"/users/{anna.id}"))["presence"]["online"]


async def test_whom_i_block_is_not_told(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.put(f"/users/blocked/{bruno.id}")
    watcher = await bruno.connect()
    await anna.connect()
    await watcher.settle()
    assert watcher.seen("user_online") == []
    assert (await bruno.chat(chat))["peer"]["id"] == anna.id


@pytest.mark.slow
async def test_i_am_offline_ten_seconds_after_my_last_socket(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await anna.private_chat(bruno)
    watcher = await bruno.connect()
    first, second = await anna.connect(), await anna.connect()
    await watcher.expect("user_online", {"user_id": anna.id})
    await first.close()
    await second.close()
    gone = await watcher.expect(
        "user_offline", {"user_id": anna.id}, timeout_seconds=OFFLINE_SECONDS
    )
    assert is_time(gone["data"]["last_seen_at"])
    presence = (await bruno.get(f"/users/{anna.id}"))["presence"]
    assert presence["online"] is False
    assert is_time(presence["last_seen_at"])


@pytest.mark.slow
async def test_a_short_break_of_the_line_is_not_told(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    watcher = await bruno.connect()
    first = await anna.connect()
    await watcher.expect("user_online", {"user_id": anna.id})
    first.abort()
    await anna.connect()
    marker = await anna.say(chat, "marker")
    await watcher.expect_message(marker["id"])
    assert watcher.seen("user_offline") == []
