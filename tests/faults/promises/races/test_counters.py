"""Counters converge: after any load, what is told of unread, mentioned and members is a recount of the rows."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from tests.faults.checkers import Count, check_counts
from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.killing import killing_workers
from tests.faults.promises.races.lines import Answer, NoAnswer, run_all
from tests.faults.promises.races.listening import Listener, listen
from tests.faults.promises.scale import scaled
from tests.support.people import Json, new_id
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PEOPLE = 5
AT_ONCE = 10
ACTIONS = scaled(quick=300, full=4000)
# More than a hundred: then only readers themselves are told of their marks.
CROWD = scaled(quick=0, full=110)
IS_HURT = scaled(quick=False, full=True)
_PAUSE_SECONDS = 0.05
_UNAVAILABLE = 503
# What a call may be refused with when another one came first.
_LOST_RACE = {"chat_not_found", "member_not_found", "message_not_found", "not_allowed"}
# Counted the plain way, on purpose unlike the server's own statements.
_RECOUNT = """
    SELECT p.chat_id,
        (SELECT count(*) FROM messages m
         WHERE m.chat_id = p.chat_id AND m.id > p.last_read_message_id
           AND m.sender_id <> p.user_id AND m.type <> 'service' AND m.deleted_at IS NULL
           AND m.id NOT IN (SELECT h.message_id FROM hidden_messages h
                            WHERE h.user_id = p.user_id)) AS unread,
        (SELECT count(*) FROM message_mentions w JOIN messages m ON m.id = w.message_id
         WHERE w.chat_id = p.chat_id AND w.user_id = p.user_id
           AND m.id > p.last_read_message_id AND m.deleted_at IS NULL
           AND m.id NOT IN (SELECT h.message_id FROM hidden_messages h
                            WHERE h.user_id = p.user_id)) AS mentions,
        (SELECT count(*) FROM chat_participants other
         WHERE other.chat_id = p.chat_id
           AND other.role IN ('owner', 'admin', 'member', 'restricted')) AS members,
        p.last_read_message_id
    FROM chat_participants p
    WHERE p.user_id = $1 AND p.role IN ('owner', 'admin', 'member', 'restricted')
"""


@dataclass(slots=True, eq=False)
class Chat:
    """`said`: (message id, sender), in order. `is_open`: the members come and go."""

    id: int
    members: list[Caller]
    writers: list[Caller]
    is_open: bool = False
    said: list[tuple[int, Caller]] = field(default_factory=list[tuple[int, Caller]])


class Load:
    """Everything that moves a counter, at random, on any worker."""

    def __init__(self, callers: Callers, chats: list[Chat]) -> None:
        self._random = callers.random
        self._chats = chats
        self.done = 0
        self.unknown = 0

    async def act(self) -> None:
        chat = self._random.choice(self._chats)
        ways = [self._say, self._say, self._edit, self._delete, self._hide, self._read, self._read]
        way = self._random.choice([*ways, self._pass_the_door] if chat.is_open else ways)
        try:
            answer = await way(chat)
        except NoAnswer:
            self.unknown += 1
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        if answer.status == _UNAVAILABLE:
            self.unknown += 1
            return
        assert answer.is_success or answer.code in _LOST_RACE, answer
        self.done += 1

    async def _say(self, chat: Chat) -> Answer:
        sender = self._random.choice(chat.writers)
        body = self._body(chat) | {"chat_id": chat.id, "client_message_id": new_id()}
        answer = await sender.call("POST", "/messages/", body)
        if answer.is_success:
            chat.said.append((answer.body["id"], sender))
        return answer

    async def _edit(self, chat: Chat) -> Answer:
        if not chat.said:
            return await self._say(chat)
        message_id, sender = self._random.choice(chat.said)
        return await sender.call("PUT", f"/messages/{message_id}", self._body(chat))

    async def _delete(self, chat: Chat) -> Answer:
        if not chat.said:
            return await self._say(chat)
        message_id, sender = self._random.choice(chat.said[-50:])
        return await sender.call("DELETE", f"/messages/{message_id}?for_everyone=true")

    async def _hide(self, chat: Chat) -> Answer:
        if not chat.said:
            return await self._say(chat)
        message_id, _ = self._random.choice(chat.said[-50:])
        return await self._random.choice(chat.members).call("DELETE", f"/messages/{message_id}")

    async def _read(self, chat: Chat) -> Answer:
        if not chat.said:
            return await self._say(chat)
        message_id, _ = self._random.choice(chat.said)
        reader = self._random.choice(chat.members)
        return await read_to(reader, chat.id, message_id)

    async def _pass_the_door(self, chat: Chat) -> Answer:
        guest = self._random.choice(chat.members[1:])
        if self._random.random() < 0.5:
            return await guest.call("POST", f"/chats/{chat.id}/join")
        actor = self._random.choice([guest, chat.members[0]])
        return await actor.call("DELETE", f"/chats/{chat.id}/members/{guest.id}")

    def _body(self, chat: Chat) -> Json:
        """A text, half of them with somebody's name in it."""
        number = f"{self._random.getrandbits(40):010x}"
        if self._random.random() < 0.5:
            return {"text": f"text {number}"}
        user_id = self._random.choice(chat.members).id
        entity = {"type": "text_mention", "offset": 0, "length": 3, "user_id": user_id}
        return {"text": f"you {number}", "entities": [entity]}


async def read_to(reader: Caller, chat_id: int, message_id: int) -> Answer:
    return await reader.call("POST", f"/chats/{chat_id}/read", {"message_id": message_id})


async def make_chats(people: list[Caller], crowd: list[Caller]) -> list[Chat]:
    first, second = people[0], people[1]
    members = [person.id for person in people[1:]]
    channel = {"type": "channel", "title": "The channel", "member_ids": members}
    door = {"username": f"door_{new_id()[:8]}"}
    return [
        Chat(await first.group(*people[1:], *crowd), people, people),
        Chat(await second.private(people[2]), people[1:3], people[1:3]),
        Chat((await first.post("/chats/", channel))["id"], people, [first]),
        Chat(await first.group(*people[1:], **door), people, people, is_open=True),
    ]


async def recount(callers: Callers, person: Caller) -> dict[tuple[int, int], Count]:
    rows = await callers.rows(_RECOUNT, person.id)
    return {(person.id, chat_id): Count(*counts) for chat_id, *counts in rows}


async def judge(callers: Callers, people: list[Caller]) -> None:
    """All workers list the same, and that is what the rows say."""
    for person in people:
        counts = await recount(callers, person)
        for door in callers.doors:
            listed = (await person.get("/chats/?limit=100", door=door))["items"]
            assert check_counts({person.id: listed}, counts) == []


async def test_counts_are_a_recount_after_any_load(either: Callers) -> None:
    people = await either.sign_up(PEOPLE)
    chats = await make_chats(people, await either.sign_up(CROWD))
    epochs = {person: await ask_epoch(either, person) for person in people}
    load = Load(either, chats)
    async with killing_workers(either, is_wanted=IS_HURT) as killing:
        began = time.monotonic()
        await run_all([load.act] * ACTIONS, at_once=AT_ONCE)
        seconds = time.monotonic() - began
    print(
        f"{load.done} actions and {load.unknown} without an answer in {seconds:.0f} s, "
        f"{killing.kills} kills"
    )
    assert load.done > ACTIONS // 2
    await judge(either, people)
    await judge_live_marks(either, people, chats)
    for person in people:
        await judge_replayed_marks(either, person, epochs[person])
    await judge(either, people)


async def ask_epoch(callers: Callers, person: Caller) -> str:
    body = {"epoch": "unknown", "state": {"user": 0}}
    return (await person.post("/updates/difference", body))["epoch"]


async def judge_live_marks(callers: Callers, people: list[Caller], chats: list[Chat]) -> None:
    """Each `read` that a device is sent carries what is left unread."""
    async with AsyncExitStack() as stack:
        for person in people:
            listener = await stack.enter_async_context(listen(person, callers.any_door()))
            for chat in chats:
                if person in chat.members:
                    await judge_live_mark(callers, listener, person, chat)


async def judge_live_mark(callers: Callers, listener: Listener, person: Caller, chat: Chat) -> None:
    """Half of what is unread is read, and then all of it."""
    for half in (True, False):
        before = (await recount(callers, person)).get((person.id, chat.id))
        unread = [it for it, _ in chat.said if before is not None and it > before.mark]
        if before is None or not unread:
            return
        message_id = max(unread) if not half else sorted(unread)[len(unread) // 2]
        expect(await read_to(person, chat.id, message_id), 204)
        update = await await_mark(listener, chat.id, message_id)
        after = (await recount(callers, person))[person.id, chat.id]
        assert update["data"] == expected_mark(chat.id, after)


async def await_mark(listener: Listener, chat_id: int, message_id: int) -> Json:
    wanted = {"chat_id": chat_id, "message_id": message_id}

    def found() -> list[Json]:
        return [
            update
            for update in listener.updates
            if update["type"] == "read" and wanted.items() <= update["data"].items()
        ]

    async def came() -> bool:
        return bool(found())

    await eventually(came, what="the read update")
    return found()[-1]


async def judge_replayed_marks(callers: Callers, person: Caller, epoch: str) -> None:
    """What a device gets that was away all the time: the last `read` of each chat tells what is unread now."""
    marks: dict[int, Json] = {}
    state, has_more = {"user": 0}, True
    while has_more:
        body = {"epoch": epoch, "state": state}
        answer = await person.post("/updates/difference", body)
        state, has_more = {"user": answer["state"]["user"]}, answer["has_more"]
        for update in answer["updates"]:
            if update["scope"] == "user" and update["type"] == "read":
                marks[update["data"]["chat_id"]] = update["data"]
    counts = await recount(callers, person)
    for chat_id, mark in marks.items():
        if (person.id, chat_id) in counts:
            assert mark == expected_mark(chat_id, counts[person.id, chat_id])


def expected_mark(chat_id: int, count: Count) -> Json:
    """The `data` of a `read` update by a recount."""
    capped = {"unread_capped": True} if count.unread > 1000 else {}
    return {
        "chat_id": chat_id,
        "message_id": count.mark,
        "unread_count": min(count.unread, 1000),
        "unread_mentions_count": min(count.mentions, 1000),
        **capped,
    }
