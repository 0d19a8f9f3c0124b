"""Part F of the checklist: hostile uploads, and hostile readers."""

import asyncio
import contextlib
import io
import os
import socket
import sqlite3
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from tests.faults.machine import Machine
from tests.security.browser import EVIL, Browser
from tests.security.test_ciphertext import expect_event
from tests.support.audit import read_events
from tests.support.lone_servers import lone_server
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.rows import read_values
from tests.support.servers import Server
from tests.support.tus import Upload as Resumable
from tests.support.tus import begin as begin_resumable
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END, RawUpload, list_objects
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MIB = 1_048_576


@pytest.fixture(params=["sqlite", "postgresql"])
def lone(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    settings = {"MAX_UPLOAD_SIZE": str(4 * MIB), "FILES_QUOTA": str(10 * MIB)}
    with lone_server(request, directory, settings | {"MAX_PARALLEL_UPLOADS": "3"}) as deployment:
        yield deployment


@pytest.fixture
async def strict(lone: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    """A backend with 4 MiB a file, 10 MiB a person and three uploads at once."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(lone, stack)


async def begin(person: Person, *, length: int | None = None) -> RawUpload:
    upload = await RawUpload.open(person.node.port, person.access_token, length=length)
    await upload.send(FILE_HEAD)
    return upload


def objects_of(backend: Backend) -> list[Path]:
    return list_objects(backend.deployment.nodes[0].var_dir)


async def is_empty(backend: Backend) -> bool:
    return not objects_of(backend)


# F5: size, count and quota while streaming


async def test_a_chunked_overrun_is_cut_off_and_leaves_nothing(strict: Backend) -> None:
    anna = await strict.sign_up()
    upload = await begin(anna)
    for _ in range(6):
        await upload.send(os.urandom(MIB))
    status, problem = await upload.answer()
    assert (status, problem["code"]) == (413, "file_too_large")
    assert problem["max_bytes"] == 4 * MIB
    await eventually(lambda: is_empty(strict), what="nothing is left", timeout_seconds=20)


@pytest.mark.parametrize("claimed", [10, 3 * MIB])
async def test_a_wrong_content_length_stores_nothing(strict: Backend, claimed: int) -> None:
    """Too short: the form ends within the file. Too long: it never ends."""
    anna = await strict.sign_up()
    head_and_claim = len(FILE_HEAD) + claimed
    upload = await begin(anna, length=head_and_claim)
    body = os.urandom(MIB)
    await upload.send(body[:claimed])
    if claimed < MIB:
        status, problem = await upload.answer()
        assert (status, problem["code"]) == (400, "multipart_malformed")
    upload.cut()
    await eventually(lambda: is_empty(strict), what="nothing is left", timeout_seconds=20)


async def test_the_quota_ends_an_upload_in_the_middle(strict: Backend) -> None:
    anna = await strict.sign_up()
    for _ in range(2):
        await anna.upload(os.urandom(4 * MIB - 1000))
    upload = await begin(anna)
    for _ in range(3):
        await upload.send(os.urandom(MIB))
    status, problem = await upload.answer()
    assert (status, problem["code"]) == (413, "quota_exceeded")
    assert problem["quota_bytes"] == 10 * MIB
    assert problem["used_bytes"] > 8 * MIB - 2000
    await anna.upload(os.urandom(MIB))


async def test_what_parallel_uploads_announce_takes_room_while_they_run(strict: Backend) -> None:
    anna = await strict.sign_up()
    claimed = len(FILE_HEAD) + 4 * MIB - 1000 + len(FORM_END)
    uploads = [await begin(anna, length=claimed) for _ in range(2)]
    body = os.urandom(4 * MIB - 1000)
    for upload in uploads:
        await upload.send(body[:MIB])

    async def have_begun() -> bool:
        return len(objects_of(strict)) == 2

    await eventually(have_begun, what="both are under way")
    late = await begin(anna, length=claimed)
    status, problem = await late.answer()
    assert (status, problem["code"]) == (413, "quota_exceeded")
    assert problem["used_bytes"] > 8 * MIB - 2000
    uploads.pop().cut()
    await uploads[0].send(body[MIB:] + FORM_END)
    assert (await uploads[0].answer())[0] == 201

    async def has_room() -> bool:
        answer = await anna.post_form(body)
        return answer.status_code == 201

    await eventually(has_room, what="the room of the broken one", timeout_seconds=20)


async def test_parallel_uploads_do_not_pass_the_end_of_the_quota(strict: Backend) -> None:
    anna = await strict.sign_up()
    await anna.upload(os.urandom(4 * MIB))
    uploads = [await begin(anna) for _ in range(3)]
    for upload in uploads:
        for _ in range(3):
            await upload.send(os.urandom(MIB))
    for upload in uploads:
        await upload.send(FORM_END)
        await upload.end()
    answers = [await upload.answer() for upload in uploads]
    # None of them, where they take the last room from each other step by step.
    statuses = [status for status, _ in answers]
    assert statuses.count(413) >= 2
    assert set(statuses) <= {201, 413}
    assert {b["code"] for s, b in answers if s == 413} == {"quota_exceeded"}
    taken = await read_values(strict.deployment, "SELECT stored_size FROM blobs")
    assert sum(int(str(size)) for size in taken) <= 10 * MIB


async def test_an_account_has_only_so_many_uploads_under_way(strict: Backend) -> None:
    anna, bruno = await strict.people(2)
    uploads = [await begin(anna) for _ in range(3)]
    for upload in uploads:
        await upload.send(b"x" * 100_000)

    async def have_begun() -> bool:
        return len(objects_of(strict)) == 3

    await eventually(have_begun, what="all three have begun", timeout_seconds=20)
    await anna.upload(b"one more", expect=409, code="too_many_uploads")
    await bruno.upload(b"somebody else's")
    uploads[0].cut()

    async def has_room() -> bool:
        request = {"file": ("a", b"one more")}
        head = {"Authorization": f"Bearer {anna.access_token}"}
        answer = await anna.client.post(f"{API}/files/upload", files=request, headers=head)
        return answer.status_code == 201

    await eventually(has_room, what="the one that broke counts no more")
    for upload in uploads[1:]:
        await upload.send(FORM_END)
        await upload.end()
        assert (await upload.answer())[0] == 201


# F6: what stands around the file


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * 200_000,
        b"--" + BOUNDARY.encode() + b"\r\n" + b"X-Header: 1\r\n" * 100 + b"\r\n",
        b"--" + BOUNDARY.encode() + b"\r\nX-Long: " + b"x" * 100_000 + b"\r\n",
        FILE_HEAD + b"x" + FORM_END + b"\r\nepilogue" * 50_000,
        b"".join(
            b"--%b\r\nContent-Disposition: form-data; name=f%d\r\n\r\nx\r\n"
            % (BOUNDARY.encode(), i)
            for i in range(1000)
        ),
        b"--"
        + BOUNDARY.encode()
        + b"\r\nContent-Disposition: form-data; name=purpose\r\n\r\n"
        + b"x" * 2 * MIB,
    ],
    ids=["preamble", "headers", "long header", "epilogue", "parts", "field"],
)
async def test_what_stands_around_the_file_is_bounded(backend: Backend, body: bytes) -> None:
    anna = await backend.sign_up()
    upload = await RawUpload.open(anna.node.port, anna.access_token)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(body), 65_536):
            await upload.send(body[start : start + 65_536])
        await upload.end()
    status, problem = await upload.answer()
    assert status in {400, 422}
    assert problem["code"] in {"multipart_malformed", "validation_error"}


# F9: nothing stays of what broke


async def test_a_line_that_breaks_leaves_nothing(strict: Backend) -> None:
    anna = await strict.sign_up()
    upload = await begin(anna)
    for _ in range(3):
        await upload.send(os.urandom(MIB))

    async def is_there() -> bool:
        return bool(objects_of(strict))

    await eventually(is_there, what="something is on the disk")
    upload.cut()
    await eventually(lambda: is_empty(strict), what="nothing is left", timeout_seconds=20)


async def test_a_refused_upload_leaves_nothing(strict: Backend) -> None:
    anna = await strict.sign_up()
    await anna.upload(os.urandom(MIB), purpose="photo", expect=422, code="photo_invalid")
    await anna.upload(b"", expect=422, code="file_empty")
    await eventually(lambda: is_empty(strict), what="nothing is left", timeout_seconds=20)


async def test_a_killed_server_leaves_nothing(directory: Path) -> None:
    """Its notes fall due by themselves, after ten minutes: here their time is turned back."""
    server = Server(directory).start()
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server]), stack)
        anna = await backend.sign_up()
        upload = await begin(anna)
        for _ in range(3):
            await upload.send(os.urandom(MIB))

        async def is_there() -> bool:
            return bool(list_objects(server.var_dir))

        await eventually(is_there, what="something is on the disk")
        server.kill()
        upload.cut()
        assert list_objects(server.var_dir)
        with sqlite3.connect(server.var_dir / "messenger.db") as database:
            noted = database.execute("UPDATE doomed_objects SET due_at = 0").rowcount
        assert noted == 1
        server.start()

        async def is_gone() -> bool:
            return not list_objects(server.var_dir)

        await eventually(is_gone, what="nothing is left", timeout_seconds=20)
        await anna.upload(b"it works again")
    server.stop()


async def test_the_bytes_of_a_deleted_file_go_with_their_key(directory: Path) -> None:
    with Server(directory, {"FILES_GRACE_MINUTES": "0"}) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna = await backend.sign_up()
            file = await anna.upload(os.urandom(1000))
            assert len(list_objects(server.var_dir)) == 1
            await anna.delete(file["url"].removeprefix(API), expect=204)
            await anna.download(file, expect=404)

            async def is_gone() -> bool:
                return not list_objects(server.var_dir)

            await eventually(is_gone, what="the bytes are gone", timeout_seconds=40)
            with sqlite3.connect(server.var_dir / "messenger.db") as database:
                keys = database.execute("SELECT id FROM keys WHERE id LIKE 'blob:%'").fetchall()
                rows = database.execute("SELECT count(*) FROM blobs").fetchone()
            assert (keys, rows) == ([], (0,))


# At rest


async def test_nothing_of_a_file_lies_anywhere_in_the_clear(directory: Path) -> None:
    marker, name = b"MARKER-OF-THE-CONTENT" * 100, "marker-of-the-name.txt"
    with Server(directory) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna = await backend.sign_up()
            file = await anna.upload(marker, name=name)
            upload = await begin(anna)
            for _ in range(50):
                await upload.send(marker * 20)
            assert (await anna.download(file)).content == marker
            found = find_files_with(directory, marker[:40], name.encode())
            upload.cut()
        assert found == []


def find_files_with(directory: Path, *markers: bytes) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if any(it in path.read_bytes() for it in markers)]


async def test_a_damaged_object_is_refused_and_recorded(directory: Path) -> None:
    with Server(directory) as server:
        async with AsyncExitStack() as stack:
            details = {"sqlite_file": str(server.var_dir / "messenger.db")}
            backend = Backend(Deployment("sqlite", [server], details), stack)
            anna = await backend.sign_up()
            one = await anna.upload(os.urandom(600_000))
            two = await anna.upload(os.urandom(600_000))
            first, second = list_objects(server.var_dir)
            content = bytearray(first.read_bytes())
            swapped = second.read_bytes()
            content[100] ^= 1
            first.write_bytes(content)
            second.write_bytes(swapped[262_160:524_320] + swapped[:262_160] + swapped[524_320:])
            for file in (one, two):
                answer = await anna.download(file, expect=503)
                assert answer.json()["code"] == "file_unreadable"
            for damaged in (first, second):
                await expect_event(backend, "objects", "bytes", damaged.name)


# Slow readers and writers


@pytest.mark.slow
async def test_an_upload_that_drips_is_ended(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna)
    began = time.monotonic()

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await upload.send(b"x")
                await asyncio.sleep(0.5)

    dripping = asyncio.create_task(drip())
    status, problem = await upload.answer()
    dripping.cancel()
    assert (status, problem["code"]) == (400, "body_too_slow")
    assert 25 < time.monotonic() - began < 90


@pytest.fixture(params=["sqlite", "postgresql"])
def hasty(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    settings = {"UPLOAD_MIN_RATE": str(10 * MIB), "UPLOAD_GRACE_SECONDS": "2"}
    with lone_server(request, directory, settings) as deployment:
        yield deployment


async def test_an_upload_keeps_a_pace_as_a_whole(hasty: Deployment, anyio_backend: str) -> None:
    """Each piece comes well in time; so it would go on for days."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        anna = await Backend(hasty, stack).sign_up()
        answer = await trickle(await begin(anna))
        assert answer == (400, "body_too_slow")
        resumable = await begin_resumable(anna, 4 * MIB)
        assert await trickle(await begin_patch(anna, resumable, 4 * MIB)) == (409, "upload_stalled")
        kept = await resumable.offset()
        assert 0 < kept < 4 * MIB
        rest = await resumable.patch(b"x" * (4 * MIB - kept), kept)
        assert rest.status_code == 204
        assert rest.headers["X-File-ID"]


async def begin_patch(person: Person, upload: Resumable, length: int) -> RawUpload:
    reader, writer = await asyncio.open_connection("127.0.0.1", person.node.port)
    lines = (
        f"PATCH {API}{upload.path} HTTP/1.1",
        "Host: a",
        "Tus-Resumable: 1.0.0",
        "Content-Type: application/offset+octet-stream",
        "Upload-Offset: 0",
        f"Content-Length: {length}",
        f"Authorization: Bearer {person.access_token}",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return RawUpload(reader, writer)


async def trickle(upload: RawUpload) -> tuple[int, str]:
    """Some 40 KiB/s, which is 80 times what the least progress asks for; gives status and code."""

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await upload.send(b"x" * 4_096)
                await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(25):
        status, problem = await upload.answer()
    dripping.cancel()
    return status, problem["code"]


async def test_a_reader_who_hangs_up_frees_the_file(directory: Path) -> None:
    for encrypt in ("true", "false"):
        with Server(directory / encrypt, {"ENCRYPT_FILES": encrypt}) as server:
            async with AsyncExitStack() as stack:
                backend = Backend(Deployment("sqlite", [server]), stack)
                anna = await backend.sign_up()
                file = await anna.upload(os.urandom(16 * MIB))
                before = open_objects(server)
                assert before == []
                for _ in range(5):
                    await hang_up_in_the_middle(server, anna, file, is_sealed=encrypt == "true")
                await eventually(lambda: holds_nothing(server), what="no object is open")


async def hang_up_in_the_middle(
    server: Server, person: Person, file: Json, *, is_sealed: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"GET {file['url']} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {person.access_token}"
    writer.write(f"{head}\r\n\r\n".encode())
    await reader.readexactly(100_000)

    async def is_held() -> bool:
        return bool(open_objects(server))

    # A sealed one is let go by itself as soon as the reader lets it wait.
    if not is_sealed:
        await eventually(is_held, what="the object is being read")
    writer.transport.abort()


async def holds_nothing(server: Server) -> bool:
    return not open_objects(server)


def open_objects(server: Server) -> list[str]:
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    place = str(server.var_dir / "files")
    return [file.path for it in family for file in it.open_files() if file.path.startswith(place)]


async def test_an_ended_session_ends_its_downloads(directory: Path) -> None:
    """Beyond what the sockets hold nothing more leaves."""
    for encrypt in ("true", "false"):
        with Server(directory / encrypt, {"ENCRYPT_FILES": encrypt}) as server:
            async with AsyncExitStack() as stack:
                backend = Backend(Deployment("sqlite", [server]), stack)
                anna = await backend.sign_up()
                other = await backend.sign_in(anna.phone)
                # Less than what is sent in one go: it is asked within it.
                file = await anna.upload(os.urandom(15 * MIB))
                reader, writer = await stall(other, file)
                await other.post("/auth/logout", expect=204)
                received = 0
                with contextlib.suppress(ConnectionError):
                    while piece := await reader.read(MIB):
                        received += len(piece)
                assert received < 10 * MIB
                writer.close()


@pytest.mark.slow
async def test_a_reader_who_takes_nothing_is_cut_off(directory: Path) -> None:
    """Of both kinds at once: it takes a minute."""

    async def stall(server: Server, encrypt: str) -> float:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna = await backend.sign_up()
            file = await anna.upload(os.urandom(64 * MIB))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            bearer = f"Authorization: Bearer {anna.access_token}"
            writer.write(f"GET {file['url']} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n\r\n".encode())
            began = time.monotonic()
            await reader.readexactly(100)

            async def is_over() -> bool:
                return "answer_cut_off" in server.log() and not open_objects(server)

            await eventually(is_over, what=f"the end of it: {encrypt}", timeout_seconds=100)
            writer.close()
            return time.monotonic() - began

    settings = ("true", "false")
    with contextlib.ExitStack() as servers:
        started = [
            servers.enter_context(Server(directory / it, {"ENCRYPT_FILES": it})) for it in settings
        ]
        lasted = await asyncio.gather(*map(stall, started, settings))
        assert all(50 < seconds < 90 for seconds in lasted), lasted

        assert [server.faults() for server in started] == [[], []]


# F10: readers who hold on


STALLED = 100
# Measured 0.65 MB; before they let go it was 6.5. What the allocator keeps of a busy moment is no matter.
HELD_BYTES = 1_500_000


@pytest.fixture(params=["sqlite", "postgresql"])
def crowded(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    settings = {"MAX_PARALLEL_DOWNLOADS": str(STALLED), "WORKER_DOWNLOADS": str(STALLED + 1)}
    with lone_server(request, directory, settings) as deployment:
        yield deployment


async def test_readers_who_stall_hold_little_and_are_so_many_at_most(
    crowded: Deployment, anyio_backend: str
) -> None:
    del anyio_backend
    async with AsyncExitStack() as stack:
        backend = Backend(crowded, stack)
        anna, bruno, clara = await backend.people(3)
        content = os.urandom(10 * MIB)
        files = [await person.upload(content) for person in (anna, bruno, clara)]
        assert (await anna.download(files[0])).content == content
        process = psutil.Process(crowded.nodes[0].pid)
        # What threads keep for the next one is theirs, however many come.
        for _, writer in [await stall(anna, files[0]) for _ in range(30)]:
            writer.transport.abort()
        before = process.memory_info().rss
        stalled = [await stall(anna, files[0]) for _ in range(STALLED)]

        async def is_small() -> bool:
            return process.memory_info().rss - before < STALLED * HELD_BYTES

        await eventually(is_small, what="stalled readers hold little", timeout_seconds=20)
        refused = await anna.download(files[0], expect=429)
        assert refused.json()["code"] == "too_many_downloads"
        assert int(refused.headers["retry-after"]) > 0
        # The small ones of others, and what has no body, go on.
        assert (await bruno.download(files[1])).content == content
        head = await anna.call("HEAD", files[0]["url"].removeprefix(API))
        assert head.status_code == 200
        stalled.append(await stall(bruno, files[1]))
        refused = await clara.download(files[2], expect=503)
        assert refused.json()["code"] == "downloads_busy"
        assert int(refused.headers["retry-after"]) > 0
        # Whoever goes on reading gets all of it, and makes room for others.
        assert await read_on(stalled[0], len(content)) == content
        for _, writer in stalled[1:]:
            writer.transport.abort()

        async def is_served() -> bool:
            return (await anna.call("GET", files[0]["url"].removeprefix(API))).status_code == 200

        await eventually(is_served, what="places are free again", timeout_seconds=20)


async def stall(person: Person, file: Json) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Somebody who asks for a file and reads the head of the answer alone."""
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    stalled.setblocking(False)
    await asyncio.get_running_loop().sock_connect(stalled, ("127.0.0.1", person.node.port))
    reader, writer = await asyncio.open_connection(sock=stalled, limit=4096)
    bearer = f"Authorization: Bearer {person.access_token}"
    writer.write(f"GET {file['url']} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def read_on(stalled: tuple[asyncio.StreamReader, asyncio.StreamWriter], size: int) -> bytes:
    reader, writer = stalled
    async with asyncio.timeout(60):
        content = await reader.readexactly(size)
    writer.close()
    return content


# Many at once


@pytest.mark.slow
async def test_a_thousand_uploads_at_once_all_get_an_answer(directory: Path) -> None:
    """Each is kept or told to come again; nobody else waits, and nothing is left of what was not kept."""
    with Server(directory, {"MAX_CONNECTIONS": "2000"}) as server:
        sqlite_file = str(server.var_dir / "messenger.db")
        deployment = Deployment("sqlite", [server], {"sqlite_file": sqlite_file})
        async with AsyncExitStack() as stack:
            backend = Backend(deployment, stack)
            people = [await backend.sign_up() for _ in range(50)]
            content = os.urandom(50_000)
            uploads = [await begin(person) for person in people for _ in range(20)]
            for upload in uploads:
                await upload.send(content + os.urandom(16))
            slowest, machine = 0.0, Machine()
            finishing = asyncio.gather(*(finish(upload) for upload in uploads))
            while not finishing.done():
                began = time.monotonic()
                answer = await people[0].client.get("/health/live")
                assert answer.status_code == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.1)
            statuses = await finishing
            assert set(statuses) <= {201, 503}, set(statuses)
            # Measured 400 beside other work, all of 4.5 s: who waits for longer is told to come again. An eighth of
            # it a machine keeps that is several times slower.
            kept = statuses.count(201)
            assert kept >= 50 * machine.share()
            # A second on a machine that has nothing else to do.
            assert slowest < 10
            # Whoever comes again is taken in the end.
            answers = list(statuses)
            async with asyncio.timeout(240):
                while missing := len(uploads) - answers.count(201):
                    again = [
                        await begin(person)
                        for _, person in zip(range(missing), people, strict=False)
                    ]
                    for upload in again:
                        await upload.send(content + os.urandom(16))
                    answers += await asyncio.gather(*(finish(upload) for upload in again))
        kept = answers.count(201)

        async def is_exact() -> bool:
            """What was kept after its answer was due is there too, and nothing else."""
            files = await read_values(deployment, "SELECT count(*) FROM files")
            return files == [len(list_objects(server.var_dir))] and kept <= files[0] <= len(answers)

        await eventually(is_exact, what="what was kept is there", timeout_seconds=60)
        assert server.faults() == []


async def finish(upload: RawUpload) -> int:
    await upload.send(FORM_END)
    await upload.end()
    status, _ = await upload.answer()
    await upload.close()
    return status


# What is told and kept of them


async def test_asking_for_files_of_others_is_recorded(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    file = await anna.upload(b"mine")
    await eve.download(file, expect=404)

    async def is_recorded() -> bool:
        events = await read_events(backend.deployment, "--name", "not_found")
        return any(
            event["user_id"] == eve.id and event["details"].get("code") == "file_not_found"
            for event in events
        )

    await eventually(is_recorded, what="the event", timeout_seconds=20)


async def test_names_of_files_are_in_no_log(directory: Path) -> None:
    with Server(directory) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna = await backend.sign_up()
            file = await anna.upload(b"text", name="marker-of-the-name.txt")
            await anna.download(file)
            await anna.upload(b"", name="marker-of-the-name.txt", expect=422)
            said = server.log() + server.output()
        assert "marker-of-the-name" not in said
        assert file["filename"] not in said
        assert file["sha256"] not in said


async def test_an_archive_is_kept_as_it_is_and_never_opened(backend: Backend) -> None:
    """A bomb: a gigabyte of zeros in a megabyte."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 10_000_000)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_STORED) as archive:
        for number in range(100):
            archive.writestr(f"{number}.zip", inner.getvalue())
    anna = await backend.sign_up()
    file = await anna.upload(outer.getvalue(), name="bomb.zip")
    assert (file["file_type"], file["size"]) == ("document", len(outer.getvalue()))
    assert (await anna.download(file)).content == outer.getvalue()


async def test_the_export_lists_my_files_and_no_others(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    mine = [await anna.upload(os.urandom(10), name=f"file {number}.txt") for number in range(3)]
    await bruno.upload(b"theirs")
    answer = await anna.call("GET", "/users/me/export")
    files = answer.json()["files"]
    assert [it.pop("created_at")[-1] for it in files] == ["Z"] * 3
    assert files == mine


# Cookies


async def test_a_page_of_another_site_cannot_upload(backend: Backend) -> None:
    browser = Browser(backend)
    await browser.sign_in(backend.deployment.next_phone(), first_name="Anna")
    body = FILE_HEAD + b"text" + FORM_END
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for origin, csrf in ((EVIL, "own"), ("own", None), ("own", "wrong"), (EVIL, None)):
        answer = await browser.call(
            "POST", "/files/upload", content=body, headers=kind, origin=origin, csrf=csrf
        )
        assert answer.status_code == 403, answer.text
    answer = await browser.call("POST", "/files/upload", content=body, headers=kind)
    assert answer.status_code == 201
    read = await browser.call("GET", answer.json()["url"].removeprefix(API))
    assert read.content == b"text"
