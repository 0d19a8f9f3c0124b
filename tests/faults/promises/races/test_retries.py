"""A retry never doubles: answers are lost after the server has sent them, and every send is repeated."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, WebSocketException

from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.lines import Answer, Door, NoAnswer, run_all
from tests.faults.promises.scale import scaled
from tests.faults.tcp_proxy import TcpProxy
from tests.support.people import API, Json, new_id

pytestmark = pytest.mark.anyio

SENDS = scaled(quick=40, full=20_000)
SENDERS = scaled(quick=6, full=24)
AT_ONCE = scaled(quick=12, full=32)
RACES = scaled(quick=8, full=500)
# 3: all of them.
RESTARTED = scaled(quick=1, full=3)
_LOSS = 0.3
_SHARE_OF_VOLLEYS = 0.05
_VOLLEY = 8
_SHARE_BY_SOCKET = 0.2
_UNAVAILABLE = 503
_PAUSE_SECONDS = 0.2
_MOST_TRIES = 60
_SOCKET_SECONDS = 20.0


@dataclass(slots=True, eq=False)
class Send:
    """One message, and what its tries were answered; `outcomes`: why others were not."""

    sender: Caller
    chat_id: int
    text: str
    client_id: str = field(default_factory=new_id)
    answers: list[Answer] = field(default_factory=list[Answer])
    outcomes: list[str] = field(default_factory=list[str])

    @property
    def body(self) -> Json:
        return {"chat_id": self.chat_id, "text": self.text, "client_message_id": self.client_id}

    @property
    def ids(self) -> set[int]:
        return {answer.body["id"] for answer in self.answers}


class Retrying:
    """Sends through lines that lose answers, until each send has one."""

    def __init__(self, callers: Callers, doors: list[Door]) -> None:
        self._random = random.Random(4)
        self._callers = callers
        self._doors = doors

    async def deliver(self, send: Send) -> None:
        """Once and one to five times more, on any worker; now and then eight at the same moment."""
        if self._random.random() < _SHARE_OF_VOLLEYS:
            await asyncio.gather(*(self._attempt(send) for _ in range(_VOLLEY)))
        tries = 1 + self._random.randint(1, 5)
        for number in range(_MOST_TRIES):
            await self._attempt(send)
            if number + 1 >= tries and send.answers:
                return
        raise AssertionError(f"{send.client_id} was never answered: {send.outcomes}")

    async def _attempt(self, send: Send) -> None:
        door = self._random.choice(self._doors)
        by_socket = self._random.random() < _SHARE_BY_SOCKET
        try:
            if by_socket:
                answer = await send_by_socket(door, send)
            else:
                answer = await send.sender.call("POST", "/messages/", send.body, door=door)
        except NoAnswer as lost:
            send.outcomes.append(repr(lost.__cause__))
            return
        if answer.status == _UNAVAILABLE:
            send.outcomes.append(answer.code)
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            expect(answer)
            send.answers.append(answer)


async def send_by_socket(door: Door, send: Send) -> Answer:
    """By a frame of a new socket; its answer as HTTP would give it.

    Raises:
        NoAnswer
    """
    url = f"ws://127.0.0.1:{door.port}{API}/ws/{send.sender.token}"
    frame = {"type": "send_message", "data": send.body, "request_id": send.client_id}
    try:
        async with (
            asyncio.timeout(_SOCKET_SECONDS),
            connect(url, compression=None, proxy=None) as socket,
        ):
            await socket.send(json.dumps(frame))
            async for raw in socket:
                answer = json.loads(raw)
                if answer.get("request_id") == send.client_id:
                    return _as_http(answer)
    except (OSError, EOFError, TimeoutError, InvalidMessage, WebSocketException) as error:
        door.losses += 1
        raise NoAnswer from error
    raise NoAnswer


def _as_http(frame: Json) -> Answer:
    if frame["type"] == "error":
        return Answer(frame["error"]["status"], frame["error"])
    return Answer(201 if frame["data"]["created"] else 200, frame["data"]["message"])


@pytest.fixture
async def lossy_doors(either: Callers) -> AsyncIterator[list[Door]]:
    """Ways to the workers on which every third answer is lost."""
    async with AsyncExitStack() as stack:
        doors: list[Door] = []
        for seed, door in enumerate(either.doors):
            proxy = TcpProxy.to("127.0.0.1", door.port, seed=seed)
            await stack.enter_async_context(proxy)
            proxy.loss = _LOSS
            doors.append(Door(proxy.port))
            stack.callback(doors[-1].close)
        yield doors


async def test_each_send_is_in_once_whatever_is_repeated(
    either: Callers, lossy_doors: list[Door]
) -> None:
    people = await either.sign_up(SENDERS)
    sends = await make_sends(either, people)
    retrying = Retrying(either, lossy_doors)
    await run_all([lambda it=it: retrying.deliver(it) for it in sends], at_once=AT_ONCE)
    assert sum(door.losses for door in lossy_doors) > SENDS // 2
    for send in sends:
        assert len(send.ids) == 1, (send.client_id, send.answers)
        assert sum(answer.status == 201 for answer in send.answers) <= 1
    await judge(either, sends)
    edited, deleted = sends[0::20], sends[1::20]
    await run_all([lambda it=it: edit(it) for it in edited], at_once=AT_ONCE)
    await run_all([lambda it=it: delete(it) for it in deleted], at_once=AT_ONCE)
    await either.restart_workers(RESTARTED)
    await run_all([lambda it=it: repeat(it) for it in sends[2::20]], at_once=AT_ONCE)
    await run_all([lambda it=it: repeat(it, text=_edited(it)) for it in edited], at_once=AT_ONCE)
    await run_all([lambda it=it: repeat_deleted(it) for it in deleted], at_once=AT_ONCE)
    others = [it for it in sends[:20] if it.sender is not people[0]]
    elsewhere = {person: await person.group() for person in people}
    for send in others:
        await misuse(send, {"text": "another text"})
        await misuse(send, {"chat_id": elsewhere[send.sender]})
    await judge(either, sends)


async def make_sends(callers: Callers, people: list[Caller]) -> list[Send]:
    """In one chat of all, and in private ones."""
    chats = [(await people[0].group(*people[1:]), people)]
    for one, other in pairwise(people):
        chats.append((await one.private(other), [one, other]))
    drawn = [callers.random.choice(chats) for _ in range(SENDS)]
    return [
        Send(callers.random.choice(members), chat_id, f"message {number}")
        for number, (chat_id, members) in enumerate(drawn)
    ]


async def judge(callers: Callers, sends: list[Send]) -> None:
    """One row a client id, and that is what everybody was answered."""
    rows = await callers.rows(
        "SELECT client_message_id, id FROM messages WHERE client_message_id IS NOT NULL"
    )
    counts = Counter(client_id for client_id, _ in rows)
    stored = dict(rows)
    for send in sends:
        assert counts[send.client_id] == 1
        assert send.ids == {stored[send.client_id]}


def _edited(send: Send) -> str:
    return f"{send.text}, better"


async def edit(send: Send) -> None:
    [message_id] = send.ids
    expect(await send.sender.call("PUT", f"/messages/{message_id}", {"text": _edited(send)}))


async def delete(send: Send) -> None:
    [message_id] = send.ids
    path = f"/messages/{message_id}?for_everyone=true"
    expect(await send.sender.call("DELETE", path))


async def repeat(send: Send, *, text: str | None = None) -> None:
    """As at the first time; the answer is the message as it is now."""
    answer = expect(await send.sender.call("POST", "/messages/", send.body), 200)
    assert {answer["id"]} == send.ids
    assert answer["text"] == (text or send.text)


async def repeat_deleted(send: Send) -> None:
    answer = expect(await send.sender.call("POST", "/messages/", send.body), 200)
    [message_id] = send.ids
    assert answer == {
        "id": message_id,
        "chat_id": send.chat_id,
        "is_deleted": True,
        "client_message_id": send.client_id,
    }


async def misuse(send: Send, change: Json) -> None:
    answer = await send.sender.call("POST", "/messages/", send.body | change)
    assert (answer.status, answer.code) == (409, "client_message_id_reused"), answer


async def test_one_id_raced_into_two_chats_wins_in_one(either: Callers) -> None:
    anna, bruno, clara = await either.sign_up(3)
    chats = [await anna.private(bruno), await anna.private(clara)]

    async def race() -> None:
        client_id = new_id()
        answers = await asyncio.gather(
            *(
                anna.call(
                    "POST",
                    "/messages/",
                    {"chat_id": chat_id, "text": "hi", "client_message_id": client_id},
                    door=door,
                )
                for chat_id, door in zip(chats, either.two_doors(), strict=True)
            )
        )
        lost, won = sorted(answers, key=lambda answer: -answer.status)
        assert (won.status, lost.status) == (201, 409), answers
        assert lost.code == "client_message_id_reused"
        rows = await either.rows(
            "SELECT id, chat_id FROM messages WHERE client_message_id = $1", client_id
        )
        assert rows == [(won.body["id"], won.body["chat_id"])]

    await run_all([race] * RACES, at_once=4)
