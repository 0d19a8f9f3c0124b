"""One order for all: however a chat is read, every number of it stands for the same message.

Eight write into it on all workers, and change what they have written. Twelve read: over sockets, by
difference, and by pages of the history.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from messenger_client import Client, MemoryStore, Options, Tokens, Update

from app.kernel.scopes import ScopeKind
from tests.faults.checkers import (
    Device,
    LogRow,
    MessageRow,
    check_history,
    check_ids,
    check_log,
    check_order,
    check_polls,
    read_spans,
)
from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.killing import killing_workers
from tests.faults.promises.races.lines import Answer, NoAnswer, run_all
from tests.faults.promises.scale import scaled
from tests.support.people import Json, new_id
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

WRITERS = 8
SENDS = scaled(quick=160, full=3000)
AT_ONCE = scaled(quick=16, full=32)
IS_HURT = scaled(quick=False, full=True)
_SOCKET_READERS, _DIFFERENCE_READERS, _PAGE_READERS = 6, 3, 3
_CHANGED_SHARE = 0.15
_PAGE = 100
_UNAVAILABLE = 503
_PAUSE_SECONDS = 0.05
_POLL_SECONDS = 0.1
_WHOLE_SECONDS = 60.0


async def insist(ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Json:
    """Ask until there is an answer; only what may be repeated."""
    while True:
        try:
            answer = await ask()
        except NoAnswer:
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        if answer.status != _UNAVAILABLE:
            return expect(answer)
        await asyncio.sleep(_PAUSE_SECONDS)


@dataclass(slots=True, eq=False)
class Writing:
    """What was acknowledged. `said`: client id -> message id."""

    callers: Callers
    writers: list[Caller]
    chat_id: int
    said: dict[str, int] = field(default_factory=dict[str, int])

    async def write(self) -> None:
        """Say something, and now and then change or take back what was just said."""
        writer, client_id = self.callers.random.choice(self.writers), new_id()
        body = {"chat_id": self.chat_id, "text": client_id, "client_message_id": client_id}
        message = await insist(lambda: writer.call("POST", "/messages/", body))
        self.said[client_id] = message["id"]
        if self.callers.random.random() < _CHANGED_SHARE:
            await self._change(writer, message["id"])

    async def _change(self, writer: Caller, message_id: int) -> None:
        """Done or not is all the same here, as long as the log and its readers agree."""
        path = f"/messages/{message_id}"
        try:
            if self.callers.random.random() < 0.5:
                await writer.call("PUT", path, {"text": "better"})
            else:
                await writer.call("DELETE", f"{path}?for_everyone=true")
        except NoAnswer:
            await asyncio.sleep(_PAUSE_SECONDS)


class SocketReader:
    """The reference client on a socket, which comes back to another worker when its own is killed."""

    def __init__(self, callers: Callers, person: Caller) -> None:
        self.person = person
        self.store = MemoryStore()
        options = Options(backoff_most=1.0)
        self.client = Client(callers.cluster.front_url, self.store, options=options)
        self._began: dict[str, int] = {}

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        tokens = Tokens(self.person.token, "", time.time() + 80_000)
        await self.store.save_tokens(tokens)
        async with self.client:
            running = asyncio.create_task(self.client.run())
            await self.client.wait_until_synced(_WHOLE_SECONDS)
            self._began = dict(self.client.position.cursors)
            self.store.applied.clear()
            try:
                yield
                assert not running.done(), running.exception()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def cursor(self, scope: str) -> int:
        return self.client.position.cursors.get(scope, 0)

    def evidence(self) -> Device:
        changes = [change for applied in self.store.applied.values() for change in applied]
        cursors = dict(self.client.position.cursors)
        return Device(f"socket {self.person.number}", self.person.id, self._began, changes, cursors)


class DifferenceReader:
    """Asks any worker again and again for what is new."""

    def __init__(self, person: Caller, epoch: str, state: Json) -> None:
        self.person = person
        self._epoch = epoch
        self._began = dict(state)
        self._state = dict(state)
        self._updates: list[Update] = []

    async def poll(self) -> None:
        body = {"epoch": self._epoch, "state": self._state}
        answer = await insist(lambda: self.person.call("POST", "/updates/difference", body))
        assert answer["resets"] == []
        self._state = answer["state"]
        self._updates += [
            Update(it["type"], it["scope"], it["seq"], it["data"]) for it in answer["updates"]
        ]

    def cursor(self, scope: str) -> int:
        return self._state.get(scope, 0)

    def evidence(self) -> Device:
        name = f"difference {self.person.number}"
        return Device(name, self.person.id, self._began, self._updates, self._state)


class PageReader:
    """Reads the history forward: what is above the newest id that it has. `ids`: all that it ever saw.

    Its first poll must find less than a page.
    """

    def __init__(self, person: Caller, chat_id: int) -> None:
        self.person = person
        self._path = f"/messages/chat/{chat_id}?limit={_PAGE}"
        self.ids: list[int] = []

    async def poll(self) -> None:
        after = f"&after={self.ids[-1]}" if self.ids else ""
        page = await insist(lambda: self.person.call("GET", self._path + after))
        self.ids += [message["id"] for message in reversed(page["items"])]

    async def read_back(self) -> list[int]:
        """The whole history from its end, newest first."""
        ids: list[int] = []
        has_more = True
        while has_more:
            before = f"&before={ids[-1]}" if ids else ""
            page = await insist(lambda before=before: self.person.call("GET", self._path + before))
            ids += [message["id"] for message in page["items"]]
            has_more = page["has_more_before"]
        return ids


@asynccontextmanager
async def polling(readers: "Sequence[DifferenceReader | PageReader]") -> AsyncIterator[None]:
    """As long as the block lasts, and until nothing was new behind it."""
    is_over = asyncio.Event()

    async def poll(reader: DifferenceReader | PageReader) -> None:
        while not is_over.is_set():
            await reader.poll()
            await asyncio.sleep(_POLL_SECONDS)

    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(poll(reader))
        yield
        is_over.set()


async def test_all_readers_see_one_order(either: Callers) -> None:
    people = await either.sign_up(WRITERS + _PAGE_READERS)
    chat_id = await people[0].group(*people[1:])
    scope = f"chat:{chat_id}"
    writing = Writing(either, people[:WRITERS], chat_id)
    sockets = [SocketReader(either, person) for person in people[:_SOCKET_READERS]]
    differences = [
        await begin_difference(person, scope) for person in people[-_DIFFERENCE_READERS:]
    ]
    pages = [PageReader(person, chat_id) for person in people[-_PAGE_READERS:]]
    for reader in pages:
        await reader.poll()
    async with AsyncExitStack() as stack:
        for reader in sockets:
            await stack.enter_async_context(reader.reading())
        async with (
            killing_workers(either, is_wanted=IS_HURT) as killing,
            polling([*differences, *pages]),
        ):
            began = time.monotonic()
            await run_all([writing.write] * SENDS, at_once=AT_ONCE)
            seconds = time.monotonic() - began
        print(f"{len(writing.said)} messages in {seconds:.0f} s, {killing.kills} kills")
        [(head,)] = await either.rows(
            "SELECT seq FROM scopes WHERE kind = $1 AND id = $2", int(ScopeKind.CHAT), chat_id
        )
        for reader in sockets:

            async def is_whole(reader: SocketReader = reader) -> bool:
                return reader.cursor(scope) >= head

            await eventually(is_whole, timeout_seconds=_WHOLE_SECONDS, what="the last message")
        devices = [reader.evidence() for reader in sockets]
    for reader in differences:
        while reader.cursor(scope) < head:
            await reader.poll()
        devices.append(reader.evidence())
    log, messages = await read_log(either, chat_id), await read_messages(either, chat_id)
    heads = {row.scope: row.seq for row in sorted(log, key=lambda row: row.seq)}
    assert heads[scope] == head
    assert check_log({}, log, heads) == []
    assert check_ids(log, messages) == []
    assert check_order(devices, log) == []
    assert check_polls(devices, heads, read_spans(log)) == []
    judge_sends(writing, messages)
    await judge_pages(pages, messages)


async def begin_difference(person: Caller, scope: str) -> DifferenceReader:
    """From now on; the first question, without a known epoch, names all positions."""
    answer = await person.post("/updates/difference", {"epoch": "none", "state": {"user": 0}})
    assert scope in answer["state"]
    return DifferenceReader(person, answer["epoch"], answer["state"])


async def read_log(callers: Callers, chat_id: int) -> list[LogRow]:
    """The chat's log, and those of the people in it."""
    rows = await callers.rows(
        "SELECT kind, scope_id, seq, type, subject_id, data FROM updates "
        "WHERE (kind = $1 AND scope_id = $2) OR (kind = $3 AND scope_id IN "
        "(SELECT user_id FROM chat_participants WHERE chat_id = $2))",
        int(ScopeKind.CHAT),
        chat_id,
        int(ScopeKind.USER),
    )
    return [
        LogRow(
            f"{'chat' if kind == ScopeKind.CHAT else 'user'}:{scope_id}",
            seq,
            kind_of_update,
            subject_id,
            callers.parse(data) or {},
        )
        for kind, scope_id, seq, kind_of_update, subject_id, data in rows
    ]


async def read_messages(callers: Callers, chat_id: int) -> list[MessageRow]:
    rows = await callers.rows(
        "SELECT id, chat_id, seq, sender_id, type, client_message_id, deleted_at IS NOT NULL "
        "FROM messages WHERE chat_id = $1 ORDER BY id",
        chat_id,
    )
    return [MessageRow(*row[:-1], bool(row[-1])) for row in rows]


def judge_sends(writing: Writing, messages: Sequence[MessageRow]) -> None:
    """Each acknowledged message is there once, and nothing else is."""
    stored = [(it.client_message_id, it.id) for it in messages if it.client_message_id is not None]
    assert sorted(stored) == sorted(writing.said.items())
    assert len(stored) == SENDS


async def judge_pages(readers: Sequence[PageReader], messages: Sequence[MessageRow]) -> None:
    """A walk forward while others wrote missed nothing that stayed; a walk back finds the rows."""
    kept = {message.id for message in messages if not message.is_deleted}
    for reader in readers:
        await reader.poll()
        while reader.ids[-1] < max(kept):
            await reader.poll()
        assert reader.ids == sorted(set(reader.ids))
        assert kept <= set(reader.ids) <= {message.id for message in messages}
        whole = await reader.read_back()
        assert whole == sorted(kept, reverse=True)
        assert check_history({messages[0].chat_id: whole}, messages) == []
