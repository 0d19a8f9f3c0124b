"""The people, devices and chats that the schedules run on: set up once, used by all of them.

30 people with two devices each and 15 chats: one large group (most of whose members never
connect), private chats, small groups, a channel, a public group that people join and leave, and a
private chat in which one has blocked the other.
"""

import asyncio
import json
import random
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from messenger_client import (
    Change,
    Client,
    Forgotten,
    MemoryStore,
    Reset,
    SqliteStore,
    Store,
    Update,
    Voided,
)

from tests.faults.checkers import Device as Evidence

_AT_ONCE = 6
_ADDED_AT_ONCE = 100
_ON_DISK_EVERY = 10
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Update, Reset, Forgotten, Voided)}

CodeSource = Callable[[str], Awaitable[str]]
MakeClient = Callable[[Store], Client]


class ChatKind(StrEnum):
    """`DOOR`: public, people come, go and are put out. `BLOCKED`: the second has blocked the first."""

    CROWD = "crowd"
    PRIVATE = "private"
    GROUP = "group"
    CHANNEL = "channel"
    DOOR = "door"
    BLOCKED = "blocked"


@dataclass(slots=True, eq=False)
class Person:
    """An account; `devices` are signed in to it."""

    number: int
    phone: str
    id: int = 0
    devices: "list[Device]" = field(default_factory=list["Device"])


@dataclass(slots=True, eq=False)
class Chat:
    """`members`: those with devices, the owner first; of a door all who may come in."""

    id: int
    kind: ChatKind
    members: list[Person]

    @property
    def writers(self) -> list[Person]:
        return self.members[:1] if self.kind is ChatKind.CHANNEL else self.members

    @property
    def is_steady(self) -> bool:
        """Whoever is in it stays in it, and may write."""
        return self.kind not in {ChatKind.DOOR, ChatKind.BLOCKED}


class Record(Store, Protocol):
    """A store that also keeps what was applied as one list over all scopes, in the same transaction."""

    on_applied: Callable[[Change], None]

    def take(self) -> list[Change]:
        """All of it, and begin anew."""
        ...


class MemoryRecord(MemoryStore):
    """Survives the client, not the process."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []
        self.on_applied: Callable[[Change], None] = _ignore

    async def apply(self, changes: Sequence[Change]) -> None:
        await super().apply(changes)
        self.changes += changes
        for change in changes:
            self.on_applied(change)

    def take(self) -> list[Change]:
        """All of it, and begin anew."""
        taken, self.changes = self.changes, []
        self.applied.clear()
        return taken


class DiskRecord(SqliteStore):
    """The record is a table of the app's own, in the transaction of the cursors."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, on_change=self._note)
        self._record_path = path
        self._loop = asyncio.get_running_loop()
        self.on_applied: Callable[[Change], None] = _ignore

    def _note(self, connection: sqlite3.Connection, change: Change) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS record (kind TEXT, body TEXT)")
        entry = (type(change).__name__, json.dumps(asdict(change)))
        connection.execute("INSERT INTO record VALUES (?, ?)", entry)
        self._loop.call_soon_threadsafe(self.on_applied, change)

    def take(self) -> list[Change]:
        """All of it, and begin anew."""
        with closing(sqlite3.connect(self._record_path, timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS record (kind TEXT, body TEXT)")
            rows = database.execute("SELECT kind, body FROM record ORDER BY rowid").fetchall()
            database.execute("DELETE FROM record")
        return [_KINDS[kind](**json.loads(body)) for kind, body in rows]


class Device:
    """One signed-in client on a store that outlives it."""

    def __init__(
        self, name: str, person: Person, make_client: MakeClient, make_record: Callable[[], Record]
    ) -> None:
        self.name = name
        self.person = person
        self.session_id = 0
        self._make_client = make_client
        self._make_record = make_record
        self.record = make_record()
        self.client = make_client(self.record)
        self._running: asyncio.Task[None] | None = None
        self._began: dict[str, int] = {}
        self._changes: list[Change] = []

    async def sign_in(self, codes: CodeSource) -> None:
        """A new device of the phone's account, or the account itself."""
        sent = await self.client.request_code(self.person.phone)
        user = await self.client.sign_in(
            verification_id=sent["verification_id"],
            code=await codes(sent["phone"]),
            first_name=f"Person {self.person.number}",
            device_name=self.name,
        )
        self.person.id = user["id"]

    def start(self) -> None:
        """Connect, and stay connected for ever."""
        self._running = asyncio.create_task(self.client.run(), name=self.name)

    async def crash(self) -> None:
        """Drop the client as a killed process would: it says no goodbye."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self.client.close()

    def come_back(self) -> None:
        """A new client over what the old one had stored."""
        applied, self._changes = self.record.take(), self._changes
        self._changes += applied
        if isinstance(self.record, DiskRecord):
            on_applied = self.record.on_applied
            self.record = self._make_record()
            self.record.on_applied = on_applied
        self.client = self._make_client(self.record)
        self.start()

    def fault(self) -> BaseException | None:
        """Why the client gave up, if it did: it must go on for ever."""
        if self._running is None or not self._running.done() or self._running.cancelled():
            return None
        return self._running.exception() or RuntimeError("run() returned")

    def cursors(self) -> dict[str, int]:
        """Scope -> the number applied last."""
        return dict(self.client.position.cursors)

    def begin_evidence(self) -> None:
        """What is applied from here on belongs to the next `take_evidence`."""
        self.record.take()
        self._changes = []
        self._began = self.cursors()

    def take_evidence(self) -> Evidence:
        changes = [*self._changes, *self.record.take()]
        self._changes = []
        return Evidence(self.name, self.person.id, self._began, changes, self.cursors())


class World:
    """All of it. `bystanders`: members of the crowd who never connect."""

    def __init__(
        self,
        make_client: MakeClient,
        codes: CodeSource,
        directory: Path,
        *,
        people: int = 30,
        crowd: int = 500,
    ) -> None:
        self._make_client = make_client
        self.codes = codes
        self._directory = directory
        self._crowd = crowd
        # Numbers that this deployment has not seen yet, also in a second run.
        start = random.SystemRandom().randrange(1_000_000, 9_000_000)
        self.phones = (f"+49170{number}" for number in range(start, 9_999_999))
        self.people = [Person(number, next(self.phones)) for number in range(people)]
        self.chats: list[Chat] = []

    @property
    def devices(self) -> list[Device]:
        return [device for person in self.people for device in person.devices]

    @property
    def user_ids(self) -> list[int]:
        return [person.id for person in self.people]

    def make_device(self, person: Person, name: str, record: Record | None = None) -> Device:
        """Not signed in yet, and none of `person.devices`."""
        if record is not None:
            return Device(name, person, self._make_client, lambda: record)
        number = len(self.devices)
        if number % _ON_DISK_EVERY == 0:
            path = self._directory / f"{name}-{uuid.uuid4().hex[:8]}.db"
            return Device(name, person, self._make_client, lambda: DiskRecord(path))
        return Device(name, person, self._make_client, MemoryRecord)

    async def set_up(self) -> None:
        """Sign everybody in, make the chats, connect all devices."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for letter in "ab":
            for person in self.people:
                person.devices.append(self.make_device(person, f"{person.number:02}{letter}"))
            # One after the other by letter: the first sign-in makes the account.
            await _in_turns([person.devices[-1].sign_in(self.codes) for person in self.people])
        bystanders = await self._settle_bystanders(self._crowd - len(self.people) // 2)
        await self._make_chats(bystanders)
        for device in self.devices:
            device.start()

    async def close(self) -> None:
        await asyncio.gather(*(device.crash() for device in self.devices), return_exceptions=True)

    async def _settle_bystanders(self, count: int) -> list[int]:
        """Accounts whose one device is never seen again; answers their ids."""

        async def settle(number: int) -> int:
            person = Person(1000 + number, next(self.phones))
            device = Device(f"bystander {number}", person, self._make_client, MemoryRecord)
            await device.sign_in(self.codes)
            await device.crash()
            return person.id

        return await _in_turns([settle(number) for number in range(max(0, count))])

    async def _make_chats(self, bystanders: Sequence[int]) -> None:
        count = len(self.people)
        await self._make_shared(ChatKind.CROWD, self._choose(0, count // 2), bystanders)
        for number in range(5):
            await self._make_shared(ChatKind.GROUP, self._choose(number * 5, 3 + number))
        await self._make_shared(ChatKind.CHANNEL, self._choose(3, 10))
        await self._make_shared(ChatKind.DOOR, self._choose(8, 10))
        blocked, blocker = self.people[-1], self.people[0]
        pairs = {(number * 2 % count, (number * 2 + 17) % count) for number in range(6)}
        for one, other in sorted(pairs - {(0, count - 1), (count - 1, 0)}):
            await self._make_private(ChatKind.PRIVATE, self.people[one], self.people[other])
        await self._make_private(ChatKind.BLOCKED, blocked, blocker)
        await blocker.devices[0].client.call("PUT", f"/users/blocked/{blocked.id}")

    def _choose(self, first: int, count: int) -> list[Person]:
        """So many in a row, from the first again behind the last; nobody twice."""
        everybody = len(self.people)
        places = range(first, first + min(count, everybody))
        return [self.people[place % everybody] for place in places]

    async def _make_shared(
        self, kind: ChatKind, members: list[Person], bystanders: Sequence[int] = ()
    ) -> None:
        is_channel = kind is ChatKind.CHANNEL
        body: dict[str, Any] = {
            "type": "channel" if is_channel else "group",
            "title": f"The {kind}",
            "member_ids": [member.id for member in members[1:]],
        }
        if kind is ChatKind.DOOR:
            body["username"] = f"door_{uuid.uuid4().hex[:12]}"
        owner = members[0].devices[0].client
        made = await owner.call("POST", "/chats/", body)
        self.chats.append(Chat(made["id"], kind, members))
        for start in range(0, len(bystanders), _ADDED_AT_ONCE):
            ids = list(bystanders[start : start + _ADDED_AT_ONCE])
            await owner.call("POST", f"/chats/{made['id']}/members", {"user_ids": ids})

    async def _make_private(self, kind: ChatKind, one: Person, other: Person) -> None:
        body = {"type": "private", "user_id": other.id}
        made = await one.devices[0].client.call("POST", "/chats/", body)
        self.chats.append(Chat(made["id"], kind, [one, other]))


async def _in_turns(jobs: "Sequence[Awaitable[Any]]") -> list[Any]:
    """A few at once: more would only wait for each other."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def run(job: Awaitable[Any]) -> Any:
        async with slots:
            return await job

    return await asyncio.gather(*map(run, jobs))


def _ignore(change: Change) -> None:
    """Until somebody looks."""
