"""Coming back: what was missed is replayed once and in order, or the client is told to read again."""

import asyncio

import pytest

from tests.support.people import Backend, Json, Person
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio


async def resume(socket: Socket, epoch: str, state: dict[str, int]) -> None:
    await socket.send_frame("resume", {"epoch": epoch, "state": state})
    await socket.expect("resumed")


async def difference(person: Person, epoch: str, state: Json, **options: object) -> Json:
    answer = await person.post("/updates/difference", {"epoch": epoch, "state": state, **options})
    assert answer.keys() == {"epoch", "updates", "resets", "state", "has_more"}
    return answer


async def test_what_was_missed_is_replayed_in_order_then_live(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    scope = f"chat:{chat['id']}"
    first = await bruno.connect()
    known = first.state[scope]
    await first.close()
    missed = [await anna.say(chat, str(n)) for n in range(5)]
    second = await bruno.connect()
    assert second.state[scope] == known + 5
    await resume(second, second.hello["epoch"], {scope: known})
    live = await anna.say(chat, "live")
    await second.expect_message(live["id"])
    ids = [frame["data"]["id"] for frame in second.seen("new_message")]
    assert ids == [message["id"] for message in (*missed, live)]
    assert second.seqs(scope) == list(range(known + 1, known + 7))


async def test_replay_while_others_write_has_no_gap_and_no_repeat(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    scope = f"chat:{chat['id']}"
    known = (await bruno.chat(chat))["seq"]
    for n in range(30):
        await anna.say(chat, str(n))
    writing = asyncio.gather(*(anna.say(chat, f"during {n}") for n in range(30)))
    for _ in range(3):
        socket = await bruno.connect()
        await resume(socket, socket.hello["epoch"], {scope: known})
        await socket.close()
        seqs = socket.seqs(scope)
        assert seqs == list(range(known + 1, known + 1 + len(seqs)))
    await writing
    last = await anna.say(chat, "last")
    socket = await bruno.connect()
    await resume(socket, socket.hello["epoch"], {scope: known})
    assert socket.seen("new_message")[-1]["data"]["id"] == last["id"]


async def test_updates_of_my_own_scope_are_replayed(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    first = await anna.connect()
    known = first.state["user"]
    await first.close()
    await anna.put(f"/users/blocked/{bruno.id}")
    group = await bruno.group("New")
    await bruno.post(f"/chats/{group['id']}/members", {"user_ids": [anna.id]}, expect=403)
    chat = await anna.group("Mine")
    second = await anna.connect()
    await resume(second, second.hello["epoch"], {"user": known})
    kinds = [frame["type"] for frame in second.frames if frame.get("scope") == "user"]
    assert kinds == ["blocked_changed", "chat_created"]
    assert (
        second.seen("chat_created")[0]["data"].get("chat", {"id": chat["id"]})["id"] == chat["id"]
    )


async def test_a_deleted_message_is_replayed_as_a_tombstone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    scope = f"chat:{chat['id']}"
    known = (await bruno.chat(chat))["seq"]
    message = await anna.say(chat, "secret words")
    await anna.delete(f"/messages/{message['id']}", for_everyone=True)
    socket = await bruno.connect()
    await resume(socket, socket.hello["epoch"], {scope: known})
    assert "secret words" not in str(socket.frames)
    assert socket.seen("new_message")[0]["data"]["is_deleted"] is True
    assert [frame["type"] for frame in socket.frames if frame.get("scope") == scope] == [
        "new_message",
        "message_deleted",
    ]


async def test_what_cannot_be_replayed_is_reset(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    await anna.say(group, "before")
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [clara.id]})
    scope = f"chat:{group['id']}"
    socket = await clara.connect()
    seq = socket.state[scope]
    for epoch, known in (
        (socket.hello["epoch"], 0),  # before the joining
        (socket.hello["epoch"], seq + 1000),  # ahead of the server
        ("another", seq),  # from another epoch
    ):
        await socket.send_frame("resume", {"epoch": epoch, "state": {scope: known}})
        reset = await socket.expect("scope_reset", {"scope": scope})
        assert reset["data"]["seq"] == seq
        await socket.expect("resumed")
    assert "before" not in str(socket.frames)
    message = await anna.say(group, "live again")
    await socket.expect_message(message["id"])


async def test_a_foreign_scope_answers_as_one_that_does_not_exist(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "secret")
    socket = await eve.connect()
    answers = []
    for chat_id in (chat["id"], 2**53 - 1):
        scope = f"chat:{chat_id}"
        await socket.send_frame("resume", {"epoch": socket.hello["epoch"], "state": {scope: 0}})
        reset = await socket.expect("scope_reset", {"scope": scope})
        await socket.expect("resumed")
        answers.append({key: value for key, value in reset["data"].items() if key != "scope"})
    assert answers[0] == answers[1]
    epoch = socket.hello["epoch"]
    polled = [
        await difference(eve, epoch, {f"chat:{chat_id}": 0}) for chat_id in (chat["id"], 2**53 - 1)
    ]
    resets = [[r | {"scope": ""} for r in answer["resets"]] for answer in polled]
    assert resets[0] == resets[1]
    assert polled[0]["updates"] == []
    message = await bruno.say(chat, "still secret")
    own = await eve.private_chat(eve)
    await socket.follow(own)
    marker = await eve.say(own, "marker")
    await socket.expect_message(marker["id"])
    assert socket.seen("new_message", {"id": message["id"]}) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"epoch": "x"},
        {"epoch": "x", "state": []},
        {"epoch": "x", "state": {"user": "1"}},
        {"epoch": "x", "state": {"user": -1}},
        {"epoch": "x", "state": {"user": True}},
        {"epoch": "x", "state": {"user": 2**53}},
        {"epoch": "x", "state": {"planet:1": 1}},
        {"epoch": "x", "state": {"chat:0": 1}},
        {"epoch": "x", "state": {"chat:1_0": 1}},
        {"epoch": 5, "state": {}},
    ],
)
async def test_a_wrong_state_is_refused(backend: Backend, data: dict[str, object]) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect()
    if data.get("epoch") == "x":
        data = data | {"epoch": socket.hello["epoch"]}
    await socket.refused("resume", data, "validation_error")
    await anna.post("/updates/difference", data, expect=422)


async def test_a_frame_names_at_most_a_thousand_scopes(backend: Backend) -> None:
    socket = await (await backend.sign_up()).connect()
    state = {f"chat:{n}": 1 for n in range(1, 1002)}
    data = {"epoch": socket.hello["epoch"], "state": state}
    await socket.refused("resume", data, "validation_error")


async def test_the_difference_names_scopes_that_are_new(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    hello = (await bruno.connect()).hello
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "Hello")
    answer = await difference(bruno, hello["epoch"], hello["state"])
    assert [update["type"] for update in answer["updates"]][:1] == ["chat_created"]
    assert answer["state"][f"chat:{chat['id']}"] == (await bruno.chat(chat))["seq"]


async def test_the_difference_is_fetched_in_pages(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chats = [await anna.private_chat(bruno), await anna.group("Group", [bruno])]
    hello = (await bruno.connect()).hello
    state, epoch = hello["state"], hello["epoch"]
    messages = [await anna.say(chats[n % 2], str(n)) for n in range(11)]
    updates: list[Json] = []
    for _ in range(30):
        answer = await difference(bruno, epoch, state, limit=4)
        assert len(answer["updates"]) <= 4
        assert answer["resets"] == []
        updates += answer["updates"]
        state = answer["state"]
        if not answer["has_more"]:
            break
    ids = [update["data"]["id"] for update in updates if update["type"] == "new_message"]
    assert sorted(ids) == [message["id"] for message in messages]
    for chat in chats:
        seqs = [update["seq"] for update in updates if update["scope"] == f"chat:{chat['id']}"]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert (await difference(bruno, epoch, state))["updates"] == []


async def test_the_difference_and_the_replay_are_the_same_updates(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    scope = f"chat:{chat['id']}"
    live = await bruno.connect()
    message = await anna.say(chat, "one")
    await anna.put(f"/messages/{message['id']}", {"text": "two"})
    await live.expect("message_edited")
    again = await bruno.connect()
    await resume(again, again.hello["epoch"], {scope: live.state[scope]})
    polled = await difference(bruno, live.hello["epoch"], {**again.state, scope: live.state[scope]})
    replayed = [frame for frame in again.frames if frame.get("scope") == scope]
    assert polled["updates"] == replayed
    assert replayed[-1] == live.seen("message_edited")[0]


async def test_another_epoch_voids_all_state(backend: Backend) -> None:
    anna = await backend.sign_up()
    hello = (await anna.connect()).hello
    answer = await difference(anna, "another", {"user": 0})
    assert answer["epoch"] == hello["epoch"]
    assert [reset["scope"] for reset in answer["resets"]] == ["user"]
    assert answer["state"]["user"] == hello["state"]["user"]


async def test_who_was_removed_is_told_by_the_difference(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    hello = (await bruno.connect()).hello
    await anna.delete(f"/chats/{group['id']}/members/{bruno.id}")
    hidden = await anna.say(group, "without you")
    answer = await difference(bruno, hello["epoch"], hello["state"])
    assert "chat_removed" in [update["type"] for update in answer["updates"]]
    assert hidden["text"] not in str(answer)
    assert f"chat:{group['id']}" not in answer["state"]
