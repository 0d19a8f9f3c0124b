"""A deploy loses nothing: two servers behind nginx stop and start in turn while people talk and send large files.

Nobody of the load repeats what failed: every request must succeed, and nginx's own log must say so too. One kind
may fail: a form cannot be finished in the seconds that a stop leaves on a slow line. It leaves no trace then; who
wants to go on elsewhere uploads by tus, whose requests succeed like all others.
"""

import asyncio
import hashlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from messenger_client import Client, MemoryStore, Options, Tokens, Update

from app.kernel.scopes import ScopeKind
from tests.deploy.proxy import Proxy, run_nginx
from tests.faults.machine import Machine
from tests.faults.promises.scale import scaled
from tests.support.people import API, Backend, Deployment, Json, Person, new_id
from tests.support.postgres import Postgres
from tests.support.rows import read_values
from tests.support.servers import Server
from tests.support.tus import BODY_TYPE, TUS
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END, list_objects
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

STOPS = scaled(quick=2, full=20)
STOP_SECONDS = 10.0
TALKERS = scaled(quick=4, full=8)
# Each person has two.
LISTENERS = 2 * TALKERS
UPLOAD_BYTES = scaled(quick=20_000_000, full=100_000_000)
LINE_BYTES_A_SECOND = scaled(quick=5_000_000, full=10_000_000)
_PIECE_BYTES = 262_144
# What nginx or the server itself says of a form that a stop has cut.
_CUT_FORM = frozenset({502, 503})
_SAID_TWICE = 10
_READ_AFTER = 4
_WHOLE_SECONDS = 60.0
_STOP_PATIENCE_SECONDS = 40.0
_SERVER_FAULT = 500


@dataclass
class Talker:
    """Says, reads and repeats itself over one kept connection, one call after the other; never retries.

    `said`: client id -> message id. `failed`: every call that was not answered as it should be.
    """

    http: httpx.AsyncClient
    chat: Json
    said: dict[str, int] = field(default_factory=dict[str, int])
    failed: list[str] = field(default_factory=list[str])

    async def talk(self, is_over: asyncio.Event) -> None:
        for number in itertools.count(1):
            if is_over.is_set():
                return
            client_id = new_id()
            await self._say(client_id, httpx.codes.CREATED)
            if number % _SAID_TWICE == 0:
                await self._say(client_id, httpx.codes.OK)
            if number % _READ_AFTER == 0:
                await self._read()

    async def _say(self, client_id: str, expected: int) -> None:
        body = {"chat_id": self.chat["id"], "text": client_id, "client_message_id": client_id}
        message = await self._call("POST", "/messages/", body, expected=expected)
        if message and self.said.setdefault(client_id, message["id"]) != message["id"]:
            self.failed.append(f"{client_id} is message {self.said[client_id]} and {message['id']}")

    async def _read(self) -> None:
        path = f"/messages/chat/{self.chat['id']}"
        page = await self._call("GET", path, expected=httpx.codes.OK)
        if page and page["items"][0]["id"] < max(self.said.values()):
            self.failed.append(f"{page['items'][0]['id']} is the newest, not what I have said")

    async def _call(self, method: str, path: str, body: Json = None, *, expected: int) -> Json:
        """The answer; None if it was none."""
        try:
            answer = await self.http.request(method, API + path, json=body)
        except httpx.TransportError as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code != expected:
            self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer.json()


@dataclass
class Uploader:
    """Sends one large file after the other over a slow line. `whole`: URL -> hash of what was sent and taken.

    `cut`: how often a server that stopped ended a body. `failed`: what may not happen.
    """

    http: httpx.AsyncClient
    whole: dict[str, str] = field(default_factory=dict[str, str])
    failed: list[str] = field(default_factory=list[str])
    cut: int = 0

    async def upload_resumable(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            content = os.urandom(UPLOAD_BYTES)
            head = TUS | {"Upload-Length": str(len(content))}
            begun = await self.http.post(f"{API}/files/tus", headers=head)
            if begun.status_code != httpx.codes.CREATED:
                self.failed.append(f"POST /files/tus: {begun.status_code} {begun.text[:300]}")
                return
            path = begun.headers["location"]
            if not await self._send_all(path, content):
                return
            await self._find_file(path, content)

    async def _send_all(self, path: str, content: bytes) -> bool:
        offset = 0
        while offset < len(content):
            head = TUS | {"Content-Type": BODY_TYPE, "Upload-Offset": str(offset)}
            # Its length is told: only so much is missing where the server answers before it has all.
            head["Content-Length"] = str(len(content) - offset)
            try:
                answer = await self.http.patch(path, content=drip(content[offset:]), headers=head)
            except httpx.TransportError as error:
                self.failed.append(f"PATCH {path} at {offset}: {error!r}")
                return False
            if answer.status_code != httpx.codes.NO_CONTENT:
                self.failed.append(f"PATCH {path}: {answer.status_code} {answer.text[:300]}")
                return False
            offset = int(answer.headers["upload-offset"])
            self.cut += offset < len(content)
        return True

    async def _find_file(self, path: str, content: bytes) -> None:
        standing: Json = {}

        async def is_finished() -> bool:
            standing.update((await self.http.get(path)).json())
            return standing["state"] == "finished"

        await eventually(is_finished, timeout_seconds=_WHOLE_SECONDS, what="the file")
        self.whole[standing["file"]["url"]] = hashlib.sha256(content).hexdigest()

    async def upload_forms(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            content = os.urandom(UPLOAD_BYTES)
            body = FILE_HEAD + content + FORM_END
            head = {
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
                "Content-Length": str(len(body)),
            }
            try:
                answer = await self.http.post(
                    f"{API}/files/upload", content=drip(body), headers=head
                )
            except httpx.TransportError:
                self.cut += 1
                continue
            if answer.status_code == httpx.codes.CREATED:
                self.whole[answer.json()["url"]] = hashlib.sha256(content).hexdigest()
            elif answer.status_code in _CUT_FORM:
                self.cut += 1
            else:
                self.failed.append(f"POST /files/upload: {answer.status_code} {answer.text[:300]}")

    async def judge(self) -> None:
        """What was taken is there as it was sent, and the server knows of nothing else."""
        known = (await self.http.get(f"{API}/users/me/export")).json()["files"]
        assert {file["url"] for file in known} == self.whole.keys()
        for url, sha256 in self.whole.items():
            answer = await self.http.get(url)
            assert hashlib.sha256(answer.content).hexdigest() == sha256


async def drip(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
        await asyncio.sleep(_PIECE_BYTES / LINE_BYTES_A_SECOND)


class Listener:
    """The reference client on a socket; `began`: where it stood before the load."""

    def __init__(self, proxy: Proxy, person: Person, scope: str) -> None:
        self._person = person
        self._scope = scope
        self._store = MemoryStore()
        self.client = Client(proxy.base_url, self._store, options=Options(backoff_most=1.0))
        self.began = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        await self._store.save_tokens(Tokens(self._person.access_token, "", time.time() + 80_000))
        async with self.client:
            running = asyncio.create_task(self.client.run())
            await self.client.wait_until_synced(_WHOLE_SECONDS)
            self.began = self.position
            self._store.applied.clear()
            yield
            assert not running.done(), running.exception()

    @property
    def position(self) -> int:
        return self.client.position.cursors[self._scope]

    def applied(self) -> list[str]:
        """As `read_log` tells it; a reset stands out."""
        return [
            f"{it.seq} {it.type} {it.data['id']}" if isinstance(it, Update) else repr(it)
            for it in self._store.applied.get(self._scope, [])
        ]


class AccessLog:
    """What nginx says of every request and every socket, once it has ended."""

    def __init__(self, proxy: Proxy) -> None:
        self._file = proxy.logs / "access.log"

    def lines(self) -> list[Json]:
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def ended_sockets(self) -> Counter[str]:
        """How many there were on each server so far."""
        return Counter(
            line["upstream"].rpartition(" ")[2]
            for line in self.lines()
            if line["status"] == httpx.codes.SWITCHING_PROTOCOLS
        )

    def failed(self) -> list[Json]:
        """Forms of large files aside, which may be cut."""
        return [
            line
            for line in self.lines()
            if line["status"] >= _SERVER_FAULT and not line["path"].endswith("/files/upload")
        ]


@pytest.fixture
def servers(directory: Path, postgres: Postgres, redis_url: str) -> Iterator[list[Server]]:
    """One of a single process and one of two workers, as different machines with the same keys."""
    # nginx's own user must find its folder in there.
    directory.chmod(0o755)
    database = postgres.create_database()
    shared = {
        "DATABASE_TYPE": "postgresql",
        "DATABASE_URL": database,
        "USE_REDIS": "true",
        "REDIS_URL": redis_url,
        "TRUSTED_PROXIES": "127.0.0.1/32",
        "ACCESS_TOKEN_MINUTES": "1440",
        "LOG_LEVEL": "INFO",
        "VAR_DIR": str(directory / "one" / "var"),
    }
    one = Server(directory / "one", shared, name="one", forked=False)
    two = Server(directory / "two", shared | {"WORKERS": "2"}, name="two", forked=False)
    try:
        yield [one.start(), two.start()]
        one.stop()
        two.stop()
    finally:
        one.kill()
        two.kill()
        postgres.drop_database(database)


async def test_servers_that_stop_in_turn_lose_nothing(
    directory: Path, servers: list[Server], caplog: pytest.LogCaptureFixture
) -> None:
    # Where the client tells why it lost a socket.
    caplog.set_level("DEBUG", logger="messenger_client.client")
    database_url = servers[0].environment["DATABASE_URL"]
    deployment = Deployment("postgresql", servers, {"database_url": database_url})
    is_over = asyncio.Event()
    async with AsyncExitStack() as stack:
        backend = Backend(deployment, stack)
        people = await backend.people(TALKERS)
        chat = await people[0].group("All", people[1:])
        scope = f"chat:{chat['id']}"
        ports = [server.port for server in servers]
        proxy = stack.enter_context(run_nginx(directory / "nginx", *ports))
        listeners = [Listener(proxy, person, scope) for person in people * (LISTENERS // TALKERS)]
        talkers = [await enter(proxy, person, chat, stack) for person in people]
        log = AccessLog(proxy)
        uploaders = [
            Uploader((await enter(proxy, person, chat, stack)).http)
            for person in await backend.people(2)
        ]
        stops: list[float] = []
        async with asyncio.TaskGroup() as group:
            for talker in talkers:
                group.create_task(talker.talk(is_over))
            group.create_task(uploaders[0].upload_resumable(is_over))
            group.create_task(uploaders[1].upload_forms(is_over))
            try:
                for listener in listeners:
                    await stack.enter_async_context(listener.listening())
                for server in itertools.islice(itertools.cycle(servers), STOPS):
                    before, told = log.ended_sockets(), len(caplog.messages)
                    stops.append(await replace(server))
                    await expect_progress(talkers, listeners)
                    ended = log.ended_sockets() - before
                    assert [line for it in (*talkers, *uploaders) for line in it.failed] == []
                    lost = caplog.messages[told:]
                    assert set(lost) <= {"socket lost: closed with 1012"}
                    assert ended == Counter({f"127.0.0.1:{server.port}": len(lost)})
            finally:
                is_over.set()
        # Wherever a socket was before the first stop, the first two have closed it.
        assert len(caplog.messages) >= len(listeners)
        assert log.failed() == []
        rows = await read_log(deployment, chat)
        for listener in listeners:

            async def is_whole(listener: Listener = listener) -> bool:
                return listener.position >= len(rows)

            await eventually(is_whole, timeout_seconds=_WHOLE_SECONDS, what="the last message")
            assert listener.applied() == rows[listener.began :]
        await judge(deployment, talkers, chat)
        objects = await judge_uploads(uploaders, servers[0].var_dir)
        print(
            f"rolling deploy: {STOPS} stops of {max(stops):.1f} s at most, {len(log.lines())} requests,"
            f" {len(caplog.messages)} sockets closed with 1012, {objects} large files taken,"
            f" {uploaders[0].cut} bodies of tus continued elsewhere, {uploaders[1].cut} forms cut,"
            " 0 failed otherwise, nothing lost"
        )
    for server in servers:
        server.stop()
        assert server.faults() == []


async def enter(proxy: Proxy, person: Person, chat: Json, stack: AsyncExitStack) -> Talker:
    http = httpx.AsyncClient(
        base_url=proxy.base_url,
        headers={"Authorization": f"Bearer {person.access_token}"},
        timeout=30,
        trust_env=False,
    )
    return Talker(await stack.enter_async_context(http), chat)


async def replace(server: Server) -> float:
    """As an operator does; answers the seconds that the stop took, of a machine of our own."""
    began, machine = time.monotonic(), Machine()
    os.kill(server.pid, signal.SIGTERM)
    status = await asyncio.to_thread(server.wait_for_exit, _STOP_PATIENCE_SECONDS)
    seconds = (time.monotonic() - began) * machine.share()
    assert status in {0, -signal.SIGTERM}
    assert seconds <= STOP_SECONDS
    await asyncio.to_thread(server.start)
    return seconds


async def expect_progress(talkers: list[Talker], listeners: list[Listener]) -> None:
    """Everybody has said something, and every socket has caught up with what was said before."""
    said = [len(talker.said) for talker in talkers]
    for listener in listeners:
        await listener.client.wait_until_synced(_WHOLE_SECONDS)

    async def have_talked() -> bool:
        return all(
            len(talker.said) > before or talker.failed
            for talker, before in zip(talkers, said, strict=True)
        )

    await eventually(
        have_talked, timeout_seconds=_WHOLE_SECONDS, what="the next words of everybody"
    )


async def read_log(deployment: Deployment, chat: Json) -> list[str]:
    """The chat's log from 1 on: number, type and what it is about."""
    where = f"kind = {int(ScopeKind.CHAT)} AND scope_id = {chat['id']}"
    rows = await read_values(
        deployment,
        f"SELECT seq || ' ' || type || ' ' || subject_id FROM updates WHERE {where} ORDER BY seq",
    )
    assert [int(str(row).split()[0]) for row in rows] == list(range(1, len(rows) + 1))
    return [str(row) for row in rows]


async def judge(deployment: Deployment, talkers: list[Talker], chat: Json) -> None:
    """What was acknowledged is there once, and nothing else is."""
    stored = await read_values(
        deployment,
        "SELECT client_message_id || ' ' || id FROM messages"
        f" WHERE chat_id = {chat['id']} AND client_message_id IS NOT NULL",
    )
    said = [f"{client_id} {it}" for talker in talkers for client_id, it in talker.said.items()]
    assert sorted(map(str, stored)) == sorted(said)


async def judge_uploads(uploaders: list[Uploader], var_dir: Path) -> int:
    """How many were taken; of those that were not nothing is left."""
    for uploader in uploaders:
        assert uploader.failed == []
        await uploader.judge()
    objects = sum(len(uploader.whole) for uploader in uploaders)

    async def is_clean() -> bool:
        return len(list_objects(var_dir)) == objects

    await eventually(is_clean, timeout_seconds=_WHOLE_SECONDS, what="as many objects as files")
    return objects
