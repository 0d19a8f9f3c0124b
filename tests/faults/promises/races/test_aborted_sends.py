"""Nothing aborted is ever seen: what was definitely refused is in no log and before no reader.

What was not answered, or with 503, is in once or not at all; no number is missing.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

import asyncpg
import pytest

from app.kernel.scopes import ScopeKind
from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.lines import Job, NoAnswer, run_all
from tests.faults.promises.races.listening import listen
from tests.faults.promises.scale import scaled
from tests.support.people import new_id
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SENDS = scaled(quick=60, full=2000)
AT_ONCE = scaled(quick=12, full=32)
# Longer than all waits for a lock together, so that sends fail of it.
HELD_SECONDS = scaled(quick=0.5, full=45.0)
_FAULT_EVERY = 10
_CUT_SHARE = 0.05
_CUT_SECONDS = 0.3
_UNAVAILABLE = 503
_SOON_SECONDS = 60.0
_LOOKS, _LOOK_SECONDS = 4, 0.5


class Outcome(Enum):
    SAID = 0
    REFUSED = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """Who says what where, and with which problem they must be refused, if they must."""

    sender: Caller
    chat_id: int
    text: str = "hello"
    problem: str = ""


class Sends:
    """Sends, and their outcomes by client id."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self.outcomes: dict[str, Outcome] = {}
        self.ids: dict[str, int] = {}

    async def attempt(self, attempt: Attempt) -> None:
        client_id = new_id()
        body = {
            "chat_id": attempt.chat_id,
            "text": attempt.text,
            "client_message_id": client_id,
        }
        rng = self._callers.random
        cut_after = rng.uniform(0, _CUT_SECONDS) if rng.random() < _CUT_SHARE else None
        self.outcomes[client_id] = Outcome.UNKNOWN
        try:
            answer = await attempt.sender.call("POST", "/messages/", body, cut_after=cut_after)
        except NoAnswer:
            return
        if answer.status == _UNAVAILABLE:
            return
        assert answer.is_success is not bool(attempt.problem), (attempt, answer)
        if answer.is_success:
            self.outcomes[client_id] = Outcome.SAID
            self.ids[client_id] = answer.body["id"]
        else:
            assert answer.code == attempt.problem
            self.outcomes[client_id] = Outcome.REFUSED

    def count(self, outcome: Outcome) -> int:
        return Counter(self.outcomes.values())[outcome]


async def make_attempts(callers: Callers, people: list[Caller], chat_id: int) -> list[Attempt]:
    """One in five has no right to be said: by a stranger, by somebody restricted, or too long."""
    owner = people[0]
    stranger, restricted = await callers.sign_up(2)
    expect(await owner.call("POST", f"/chats/{chat_id}/members", {"user_ids": [restricted.id]}))
    path = f"/chats/{chat_id}/members/{restricted.id}"
    expect(await owner.call("PUT", path, {"role": "restricted"}))
    wrong = [
        Attempt(stranger, chat_id, problem="chat_not_found"),
        Attempt(restricted, chat_id, problem="not_allowed"),
        Attempt(owner, chat_id, text="x" * 4097, problem="message_too_long"),
    ]
    rng = random.Random(7)
    return [
        rng.choice(wrong) if rng.random() < 0.2 else Attempt(rng.choice(people), chat_id)
        for _ in range(SENDS)
    ]


def hurt_commits(callers: Callers) -> None:
    """The next COMMIT on some line never arrives, or its answer does not."""
    line = callers.random.choice(callers.cluster.workers).postgres
    assert line is not None
    if callers.random.random() < 0.5:
        line.cut_before += 1
    else:
        line.lose_answers += 1


@asynccontextmanager
async def held(callers: Callers, chat_id: int) -> AsyncIterator[None]:
    """Somebody holds the chat's lock."""
    connection = await asyncpg.connect(callers.cluster.postgres_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT seq FROM scopes WHERE kind = $1 AND id = $2 FOR UPDATE",
                int(ScopeKind.CHAT),
                chat_id,
            )
            yield
    finally:
        await connection.close()


async def test_what_was_refused_is_seen_by_nobody(callers: Callers) -> None:
    people = await callers.sign_up(4)
    chat_id = await people[0].group(*people[1:])
    sends = Sends(callers)
    attempts = await make_attempts(callers, people, chat_id)
    jobs: list[Job] = [lambda it=it: sends.attempt(it) for it in attempts]

    async def hurt() -> None:
        hurt_commits(callers)

    for place in range(len(jobs), 0, -_FAULT_EVERY):
        jobs.insert(place, hurt)
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(listen(person, door))
            for person in people
            for door in callers.doors
        ]
        await run_all(jobs, at_once=AT_ONCE)
        await callers.cluster.heal()
        async with held(callers, chat_id):
            stuck = asyncio.gather(*(sends.attempt(Attempt(it, chat_id)) for it in people * 3))
            await asyncio.wait([stuck], timeout=HELD_SECONDS)
        await stuck
        # Something that surely comes behind all the rest.
        await eventually(lambda: can_say(sends, people[0], chat_id), timeout_seconds=_SOON_SECONDS)
        await eventually(
            lambda: is_at_rest(callers), timeout_seconds=_SOON_SECONDS, what="the end of all sends"
        )
        stored = await judge_rows(callers, sends, chat_id)

        async def all_told() -> bool:
            return all(max(it.new_messages(chat_id), default=0) == max(stored) for it in listeners)

        await eventually(all_told, timeout_seconds=_SOON_SECONDS, what="the last push")
        for listener in listeners:
            told = listener.new_messages(chat_id)
            first = min(told)
            assert told == {seq: it for seq, it in stored.items() if seq >= first}
    assert sends.count(Outcome.REFUSED) > SENDS // 20
    assert sends.count(Outcome.UNKNOWN) > 0
    assert await read_history(people[1], chat_id) == sorted(stored.values(), reverse=True)


async def can_say(sends: Sends, person: Caller, chat_id: int) -> bool:
    before = sends.count(Outcome.SAID)
    await sends.attempt(Attempt(person, chat_id))
    return sends.count(Outcome.SAID) > before


async def is_at_rest(callers: Callers) -> bool:
    """Nothing is written, and nothing was for longer than a send waits before it tries again."""
    counts: set[int] = set()
    for _ in range(_LOOKS):
        [(count, busy)] = await callers.rows(
            "SELECT (SELECT count(*) FROM updates), (SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid())"
        )
        counts.add(count)
        if busy or len(counts) > 1:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


async def judge_rows(callers: Callers, sends: Sends, chat_id: int) -> dict[int, int]:
    """`seq` -> id of every message of the chat."""
    # Before the rows: what nobody knows the outcome of may come in between.
    log = await callers.rows(
        "SELECT seq, type, subject_id FROM updates WHERE kind = $1 AND scope_id = $2 ORDER BY seq",
        int(ScopeKind.CHAT),
        chat_id,
    )
    rows = await callers.rows(
        "SELECT client_message_id, id, seq FROM messages WHERE chat_id = $1 ORDER BY seq", chat_id
    )
    assert [it for _, it, _ in rows] == sorted(it for _, it, _ in rows)
    stored = Counter(client_id for client_id, _, _ in rows)
    ids = {client_id: it for client_id, it, _ in rows}
    for client_id, outcome in sends.outcomes.items():
        wanted = {Outcome.SAID: {1}, Outcome.REFUSED: {0}, Outcome.UNKNOWN: {0, 1}}[outcome]
        assert stored[client_id] in wanted, (client_id, outcome)
        assert sends.ids.get(client_id) in {None, ids.get(client_id)}
    assert [seq for seq, _, _ in log] == list(range(1, len(log) + 1))
    said = {seq: it for _, it, seq in rows if seq <= len(log)}
    assert {seq: it for seq, kind, it in log if kind == "new_message"} == said
    return said


async def read_history(person: Caller, chat_id: int) -> list[int]:
    """The ids of all messages, page by page, newest first."""
    ids: list[int] = []
    path = f"/messages/chat/{chat_id}?limit=100"
    page = await person.get(path)
    while page["items"]:
        ids += [item["id"] for item in page["items"]]
        page = await person.get(f"{path}&before={ids[-1]}")
    return ids
