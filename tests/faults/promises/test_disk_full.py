"""A full disk loses nothing and breaks nothing: what cannot be kept is refused, the rest goes on.

The disk of SQLite, of the uploads and of PostgreSQL's data are filled up in turn. Refusals are 503 or 507,
nothing is acknowledged without its row, no half file is left, reading goes on; and once there is room again
everything works, without a restart and with sound databases.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path

import asyncpg
import httpx
import pytest
from PIL import Image

from app.infra.storage.names import MARKER
from tests.faults.tcp_proxy import Link, TcpProxy, Way
from tests.support import missing
from tests.support.people import API, Backend, Deployment, Json, Person, new_id
from tests.support.postgres import Postgres, PostgresProcess, run_postgres_process
from tests.support.s3_server import S3Server
from tests.support.servers import Server
from tests.support.small_disk import MIB, SmallDisk, can_mount, small_disk
from tests.support.tus import begin
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

# Long enough to need new pages again and again; what PostgreSQL keeps of it does not get smaller.
_TEXT_LENGTH = 4096
_MOST_SENDS = 1500
_REFUSALS = 10
_FULL = {503, 507}
_FULL_STORE_BODY = b"<Error><Code>XMinioStorageFull</Code><Message>No.</Message></Error>"
_FULL_STORE = (
    b"HTTP/1.1 507 Insufficient Storage\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL_STORE_BODY), _FULL_STORE_BODY)
)


@pytest.fixture
async def stack(anyio_backend: str) -> AsyncIterator[AsyncExitStack]:
    del anyio_backend
    async with AsyncExitStack() as opened:
        yield opened


class Journal:
    """Sends of one person, each with what was answered."""

    def __init__(self, person: Person, chat: Json) -> None:
        self._person = person
        self._chat = chat
        self.acknowledged: dict[str, int] = {}
        self.refused: dict[str, Json] = {}

    async def send(self) -> int:
        """One message of some length; the status of its answer."""
        text = secrets.token_hex(_TEXT_LENGTH // 2)
        body = {"chat_id": self._chat["id"], "text": text, "client_message_id": new_id()}
        return await self._post(body)

    async def send_until_refused(self) -> None:
        """Until as many are refused one after another as no chance would have it."""
        refused = 0
        for _ in range(_MOST_SENDS):
            refused = refused + 1 if await self.send() != 201 else 0
            if refused == _REFUSALS:
                return
        pytest.fail(f"the disk took {len(self.acknowledged)} messages of {_TEXT_LENGTH} characters")

    async def send_refused_again(self) -> None:
        """With the ids that they had: each of them is in then, once."""
        for body in list(self.refused.values()):
            assert await self._post(body) in {200, 201}

    async def judge(self, *, is_all: bool = False) -> None:
        """What was acknowledged can be read, and nothing is in twice. `is_all`: and there is nothing else."""
        ids: list[int] = []
        while True:
            older = {"before": ids[-1]} if ids else {}
            page = await self._person.get(
                f"/messages/chat/{self._chat['id']}", expect=200, limit=100, **older
            )
            ids += [it["id"] for it in page["items"]]
            if not page["has_more_before"]:
                break
        assert len(ids) == len(set(ids))
        lost = set(self.acknowledged.values()) - set(ids)
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged sends are lost"
        assert not is_all or set(ids) == set(self.acknowledged.values())

    async def _post(self, body: Json) -> int:
        answer = await self._person.call("POST", "/messages/", body)
        key = body["client_message_id"]
        if answer.status_code in {200, 201}:
            self.refused.pop(key, None)
            self.acknowledged[key] = answer.json()["id"]
        else:
            assert answer.status_code in _FULL, answer.text
            assert answer.status_code != 503 or int(answer.headers["retry-after"]) >= 1
            self.refused[key] = body
        return answer.status_code


async def set_scene(server: Server, stack: AsyncExitStack, name: str) -> tuple[Person, Journal]:
    backend = Backend(Deployment(name, [server]), stack)  # type: ignore[arg-type]
    anna, boris = await backend.people(2)
    journal = Journal(anna, await anna.private_chat(boris))
    for _ in range(20):
        assert await journal.send() == 201
    return anna, journal


async def reads_go_on(server: Server, person: Person, journal: Journal) -> None:
    for path in ("/users/me", "/chats/"):
        assert (await person.call("GET", path)).status_code == 200
    await journal.judge()
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        assert (await client.get("/health/live")).status_code == 200


async def works_again(journal: Journal) -> None:
    async def is_taken() -> bool:
        return await journal.send() == 201

    await eventually(is_taken, timeout_seconds=30, what="a message is taken")
    await journal.send_refused_again()
    assert journal.refused == {}
    for _ in range(20):
        assert await journal.send() == 201
    await journal.judge(is_all=True)


async def test_sqlite_on_a_full_disk_refuses_and_goes_on_reading(
    directory: Path, stack: AsyncExitStack
) -> None:
    disk = stack.enter_context(small_disk(directory / "disk"))
    server = Server(directory, {"VAR_DIR": str(disk.path / "var"), "ACCESS_TOKEN_MINUTES": "600"})
    server.sms_file = disk.path / "var" / "sms.jsonl"
    stack.callback(server.kill)
    server.start()
    anna, journal = await set_scene(server, stack, "sqlite")
    file = await anna.upload(b"kept" * 100_000)
    for leave in (MIB, 0):
        disk.fill([server.pid], leave=leave)
        await journal.send_until_refused()
        await reads_go_on(server, anna, journal)
        assert (await anna.download(file)).content == b"kept" * 100_000
        await refuse_upload(anna, b"x" * 3 * MIB)
        disk.free()
        await works_again(journal)
    assert (await anna.download(await anna.upload(b"again"))).content == b"again"
    server.stop()
    with closing(sqlite3.connect(disk.path / "var" / "messenger.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert server.faults() == []
    how = "tmpfs" if disk.is_mounted else "RLIMIT_FSIZE"
    print(f"SQLite full ({how}): {len(journal.acknowledged)} acknowledged, 0 lost, integrity ok")


async def refuse_upload(person: Person, content: bytes, *, name: str = "file.bin") -> int:
    answer = await person.client.post(
        f"{API}/files/upload",
        files={"file": (name, content)},
        headers={"Authorization": f"Bearer {person.access_token}"},
    )
    assert answer.status_code in _FULL, answer.text
    return answer.status_code


def stored_in(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()} - {"ballast", MARKER}


async def test_uploads_to_a_full_disk_are_refused_and_leave_nothing(
    directory: Path, stack: AsyncExitStack
) -> None:
    files = directory / "var" / "files"
    disk = stack.enter_context(small_disk(files))
    server = Server(directory, {"ACCESS_TOKEN_MINUTES": "600"})
    stack.callback(server.kill)
    server.start()
    anna, journal = await set_scene(server, stack, "sqlite")
    content = secrets.token_bytes(MIB)
    kept = await anna.upload(content)
    before = stored_in(files)
    assert len(before) == 1
    # A limit counts for each file of the process, its database included, and a disk for all of them.
    room = 2 * MIB if disk.is_mounted else 16 * MIB
    disk.fill([server.pid], leave=room)
    large = secrets.token_bytes(room + MIB)
    for _ in range(5):
        assert await refuse_upload(anna, large) == 507
        assert stored_in(files) == before
    # Nobody else notices.
    assert (await anna.download(kept)).content == content
    part = await anna.download(kept, expect=206, Range="bytes=1000-1999")
    assert part.content == content[1000:2000]
    for _ in range(5):
        assert await journal.send() == 201
    disk.free()
    again = await anna.upload(large)
    assert (await anna.download(again)).content == large
    await journal.judge()
    server.stop()
    assert server.faults() == []
    print(f"uploads full ({'tmpfs' if disk.is_mounted else 'RLIMIT_FSIZE'}): 507, nothing left")


async def test_a_resumable_upload_that_does_not_fit_leaves_the_room_to_others(
    directory: Path, stack: AsyncExitStack
) -> None:
    """All of it has come; the file that is to be made of it has no room. What is smaller goes on."""
    files = directory / "var" / "files"
    disk = stack.enter_context(small_disk(files))
    if not disk.is_mounted:
        missing.skip("a small disk", "a limit on files leaves as much room as there was")
    server = Server(directory, {"ACCESS_TOKEN_MINUTES": "600"})
    stack.callback(server.kill)
    server.start()
    anna, _ = await set_scene(server, stack, "sqlite")
    content = secrets.token_bytes(16 * MIB)
    upload = await begin(anna, len(content), content=content[:-1])
    disk.fill([server.pid], leave=12 * MIB)
    answer = await upload.patch(content[-1:], len(content) - 1)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")

    async def is_tried_again() -> bool:
        await anna.upload(secrets.token_bytes(1000))
        return "upload_not_finished" in server.log_file.read_text()

    await eventually(is_tried_again, timeout_seconds=60, what="another attempt")
    assert "ENOSPC" not in server.log_file.read_text(), "nobody has filled the disk"
    assert (await upload.standing())["state"] == "finishing"
    disk.free()

    async def is_finished() -> bool:
        return (await upload.standing())["state"] == "finished"

    await eventually(is_finished, timeout_seconds=120, what="its file")
    assert (await anna.download((await upload.standing())["file"])).content == content
    server.stop()
    assert server.faults() == []


async def test_a_photo_without_room_for_what_is_made_of_it_is_refused_and_leaves_nothing(
    directory: Path, stack: AsyncExitStack
) -> None:
    """Its bytes as sent have room. A limit on each file is no such disk: the second would fit as the first did."""
    if not can_mount():
        missing.skip("a photo on a full disk", "no right to mount a tmpfs")
    files = directory / "var" / "files"
    disk = stack.enter_context(small_disk(files))
    server = Server(directory, {"ACCESS_TOKEN_MINUTES": "600"})
    stack.callback(server.kill)
    server.start()
    anna, _ = await set_scene(server, stack, "sqlite")
    kept = await anna.upload(b"kept" * 1000)
    before = stored_in(files)
    noise = Image.frombytes("RGB", (600, 500), secrets.token_bytes(600 * 500 * 3))
    sent = BytesIO()
    noise.save(sent, "PNG")
    disk.fill([server.pid], leave=len(sent.getvalue()) + 100_000)
    assert await refuse_upload(anna, sent.getvalue(), name="noise.png") == 507

    async def is_clean() -> bool:
        return stored_in(files) == before

    # The photo as it was sent had come to its end, so that a job deletes it.
    await eventually(is_clean, timeout_seconds=60, what="only what was there before")
    assert (await anna.download(kept)).content == b"kept" * 1000
    disk.free()
    photo = await anna.upload(sent.getvalue(), name="noise.png")
    assert photo["file_type"] == "photo"
    server.stop()
    assert server.faults() == []


class GateLink(Link):
    """Answers whatever would write as a full store does, for as long as the gate is full."""

    async def on_client_bytes(self, data: bytes) -> None:
        gate = self.proxy
        assert isinstance(gate, Gate)
        if gate.is_full and data.startswith((b"PUT ", b"POST ")):
            gate.refused += 1
            await self.to_client(_FULL_STORE)
            self.stall(Way.TO_SERVER)
            return
        await super().on_client_bytes(data)


class Gate(TcpProxy):
    is_full = False
    refused = 0

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return GateLink(self, client, server)


async def test_a_full_store_refuses_uploads_with_507_and_goes_on(
    directory: Path, stack: AsyncExitStack, s3_server: S3Server
) -> None:
    bucket = f"full-{secrets.token_hex(8)}"
    s3_server.make_bucket(bucket)
    gate = await stack.enter_async_context(Gate.to("127.0.0.1", s3_server.port))
    settings = s3_server.environment(bucket, port=gate.port)
    server = Server(directory, settings)
    # The gate is served meanwhile.
    await asyncio.to_thread(server.start)
    stack.callback(server.kill)
    anna, journal = await set_scene(server, stack, "sqlite")
    kept = await anna.upload(b"kept" * 100_000)
    before = s3_server.list_keys(bucket)
    gate.is_full = True
    gate.cut()
    # One piece, and so much that it goes in parts; a form, and by tus.
    for size in (1000, 6 * MIB):
        assert await refuse_upload(anna, secrets.token_bytes(size)) == 507
    upload = await begin(anna, 1000)
    answer = await upload.patch(b"x" * 1000, 0)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert await upload.offset() == 0
    assert gate.refused >= 3
    assert s3_server.list_keys(bucket) == before
    assert (await anna.download(kept)).content == b"kept" * 100_000
    assert await journal.send() == 201
    gate.is_full = False
    gate.cut()
    large = secrets.token_bytes(6 * MIB)
    assert (await anna.download(await anna.upload(large))).content == large
    assert (await upload.patch(b"x" * 1000, 0)).status_code == 204
    assert server.faults() == []


@contextmanager
def own_postgres(*, wal_segment_mib: int) -> Iterator[tuple[SmallDisk, PostgresProcess]]:
    """A cluster whose data has a disk of its own."""
    disks: list[SmallDisk] = []

    @contextmanager
    def around(data: Path) -> Iterator[None]:
        with small_disk(data, size=256 * MIB) as disk:
            disks.append(disk)
            yield

    try:
        with run_postgres_process(
            durable=True, around_data=around, wal_segment_mib=wal_segment_mib
        ) as process:
            yield disks[0], process
    except missing.Missing as reason:
        missing.skip("PostgreSQL", str(reason))


async def test_postgresql_on_a_full_disk_refuses_and_goes_on_reading(
    directory: Path, stack: AsyncExitStack
) -> None:
    """Full for tables: where not even its log has room, PostgreSQL stops, and row 12 is what holds."""
    is_real = can_mount()
    # Under a limit what is in one file of the log must fit, and a table must outgrow it soon.
    disk, process = stack.enter_context(own_postgres(wal_segment_mib=16 if is_real else 1))
    assert process.pid is not None
    url = await asyncio.to_thread(Postgres(process.url).create_database)
    server = Server(
        directory,
        {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url, "ACCESS_TOKEN_MINUTES": "600"},
    )
    stack.callback(server.kill)
    server.start()
    anna, journal = await set_scene(server, stack, "postgresql")
    file = await anna.upload(b"kept" * 100_000)
    for _ in range(2):
        disk.fill([process.pid], leave=0 if is_real else MIB)
        await journal.send_until_refused()
        await reads_go_on(server, anna, journal)
        assert (await anna.download(file)).content == b"kept" * 100_000
        disk.free()
        await works_again(journal)
    # It never went down, and what it has is sound, also after a start anew.
    assert process.is_running()
    server.stop()
    process.stop()
    process.start()
    await judge_indexes(url)
    server.start()
    await journal.judge()
    server.stop()
    assert server.faults() == []
    how = "tmpfs" if is_real else "RLIMIT_FSIZE"
    print(
        f"PostgreSQL full ({how}): {len(journal.acknowledged)} acknowledged, 0 lost, integrity ok"
    )


async def judge_indexes(url: str) -> None:
    """By PostgreSQL's own check, of every index and that each row is in it."""
    connection = await connect_when_ready(url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        checked = await connection.fetch(
            "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
            " WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'"
        )
        assert checked
    finally:
        await connection.close()


async def connect_when_ready(url: str) -> asyncpg.Connection:
    found: list[asyncpg.Connection] = []

    async def is_ready() -> bool:
        with suppress(asyncpg.CannotConnectNowError, OSError):
            found.append(await asyncpg.connect(url))
        return bool(found)

    await eventually(is_ready, timeout_seconds=30, what="PostgreSQL")
    return found[0]
