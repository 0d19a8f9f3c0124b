"""Small stages on which each planted bug must show itself, and the whole server must not.

Two workers of their own behind proxies, three people in a public group; what they do is aimed at one
kind of fault, so that timing hides nothing.
"""

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from messenger_client import Client, Options, Problem, Unreachable, Update
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.faults import checkers
from tests.faults.bugs import Bug, plant
from tests.faults.checkers import Anomaly, SlowReader
from tests.faults.checkers import Device as Evidence
from tests.faults.journal import Journal, Outcome
from tests.faults.judge import Judge, Mark
from tests.faults.postgres_proxy import PostgresProxy
from tests.faults.redis_proxy import RedisProxy
from tests.faults.revocations import ALLOWED_SECONDS, API, Revoker
from tests.faults.world import Device, MakeClient, MemoryRecord, Person, Record
from tests.support.postgres import Postgres
from tests.support.servers import ROOT, Server

_PATIENCE = Options(
    request_timeout=6, connect_timeout=2, backoff_first=0.1, backoff_most=0.5, pong_timeout=2
)
_WHOLE_SECONDS = 6.0
_STEP_SECONDS = 0.1
_QUEUE_BYTES = 65_536
_RECEIVE_BUFFER_BYTES = 4096
# More than the queue, the kernel's buffers of both ends and those of the client hold.
_FLOOD_BYTES = 2_000_000
_LONG_TEXT = "\u4e00" * 4096
_SERVER_FAULT = 500


@dataclass(slots=True)
class Stage:
    """Each of the three has a device on either worker. `heard`: what raw sockets got, as further devices."""

    servers: list[Server]
    postgres: PostgresProxy
    redis: RedisProxy
    judge: Judge
    journal: Journal
    people: list[Person] = field(default_factory=list[Person])
    group: int = 0
    heard: list[Evidence] = field(default_factory=list[Evidence])
    anomalies: list[Anomaly] = field(default_factory=list[Anomaly])

    @property
    def owner(self) -> Person:
        return self.people[0]

    @property
    def guest(self) -> Person:
        return self.people[1]

    @property
    def devices(self) -> list[Device]:
        return [device for person in self.people for device in person.devices]

    async def codes(self, phone: str) -> str:
        """The newest sign-in code."""
        async with asyncio.timeout(5):
            while True:
                if found := self.servers[0].codes(phone):
                    return found[-1]
                await asyncio.sleep(0.02)

    def make_device(self, person: Person, name: str, record: Record) -> Device:
        """A further one, on the first worker."""
        return Device(name, person, _clients_of(self.servers[0]), lambda: record)

    async def send(self, device: Device, key: str | None = None, text: str = "") -> int | None:
        """One try over HTTP; the id of what was acknowledged."""
        key = key or str(uuid.uuid4())
        body = {"chat_id": self.group, "text": text or f"text {key}", "client_message_id": key}
        about = body | {"text": body["text"][:99]}
        call = self.journal.begin(device.name, device.person.id, "send", **about)
        try:
            answer = await device.client.call("POST", "/messages/", body)
        except Problem as problem:
            is_refused = problem.status < _SERVER_FAULT
            outcome = Outcome.FAIL if is_refused else Outcome.UNKNOWN
            await self.journal.end(call, outcome, status=problem.status, code=problem.code)
        except Unreachable:
            await self.journal.end(call, Outcome.UNKNOWN)
        else:
            await self.journal.end(call, Outcome.OK, id=answer["id"])
            return answer["id"]
        return None

    async def judge_all(self) -> list[Anomaly]:
        """Wait until all is quiet, then hold what happened against the log."""
        await self.settle()
        heads, log = await self.judge.heads(), await self.judge.log(Mark())
        messages, spans = await self.judge.messages(Mark()), checkers.read_spans(log)
        devices = [*(device.take_evidence() for device in self.devices), *self.heard]
        return [
            *self.anomalies,
            *checkers.check_log({}, log, heads),
            *checkers.check_ids(log, messages),
            *checkers.check_sends(self.journal.calls, messages),
            *checkers.check_order(devices, log),
            *checkers.check_polls(devices, heads, spans),
            *checkers.check_visibility(devices, spans),
            *checkers.check_writers(messages, spans),
        ]

    async def settle(self) -> None:
        """Until every device stands where the log stands; who does not in time is flagged later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WHOLE_SECONDS
        while loop.time() < deadline:
            heads = await self.judge.heads()
            spans = checkers.read_spans(await self.judge.log(Mark()))
            if all(_stands(device, heads, spans) for device in self.devices):
                return
            await asyncio.sleep(_STEP_SECONDS)


def _stands(device: Device, heads: Mapping[str, int], spans: checkers.Spans) -> bool:
    user_id, cursors = device.person.id, device.cursors()
    return all(
        cursors.get(scope) == heads[f"user:{user_id}" if scope == "user" else scope]
        for scope in checkers.list_scopes(user_id, spans)
    )


Scenario = Callable[[Stage], Awaitable[None]]


async def commits_lost(stage: Stage) -> None:
    """COMMITs that never arrive at the database: nobody may hear of them, and no number be lost."""
    cut = 0
    for _ in range(20):
        await stage.send(stage.owner.devices[0])
        stage.postgres.cut_before = 1
        await stage.send(stage.owner.devices[0])
        # Some COMMIT of the background may have met the fate instead.
        cut += stage.postgres.cut_before == 0
        if cut >= 6:
            break
    # Stands alone: no later message takes its number.
    stage.postgres.cut_before = 0


async def retries(stage: Stage) -> None:
    """The same send again and at once, on both workers."""
    here, there = stage.owner.devices
    for _ in range(3):
        key = str(uuid.uuid4())
        await stage.send(here, key)
        await asyncio.gather(stage.send(there, key), stage.send(here, key))


async def resumes(stage: Stage) -> None:
    """A socket that names where it stood gets everything since, no more and no less."""
    await stage.settle()
    reader = stage.guest.devices[1]
    began = reader.cursors()
    for _ in range(3):
        await stage.send(stage.owner.devices[0])
    async with await _open_socket(reader, stage.servers[1]) as line:
        hello = json.loads(await line.recv())["data"]
        state = {f"chat:{stage.group}": began[f"chat:{stage.group}"]}
        resume = {"type": "resume", "data": {"epoch": hello["epoch"], "state": state}}
        await line.send(json.dumps(resume))
        changes: list[Update] = []
        while (frame := json.loads(await line.recv()))["type"] != "resumed":
            if "seq" in frame:
                changes.append(Update(frame["type"], frame["scope"], frame["seq"], frame["data"]))
    ended = dict(began)
    ended |= {change.scope: change.seq for change in changes}
    stage.heard.append(Evidence("raw socket", reader.person.id, began, changes, ended))


async def revocations(stage: Stage) -> None:
    """Ended sessions are watched on both workers."""
    for seed in range(2):
        revoker = Revoker(
            stage,
            stage.journal,
            seed,
            worker_urls=[server.base_url for server in stage.servers],
            allowance=lambda *_: ALLOWED_SECONDS,
        )
        await revoker.prepare()
        await revoker.run(6.0)
        stage.anomalies += checkers.check_revocations(revoker.endings)


async def removals(stage: Stage) -> None:
    """Whoever is put out while they write: what comes behind the removal must be refused."""
    owner, guest = stage.owner.devices[0], stage.guest.devices[1]
    path = f"/chats/{stage.group}"
    for _ in range(6):
        stage.postgres.hold_commit_seconds = 0.4
        removal = owner.client.call("DELETE", f"{path}/members/{stage.guest.id}")
        sends = [_later(step * 0.03, lambda: stage.send(guest)) for step in range(6)]
        await asyncio.gather(removal, *sends)
        stage.postgres.hold_commit_seconds = 0.0
        await guest.client.call("POST", f"{path}/join")


async def slow_reader(stage: Stage) -> None:
    """One who does not read is cut off, instead of filling the memory of the server."""
    reader = stage.guest.devices[0]
    async with await _open_socket(reader, stage.servers[0]) as line:
        size = 0
        while size < _FLOOD_BYTES:
            sends = [stage.send(stage.owner.devices[0], text=_LONG_TEXT) for _ in range(8)]
            await asyncio.gather(*sends)
            size += 8 * len(_LONG_TEXT.encode())
        code = await _read_on(line)
    stage.anomalies += checkers.check_slow_readers([SlowReader(reader.name, size, code)])


async def publishes_lost(stage: Stage) -> None:
    """The last publishes never arrive: the other worker must find out by itself."""
    await stage.settle()
    stage.redis.lost = 1.0
    for _ in range(3):
        await stage.send(stage.owner.devices[0])


async def _open_socket(device: Device, server: Server) -> ClientConnection:
    tokens = await device.record.load_tokens()
    assert tokens is not None
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", server.port))
    url = f"{server.websocket_url}{API}/ws/{tokens.access_token}"
    return await connect(
        url, sock=line, compression=None, proxy=None, ping_interval=None, max_size=None
    )


async def _read_on(line: ClientConnection) -> int | None:
    """The code with which the server has closed; None: it goes on."""
    try:
        async with asyncio.timeout(2):
            async for _ in line:
                continue
    except TimeoutError:
        return None
    except ConnectionClosed:
        pass
    return line.close_code or 1006


async def _later(seconds: float, make: Callable[[], Awaitable[object]]) -> None:
    await asyncio.sleep(seconds)
    await make()


SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        commits_lost,
        retries,
        resumes,
        revocations,
        removals,
        slow_reader,
        publishes_lost,
    )
}


async def catch(bug: Bug, cluster: Postgres, redis_url: str) -> list[Anomaly]:
    """What the scenario of a bug brings to light in a server that has it."""
    with TemporaryDirectory(prefix="messenger-bug-") as directory:
        code = await asyncio.to_thread(plant, bug, Path(directory) / "code")
        return await play(bug.scenario, cluster, redis_url, code=code, sql=bug.sql)


async def play(
    name: str, cluster: Postgres, redis_url: str, *, code: Path = ROOT, sql: tuple[str, ...] = ()
) -> list[Anomaly]:
    """What a scenario brings to light in the server whose source is in `code`."""
    with TemporaryDirectory(prefix="messenger-stage-") as directory:
        async with _set(Path(directory), cluster, redis_url, code, sql) as stage:
            await SCENARIOS[name](stage)
            stage.postgres.heal()
            return await stage.judge_all()


@asynccontextmanager
async def _set(
    directory: Path, cluster: Postgres, redis_url: str, code: Path, sql: tuple[str, ...]
) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as stack:
        url = await asyncio.to_thread(cluster.create_database)
        stack.push_async_callback(asyncio.to_thread, cluster.drop_database, url)
        postgres = await stack.enter_async_context(PostgresProxy.to(*_address(url)))
        redis = await stack.enter_async_context(RedisProxy.to(*_address(redis_url)))
        environment = {
            "DATABASE_TYPE": "postgresql",
            "DATABASE_URL": _through(url, postgres.port),
            "USE_REDIS": "true",
            "REDIS_URL": _through(redis_url, redis.port),
            "WS_QUEUE_BYTES": str(_QUEUE_BYTES),
            "PYTHONPATH": str(code),
            # Nobody is to be cut off for want of a pong.
            "WS_HEARTBEAT_SECONDS": "30",
            "LOG_LEVEL": "INFO",
        }
        servers: list[Server] = []
        for name in ("one", "two"):
            shared = {"VAR_DIR": str(servers[0].var_dir)} if servers else {}
            server = Server(directory / name, environment | shared, name=name, forked=False)
            servers.append(server)
            stack.callback(server.kill)
            await asyncio.to_thread(server.start)
        judge = Judge(url)
        for statement in sql:
            await judge.execute(statement)
        journal = await stack.enter_async_context(Journal(directory / "journal.jsonl"))
        stage = Stage(servers, postgres, redis, judge, journal)
        await _fill(stage, stack)
        yield stage


async def _fill(stage: Stage, stack: AsyncExitStack) -> None:
    for number in range(3):
        person = Person(number, f"+4917012345{number:02}")
        stage.people.append(person)
        for server in stage.servers:
            name = f"person {number} on {server.name}"
            device = Device(name, person, _clients_of(server), MemoryRecord)
            await device.sign_in(stage.codes)
            person.devices.append(device)
    owner, *others = stage.people
    body = {
        "type": "group",
        "title": "The stage",
        "username": f"stage_{uuid.uuid4().hex[:12]}",
        "member_ids": [person.id for person in others],
    }
    made = await owner.devices[0].client.call("POST", "/chats/", body)
    stage.group = made["id"]
    for device in stage.devices:
        stack.push_async_callback(device.crash)
        device.start()
    await stage.settle()
    for device in stage.devices:
        device.begin_evidence()


def _clients_of(server: Server) -> MakeClient:
    return lambda store: Client(server.base_url, store, options=_PATIENCE)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _through(url: str, port: int) -> str:
    """The same, by way of a proxy on `port`."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}").geturl()
