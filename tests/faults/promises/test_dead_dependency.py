"""A dependency that accepts and never answers costs nobody more than five seconds, and no restart.

PostgreSQL, Redis, the file storage and the SMS gateway are taken away in turn: the line stays open, and every
byte on it disappears. SQLite has no line; its file is kept locked instead. What needs it is refused with 503 and
`Retry-After`; everything else is answered as ever.
"""

import asyncio
import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from tests.conftest import BACKENDS
from tests.faults.postgres_proxy import PostgresProxy
from tests.faults.promises.scale import FORKED, scaled
from tests.faults.tcp_proxy import TcpProxy
from tests.support.people import API, Backend, Deployment, Json, Person, new_id
from tests.support.postgres import Postgres
from tests.support.s3_server import S3Server
from tests.support.servers import Server
from tests.support.sockets import FrameRefused, Socket

pytestmark = pytest.mark.anyio

DEAD_SECONDS = scaled(quick=6.0, full=30.0)
# The bars are those of a machine of our own; beside other work only that everything ends is judged.
_SLACK = scaled(quick=4.0, full=1.0)
ANSWER_SECONDS = 5.0 * _SLACK
LIVE_SECONDS = 1.0 * _SLACK
READY_SECONDS = 2.0 * _SLACK
RECOVERY_SECONDS = 5.0 * _SLACK
# A send beside a chat that is stuck; whoever waited behind one that waits for its lock would take three seconds.
FREE_SECONDS = scaled(quick=2.9, full=0.5)
# A fourfold slack would not tell one deadline from two.
TOGETHER_SECONDS = scaled(quick=8.5, full=5.0)
# How often each call is begun while the dependency is dead, whatever became of those before.
EVERY_SECONDS = scaled(quick=0.5, full=1.0)
_UNAVAILABLE = 503
CONTENT = b"0123456789" * 10_000
# What needs the storage.
FILES = frozenset({"upload", "download"})
# Each way: asking for a code waits some twenty times for PostgreSQL.
_LAG_SECONDS = 0.08


class Gateway:
    """An SMS gateway over HTTP. `codes`: by phone, the newest last."""

    def __init__(self) -> None:
        self.codes: dict[str, list[str]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            [length] = [
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ]
            message = json.loads(await reader.readexactly(length))
            self.codes.setdefault(message["phone"], []).append(message["code"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Town:
    """A server whose every dependency is behind a proxy, and people on it. Without `lines`: on SQLite."""

    server: Server
    sms: TcpProxy
    storage: TcpProxy
    gateway: Gateway
    backend: Backend
    lines: tuple[PostgresProxy, TcpProxy] | None
    people: list[Person] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    chat: Json = None
    file: Json = None
    # Files are work for the store of the tests, which has the same processors.
    is_about_files: bool = False

    @property
    def anna(self) -> Person:
        return self.people[0]

    @property
    def database(self) -> PostgresProxy:
        assert self.lines is not None
        return self.lines[0]

    @property
    def redis(self) -> TcpProxy:
        assert self.lines is not None
        return self.lines[1]


@pytest.fixture
async def town(
    request: pytest.FixtureRequest, directory: Path, s3_server: S3Server, anyio_backend: str
) -> AsyncIterator[Town]:
    """On PostgreSQL with Redis, or (`request.param`) on SQLite."""
    del anyio_backend
    name = getattr(request, "param", "postgresql")
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway())
        sms = await stack.enter_async_context(TcpProxy.to("127.0.0.1", gateway.port))
        storage = await stack.enter_async_context(TcpProxy.to("127.0.0.1", s3_server.port))
        bucket = f"dead-{secrets.token_hex(8)}"
        await asyncio.to_thread(s3_server.make_bucket, bucket)
        environment = {
            **s3_server.environment(bucket, port=storage.port),
            "SMS_PROVIDER": "http",
            "SMS_HTTP_URL": f"http://127.0.0.1:{sms.port}/",
            "SMS_HTTP_BODY": '{"phone": "{phone}", "code": "{code}"}',
            # All that are begun while it is silent wait at once.
            "MAX_PARALLEL_UPLOADS": "1000",
        }
        lines = None
        if name == "postgresql":
            lines = await _open_lines(request, stack, environment)
        server = Server(directory, environment, forked=FORKED)
        stack.callback(server.kill)
        # The proxies run on this loop, so it must not wait for the server.
        await asyncio.to_thread(server.start)
        details = {"sqlite_file": str(server.var_dir / "messenger.db")}
        deployment = Deployment(name, [server], details)
        deployment.codes = lambda phone: gateway.codes.get(phone, [])  # type: ignore[method-assign]
        await asyncio.to_thread(lambda: deployment.openapi)
        made = Town(server, sms, storage, gateway, Backend(deployment, stack), lines)
        made.people = await made.backend.people(2)
        made.chat = await made.anna.group("Town", made.people[1:])
        made.file = await made.anna.upload(CONTENT)
        made.sockets = [await person.connect() for person in made.people]
        yield made
        for line in (*(lines or ()), storage):
            line.heal()
        await asyncio.to_thread(server.stop)
    assert server.faults() == []


async def _open_lines(
    request: pytest.FixtureRequest, stack: AsyncExitStack, environment: dict[str, str]
) -> tuple[PostgresProxy, TcpProxy]:
    """To an empty database and an empty Redis; `environment` then leads through them."""
    postgres: Postgres = request.getfixturevalue("postgres")
    redis_place = urlsplit(request.getfixturevalue("redis_url"))
    url = postgres.create_database()
    stack.callback(postgres.drop_database, url)
    place = urlsplit(url)
    database = await stack.enter_async_context(
        PostgresProxy.to(place.hostname or "", place.port or 5432)
    )
    redis = await stack.enter_async_context(
        TcpProxy.to(redis_place.hostname or "", redis_place.port or 6379)
    )
    account, _, _ = place.netloc.rpartition("@")
    environment |= {
        "DATABASE_TYPE": "postgresql",
        "DATABASE_URL": urlunsplit(place._replace(netloc=f"{account}@127.0.0.1:{database.port}")),
        "USE_REDIS": "true",
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "DATABASE_POOL_SIZE": "4",
    }
    return database, redis


@dataclass
class Watched:
    """What became of calls: statuses and the longest answer, by name."""

    statuses: dict[str, Counter[object]] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def note(self, name: str, outcome: object, seconds: float) -> None:
        self.statuses.setdefault(name, Counter())[outcome] += 1
        self.longest[name] = max(self.longest.get(name, 0.0), seconds)

    def all_of(self, name: str) -> set[object]:
        return set(self.statuses[name])

    def __str__(self) -> str:
        return "; ".join(
            f"{name} {dict(self.statuses[name])} <= {self.longest[name]:.2f} s"
            for name in sorted(self.statuses)
        )


Call = Callable[[], Awaitable[object]]


def calls_of(town: Town) -> dict[str, Call]:
    """One of each kind: reading, writing, signing in, by HTTP and by socket."""
    anna, chat = town.anna, town.chat
    phone = town.backend.deployment.next_phone()

    async def http(method: str, path: str, body: object = None, person: Person = anna) -> object:
        answer = await person.call(method, path, body)
        if answer.status_code == _UNAVAILABLE:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code

    async def by_socket() -> object:
        try:
            await town.sockets[0].request(
                "send_message", message(chat), timeout_seconds=2 * ANSWER_SECONDS
            )
        except FrameRefused as refusal:
            return refusal.problem["status"]
        return 200

    async def open_socket() -> object:
        ticket = await anna.call("POST", "/auth/ws-ticket", {})
        if ticket.status_code != 201:
            assert ticket.status_code == _UNAVAILABLE
            return _UNAVAILABLE
        socket = await anna.connect(token=ticket.json()["ticket"])
        await socket.close()
        return 200

    stranger = town.backend.stranger()
    files: dict[str, Call] = {
        "upload": lambda: upload(anna, new_id().encode()),
        "download": lambda: download(anna, town.file),
    }
    return {
        **(files if town.is_about_files else {}),
        "me": lambda: http("GET", "/users/me"),
        "person": lambda: http("GET", f"/users/{town.people[1].id}"),
        "chats": lambda: http("GET", "/chats/"),
        "history": lambda: http("GET", f"/messages/chat/{chat['id']}"),
        "send": lambda: http("POST", "/messages/", message(chat)),
        "profile": lambda: http("PUT", "/users/me", {"bio": "still here"}),
        "socket send": by_socket,
        "socket": open_socket,
        "code": lambda: http("POST", "/auth/send-verification", {"phone": phone}, person=stranger),
        "verify": lambda: http(
            "POST",
            "/auth/verify-code",
            {"verification_id": "unknown", "code": "123456"},
            person=stranger,
        ),
    }


async def upload(person: Person, content: bytes) -> object:
    answer = await person.client.post(
        f"{API}/files/upload",
        files={"file": ("file.bin", content)},
        headers={"Authorization": f"Bearer {person.access_token}"},
    )
    if answer.status_code == _UNAVAILABLE:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code


async def download(person: Person, file: Json) -> object:
    answer = await person.call("GET", file["url"].removeprefix(API))
    if answer.status_code == _UNAVAILABLE:
        assert int(answer.headers["retry-after"]) >= 1
    else:
        assert answer.content == CONTENT
    return answer.status_code


def message(chat: Json) -> dict[str, object]:
    return {"chat_id": chat["id"], "text": "hello", "client_message_id": new_id()}


async def watch(town: Town, seconds: float) -> Watched:
    """Begin every call again and again for so long, and wait for all answers."""
    watched = Watched()
    calls = calls_of(town)
    tasks: list[asyncio.Task[None]] = []
    async with httpx.AsyncClient(base_url=town.server.base_url, trust_env=False) as client:

        async def health(path: str) -> object:
            return (await client.get(path, timeout=30)).status_code

        calls["live"] = lambda: health("/health/live")
        calls["ready"] = lambda: health("/health/ready")
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            tasks += [
                asyncio.create_task(measure(watched, name, call)) for name, call in calls.items()
            ]
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.gather(*tasks)
    return watched


async def measure(watched: Watched, name: str, call: Call) -> None:
    begun = time.monotonic()
    outcome = await call()
    watched.note(name, outcome, time.monotonic() - begun)


def judge_times(watched: Watched) -> None:
    allowed = {"live": LIVE_SECONDS, "ready": READY_SECONDS}
    slow = {
        name: seconds
        for name, seconds in watched.longest.items()
        if seconds > allowed.get(name, ANSWER_SECONDS)
    }
    assert slow == {}, str(watched)
    assert watched.all_of("live") == {200}, str(watched)


async def recover(town: Town, healed_at: float) -> float:
    """Until one of each is answered as ever; seconds since the dependency was back."""
    while True:
        watched = Watched()
        for name, call in calls_of(town).items():
            await measure(watched, name, call)
        if not any(_UNAVAILABLE in found for found in watched.statuses.values()):
            return time.monotonic() - healed_at
        assert time.monotonic() - healed_at < 4 * RECOVERY_SECONDS, str(watched)
        await asyncio.sleep(0.1)


def take_away(proxy: TcpProxy) -> None:
    proxy.is_mute = True
    proxy.silence()


async def test_a_silent_postgresql_costs_nobody_more_than_five_seconds(town: Town) -> None:
    verification_id, code = await town.backend.ask_code(town.backend.deployment.next_phone())
    sent = sum(len(codes) for codes in town.gateway.codes.values())
    take_away(town.database)
    watched, signed_in = await asyncio.gather(
        watch(town, DEAD_SECONDS), try_to_sign_in(town, verification_id, code)
    )
    town.database.heal()
    healed_at = time.monotonic()
    recovered = await recover(town, healed_at)
    print(f"PostgreSQL silent {DEAD_SECONDS} s: back after {recovered:.2f} s; {watched}")
    judge_times(watched)
    assert watched.all_of("ready") == {_UNAVAILABLE}
    for name in watched.statuses.keys() - {"live", "ready"}:
        assert watched.all_of(name) == {_UNAVAILABLE}, str(watched)
    assert recovered <= RECOVERY_SECONDS
    # Nothing was sent and nobody was let in while no limit could be counted; the code is good yet.
    assert signed_in == _UNAVAILABLE
    assert sum(len(codes) for codes in town.gateway.codes.values()) == sent + 1
    assert await try_to_sign_in(town, verification_id, code) == 200


async def try_to_sign_in(town: Town, verification_id: str, code: str) -> int:
    body = {"verification_id": verification_id, "code": code}
    answer = await town.backend.stranger().call("POST", "/auth/verify-code", body)
    return answer.status_code


async def test_a_silent_redis_hinders_nobody(town: Town) -> None:
    take_away(town.redis)
    watched = await watch(town, DEAD_SECONDS)
    told = await town.anna.say(town.chat, "without Redis")
    await town.sockets[1].expect("new_message", {"id": told["id"]}, timeout_seconds=10)
    town.redis.heal()
    recovered = await recover(town, time.monotonic())
    print(f"Redis silent {DEAD_SECONDS} s: {watched}")
    judge_times(watched)
    for name in watched.statuses.keys() - {"verify"}:
        assert watched.all_of(name) <= {200, 201}, str(watched)
    assert watched.all_of("verify") == {400}
    assert recovered <= RECOVERY_SECONDS


async def test_a_silent_storage_hinders_only_files(town: Town) -> None:
    town.is_about_files = True
    take_away(town.storage)
    watched = await watch(town, DEAD_SECONDS)
    town.storage.heal()
    recovered = await recover(town, time.monotonic())
    print(f"storage silent {DEAD_SECONDS} s: back after {recovered:.2f} s; {watched}")
    judge_times(watched)
    for name in FILES:
        assert watched.all_of(name) == {_UNAVAILABLE}, str(watched)
    assert watched.all_of("verify") == {400}
    for name in watched.statuses.keys() - FILES - {"verify"}:
        assert watched.all_of(name) <= {200, 201}, str(watched)
    assert recovered <= RECOVERY_SECONDS


@pytest.mark.parametrize("town", BACKENDS, indirect=True)
async def test_a_silent_sms_gateway_hinders_only_who_asks_for_a_code(town: Town) -> None:
    take_away(town.sms)
    watched = await watch(town, DEAD_SECONDS)
    town.sms.heal()
    recovered = await recover(town, time.monotonic())
    print(f"SMS gateway silent {DEAD_SECONDS} s: {watched}")
    judge_times(watched)
    assert watched.all_of("code") == {_UNAVAILABLE}
    assert watched.all_of("verify") == {400}
    for name in watched.statuses.keys() - {"code", "verify"}:
        assert watched.all_of(name) <= {200, 201}, str(watched)
    assert recovered <= RECOVERY_SECONDS


@pytest.mark.parametrize("town", ["sqlite"], indirect=True)
async def test_a_file_that_another_program_keeps_locked_hinders_only_who_writes(town: Town) -> None:
    """SQLite's own kind of silence: somebody copies the file, or forgot a transaction in a shell."""
    verification_id, code = await town.backend.ask_code(town.backend.deployment.next_phone())
    sent = sum(len(codes) for codes in town.gateway.codes.values())
    file = town.backend.deployment.details["sqlite_file"]
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        watched, signed_in = await asyncio.gather(
            watch(town, DEAD_SECONDS), try_to_sign_in(town, verification_id, code)
        )
        other.execute("ROLLBACK")
    recovered = await recover(town, time.monotonic())
    print(f"SQLite locked {DEAD_SECONDS} s: back after {recovered:.2f} s; {watched}")
    judge_times(watched)
    for name in ("send", "socket send", "profile", "socket", "code", "verify"):
        assert watched.all_of(name) == {_UNAVAILABLE}, str(watched)
    for name in ("me", "person", "chats", "history", "ready"):
        assert watched.all_of(name) == {200}, str(watched)
    assert recovered <= RECOVERY_SECONDS
    assert signed_in == _UNAVAILABLE
    assert sum(len(codes) for codes in town.gateway.codes.values()) == sent + 1
    assert await try_to_sign_in(town, verification_id, code) == 200


async def test_slow_things_one_after_the_other_cost_no_more_than_five_seconds(town: Town) -> None:
    """A distant database and a silent gateway: each is within its own time, and so is all of it together."""
    asking = calls_of(town)["code"]
    take_away(town.sms)
    watched = Watched()
    town.database.lag_seconds = _LAG_SECONDS
    await asyncio.gather(*(measure(watched, "code", asking) for _ in range(3)))
    town.database.heal()
    print(f"SMS gateway silent, PostgreSQL {_LAG_SECONDS} s away: {watched}")
    assert watched.all_of("code") == {_UNAVAILABLE}
    assert watched.longest["code"] <= TOGETHER_SECONDS


async def say_again(town: Town, body: Json) -> httpx.Response:
    """Until the database is back."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        answer = await town.anna.call("POST", "/messages/", body)
        if answer.status_code != _UNAVAILABLE or time.monotonic() > deadline:
            assert answer.status_code in {200, 201}, answer.text
            return answer
        await asyncio.sleep(EVERY_SECONDS)


async def test_a_commit_without_an_answer_is_unknown_within_five_seconds(town: Town) -> None:
    """Whoever sends it again learns what became of it, and there is one message."""
    body = message(town.chat)
    town.database.hold_commit_seconds = 10_000.0
    begun = time.monotonic()
    answer = await town.anna.call("POST", "/messages/", body)
    seconds = time.monotonic() - begun
    town.database.heal()
    assert answer.status_code == _UNAVAILABLE
    assert seconds <= ANSWER_SECONDS
    again = await say_again(town, body)
    ids = [it["id"] for it in await town.anna.history(town.chat)]
    assert ids.count(again.json()["id"]) == 1
    print(f"commit without an answer: 503 after {seconds:.2f} s")


async def test_a_stuck_chat_refuses_within_five_seconds_and_hinders_no_other(town: Town) -> None:
    other = await town.anna.group("Other", town.people[1:])
    url = urlsplit(town.server.environment["DATABASE_URL"])
    holder = await asyncpg.connect(urlunsplit(url))
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(
            "SELECT 1 FROM scopes WHERE kind = $1 AND id = $2 FOR UPDATE", 1, town.chat["id"]
        )
        watched = Watched()

        async def send(chat: Json) -> object:
            answer = await town.anna.call("POST", "/messages/", message(chat))
            return answer.status_code

        # More than there are places for items that wait alone: the others wait for those.
        stuck = [measure(watched, "stuck", lambda: send(town.chat)) for _ in range(10)]
        free = [measure(watched, "free", lambda: send(other)) for _ in range(10)]
        await asyncio.gather(*stuck, *free)
        print(f"a stuck chat: {watched}")
        assert watched.all_of("stuck") == {_UNAVAILABLE}, str(watched)
        assert watched.all_of("free") == {201}, str(watched)
        assert watched.longest["stuck"] <= ANSWER_SECONDS, str(watched)
        assert watched.longest["free"] <= FREE_SECONDS, str(watched)
        await transaction.rollback()
    finally:
        await holder.close()
    assert (await town.anna.call("POST", "/messages/", message(town.chat))).status_code == 201
