"""How much a person may have under way, and what becomes of an upload when something is full, lost or raced."""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.support.own_deployments import own_deployment
from tests.support.people import Backend, Deployment, Person
from tests.support.rows import change_rows, read_values
from tests.support.servers import Server
from tests.support.tus import BODY_TYPE, PATH, TUS, Upload, begin, checksum, describe, try_to_begin
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MIB = 1_048_576
SMALL = {
    "MAX_UPLOAD_SIZE": "60000",
    "FILES_QUOTA": "100000",
    "MAX_PARALLEL_UPLOADS": "3",
    "ENCRYPT_FILES": "false",
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with own_deployment(request, tmp_path_factory.mktemp("small"), SMALL) as made:
        yield made


@pytest.fixture
async def bounded(small: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(small, stack)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_an_upload_is_as_large_as_a_file_may_be(bounded: Backend) -> None:
    anna = await bounded.sign_up()
    options = await anna.call("OPTIONS", PATH)
    assert options.headers["tus-max-size"] == "60000"
    assert refusal(await try_to_begin(anna, 60_001)) == (413, "file_too_large")
    late = await begin(anna, None)
    told = await late.patch(b"", 0, Upload_Length="60001")
    assert refusal(told) == (413, "file_too_large")
    assert refusal(await late.patch(bytes(60_001), 0)) == (413, "upload_overrun")
    whole = await begin(anna, 60_000, content=os.urandom(60_000))
    assert whole.begun.headers["x-file-id"]


async def test_what_is_under_way_takes_room(bounded: Backend) -> None:
    anna, bruno = await bounded.people(2)
    first = await begin(anna, 60_000)
    assert refusal(await try_to_begin(anna, 40_001)) == (413, "quota_exceeded")
    second = await begin(anna, 40_000)
    await anna.upload(b"x", expect=413, code="quota_exceeded")
    late = await begin(anna, None)
    assert refusal(await late.patch(b"x", 0)) == (413, "quota_exceeded")
    assert refusal(await late.patch(b"", 0, Upload_Length="1")) == (413, "quota_exceeded")
    await begin(bruno, 60_000)
    await first.terminate()
    assert (await late.patch(b"x", 0, Upload_Length="60000")).status_code == 204
    assert (await second.patch(os.urandom(40_000), 0)).headers["x-file-id"]
    await late.terminate()
    await anna.upload(os.urandom(50_000))
    assert refusal(await try_to_begin(anna, 10_001)) == (413, "quota_exceeded")


async def test_what_is_made_a_file_keeps_its_room(bounded: Backend) -> None:
    """Nothing that begins meanwhile may have it: the one that was accepted first would pay for it."""
    anna = await bounded.sign_up()
    first = await begin(anna, 60_000)
    mine = f"WHERE owner_id = {anna.id}"
    far = 4_000_000_000_000
    finishing = f"UPDATE uploads SET state = 'finishing', finish_at = {far} {mine}"
    await change_rows(bounded.deployment, finishing)
    assert refusal(await try_to_begin(anna, 40_001)) == (413, "quota_exceeded")
    await anna.upload(os.urandom(40_001), expect=413, code="quota_exceeded")
    receiving = f"UPDATE uploads SET state = 'receiving', finish_at = NULL {mine}"
    await change_rows(bounded.deployment, receiving)
    assert (await first.patch(os.urandom(60_000), 0)).headers["x-file-id"]


async def test_what_was_accepted_fits_at_the_end(bounded: Backend) -> None:
    """Also where what was there has grown, as a film does by its poster."""
    anna = await bounded.sign_up()
    await anna.upload(os.urandom(50_000))
    upload = await begin(anna, 50_000)
    statement = f"UPDATE blobs SET stored_size = 50001 WHERE owner_id = {anna.id}"
    await change_rows(bounded.deployment, statement)
    assert (await upload.patch(os.urandom(50_000), 0)).headers["x-file-id"]
    assert refusal(await try_to_begin(anna, 1)) == (413, "quota_exceeded")


async def test_only_so_many_uploads_wait(bounded: Backend) -> None:
    anna = await bounded.sign_up()
    begun = await asyncio.gather(*(try_to_begin(anna, 10) for _ in range(8)))
    assert sorted(answer.status_code for answer in begun) == [201] * 3 + [409] * 5
    assert {answer.json()["code"] for answer in begun if answer.is_error} == {"too_many_uploads"}
    await anna.upload(b"x", expect=409, code="too_many_uploads")
    path = next(it for it in begun if it.is_success).headers["location"].removeprefix("/api/v1")
    upload = Upload(anna, path, begun[0])
    assert (await upload.patch(b"0123456789", 0)).headers["x-file-id"]
    assert (await try_to_begin(anna, 10)).status_code == 201


async def test_an_expired_upload_is_taken_away(bounded: Backend) -> None:
    anna = await bounded.sign_up()
    upload = await begin(anna, 60_000, content=b"x" * 30_000)
    files = bounded.deployment.nodes[0].var_dir / "files"
    parts = f"SELECT object_name FROM upload_parts JOIN uploads ON id = upload_id WHERE owner_id = {anna.id}"
    (name,) = await read_values(bounded.deployment, parts)
    assert list(files.rglob(str(name)))
    statement = f"UPDATE uploads SET expires_at = 1 WHERE owner_id = {anna.id}"
    await change_rows(bounded.deployment, statement)
    assert (await upload.head()).status_code == 404
    assert (await try_to_begin(anna, 60_000)).status_code == 201, "it takes no room any more"

    async def is_gone() -> bool:
        rows = await read_values(bounded.deployment, parts)
        return not rows and not list(files.rglob(str(name)))

    await eventually(is_gone, timeout_seconds=90, what="the end of an expired upload")


async def test_a_deleted_account_takes_its_uploads_along(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    token = upload.path.rpartition("/")[2]
    exported = await anna.get("/users/me/export")
    (told,) = exported["uploads"]
    assert (told["state"], told["offset"], told["length"]) == ("receiving", 5, 10)
    await anna.delete("/users/me", expect=204)
    assert (await upload.patch(b"56789", 5)).status_code == 401

    async def is_gone() -> bool:
        query = f"SELECT id FROM uploads WHERE token = '{token}'"
        return not await read_values(backend.deployment, query)

    await eventually(is_gone, timeout_seconds=20, what="the end of the upload")


async def test_two_who_make_the_file_at_once_make_one(backend: Backend) -> None:
    """As when a worker was thought dead and was not."""
    anna = await backend.sign_up()
    content = os.urandom(48 * MIB)
    upload = await begin(anna, len(content))
    sending = asyncio.create_task(upload.patch(content, 0))
    rushed = f"UPDATE uploads SET finish_at = 1 WHERE owner_id = {anna.id} AND state = 'finishing'"

    async def is_rushed() -> bool:
        return await change_rows(backend.deployment, rushed) == 1

    await eventually(is_rushed, timeout_seconds=30, what="the beginning of the end")
    answer = await sending
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(len(content)))

    async def is_finished() -> bool:
        return (await upload.standing())["state"] == "finished"

    await eventually(is_finished, timeout_seconds=30, what="the file")
    told = await upload.standing()
    assert told["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    files = f"SELECT id FROM files WHERE owner_id = {anna.id}"
    assert await read_values(backend.deployment, files) == [told["file"]["id"]]


async def test_a_damaged_part_ends_the_upload(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    rows = f"SELECT object_name FROM upload_parts JOIN uploads ON id = upload_id WHERE owner_id = {anna.id}"
    (name,) = await read_values(backend.deployment, rows)
    (path,) = (backend.deployment.nodes[0].var_dir / "files").rglob(str(name))
    sealed = bytearray(path.read_bytes())
    sealed[0] ^= 1
    path.write_bytes(sealed)
    assert refusal(await upload.patch(b"56789", 5)) == (409, "upload_damaged")
    told = await upload.standing()
    assert (told["state"], told["failure"]) == ("failed", "upload_damaged")


@pytest.mark.parametrize("door", ["post", "patch", "override"])
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
async def test_a_full_storage_loses_nothing(directory: Path, door: str) -> None:
    """What there is no room for now becomes a file when there is some again."""
    with Server(directory) as server:
        async with AsyncExitStack() as stack:
            details = {"sqlite_file": str(server.var_dir / "messenger.db")}
            anna = await Backend(Deployment("sqlite", [server], details), stack).sign_up()
            content = os.urandom(24 * MIB)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (16 * MIB, resource.RLIM_INFINITY))
            answer, path = await send_whole(anna, content, door)
            if door == "post":
                # All bytes were taken: whoever is told where they are has nothing to send again.
                assert (answer.status_code, answer.headers["location"]) == (201, f"/api/v1{path}")
                assert answer.headers["upload-offset"] == str(len(content))
                assert "x-file-id" not in answer.headers
            else:
                assert refusal(answer) == (507, "storage_full")
            upload = Upload(anna, path, answer)
            told = await upload.standing()
            assert (told["state"], told["offset"]) == ("finishing", len(content))
            await anna.upload(content, expect=507, code="storage_full")
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)

            async def is_finished() -> bool:
                return (await upload.standing())["state"] == "finished"

            await eventually(is_finished, timeout_seconds=60, what="the file")
            told = await upload.standing()
            assert (await anna.download(told["file"])).content == content


async def send_whole(person: Person, content: bytes, door: str) -> tuple[httpx.Response, str]:
    """The answer to the last byte, and where the upload is."""
    if door == "post":
        answer = await try_to_begin(person, len(content), content=content)
        query = f"SELECT token FROM uploads WHERE owner_id = {person.id}"
        (token,) = await read_values(person.backend.deployment, query)
        return answer, f"{PATH}/{token}"
    upload = await begin(person, len(content), metadata=describe(filename="a.bin"))
    answer = await upload.patch(content, 0, override=door == "override")
    return answer, upload.path


class Sending:
    """One connection with bytes of an upload under way: more than `size` of them are never sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls, person: Person, method: str, path: str, *, size: int, **headers: str
    ) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", person.node.port)
        fields = TUS | {
            "Host": "a",
            "Authorization": f"Bearer {person.access_token}",
            "Content-Type": BODY_TYPE,
            "Content-Length": str(size),
        }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} /api/v1{path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return cls(reader, writer)

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def refusal(self) -> tuple[int, str]:
        async with asyncio.timeout(60):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            problem = json.loads(await self._reader.readexactly(size))
        return int(head.split(" ")[1]), problem["code"]

    def cut(self) -> None:
        self._writer.transport.abort()


def objects_of(backend: Backend) -> set[Path]:
    files = backend.deployment.nodes[0].var_dir / "files"
    return {path for path in files.rglob("*") if path.is_file()}


def bytes_beside(backend: Backend, before: set[Path]) -> int:
    """What came since then; what was there may go meanwhile."""
    total = 0
    for path in objects_of(backend) - before:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


async def test_of_bodies_with_a_checksum_one_at_a_time_is_stored(backend: Backend) -> None:
    """All of such a body lies in the storage before any of it counts: a hundred would fill the disk."""
    anna = await backend.sign_up()
    upload = await begin(anna, 64 * MIB)
    before = objects_of(backend)
    announced = {"Upload_Offset": "0", "Upload_Checksum": checksum(b"x")}

    async def open_one() -> Sending:
        return await Sending.open(anna, "PATCH", upload.path, size=16 * MIB, **announced)

    first = await open_one()
    await first.send(os.urandom(9 * MIB))

    async def is_stored() -> bool:
        return bytes_beside(backend, before) >= 8 * MIB

    await eventually(is_stored, timeout_seconds=30, what="parts that wait for their checksum")

    async def try_another() -> tuple[int, str]:
        other = await open_one()
        await other.send(os.urandom(MIB))
        return await other.refusal()

    refused = await asyncio.gather(*(try_another() for _ in range(10)))
    assert set(refused) == {(409, "upload_busy")}
    assert bytes_beside(backend, before) < 16 * MIB
    # Without a checksum parts are committed as they come, and the offset judges: nobody waits for a dead line.
    assert (await upload.patch(b"x" * MIB, 0)).status_code == 204
    await first.send(os.urandom(5 * MIB))
    assert await first.refusal() == (409, "offset_mismatch")
    await only_left(backend, before, 2 * MIB)
    right = await upload.patch(b"y", MIB, Upload_Checksum=checksum(b"y"))
    assert right.headers["upload-offset"] == str(MIB + 1)


async def only_left(backend: Backend, before: set[Path], most: int) -> None:
    async def is_gone() -> bool:
        return bytes_beside(backend, before) <= most

    await eventually(is_gone, timeout_seconds=60, what="the end of what no upload has")


@pytest.mark.parametrize("end", ["checksum", "disconnect"])
async def test_what_was_not_taken_up_goes_at_once(backend: Backend, end: str) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 64 * MIB)
    before = objects_of(backend)
    announced = {"Upload_Offset": "0", "Upload_Checksum": checksum(b"x")}
    sending = await Sending.open(anna, "PATCH", upload.path, size=9 * MIB, **announced)
    await sending.send(os.urandom(9 * MIB - 1))
    if end == "checksum":
        await sending.send(b"x")
        assert await sending.refusal() == (460, "checksum_mismatch")
    else:

        async def is_stored() -> bool:
            return bytes_beside(backend, before) >= 8 * MIB

        await eventually(is_stored, timeout_seconds=30, what="parts that wait for their checksum")
        sending.cut()
    await only_left(backend, before, MIB)
    # Nobody holds the upload any more.
    assert (await upload.patch(b"y", 0, Upload_Checksum=checksum(b"y"))).status_code == 204


async def test_the_lease_of_a_killed_worker_runs_out(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10)
    token = upload.path.rpartition("/")[2]
    now = f"(SELECT created_at FROM uploads WHERE token = '{token}')"
    row = f"INSERT INTO doomed_objects (object_name, is_taken, due_at) SELECT 'body-of-{token}', FALSE, {{}}"
    await change_rows(backend.deployment, row.format(f"{now} + 3600000"))
    given = {"Upload_Checksum": checksum(b"y")}
    assert refusal(await upload.patch(b"y", 0, **given)) == (409, "upload_busy")
    ended = f"UPDATE doomed_objects SET due_at = {now} WHERE object_name = 'body-of-{token}'"
    assert await change_rows(backend.deployment, ended) == 1
    # Taken over, or taken away in between.

    async def is_taken_over() -> bool:
        return (await upload.patch(b"y", 0, **given)).status_code == 204

    await eventually(is_taken_over, timeout_seconds=30, what="the end of a lease")


async def test_a_checked_body_of_unknown_length_is_bounded(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, None)
    announced = {"Upload_Offset": "0", "Upload_Checksum": checksum(b"x")}
    size = 64 * MIB + 1
    sending = await Sending.open(anna, "PATCH", upload.path, size=size, **announced)
    assert await sending.refusal() == (413, "upload_overrun")


async def test_too_many_parts_are_refused_before_they_are_stored(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 64 * MIB)
    token = upload.path.rpartition("/")[2]
    most = f"UPDATE uploads SET parts_count = 9999 WHERE token = '{token}'"
    await change_rows(backend.deployment, most)
    before = objects_of(backend)
    content = os.urandom(5 * MIB)
    sending = await Sending.open(
        anna,
        "PATCH",
        upload.path,
        size=16 * MIB,
        Upload_Offset="0",
        Upload_Checksum=checksum(content),
    )
    await sending.send(content)
    # Long before the end of the body.
    assert await sending.refusal() == (413, "too_many_parts")
    await only_left(backend, before, 0)


@pytest.mark.parametrize("end", ["checksum", "overrun", "disconnect"])
async def test_a_beginning_that_fails_leaves_nothing(bounded: Backend, end: str) -> None:
    """Nobody has heard the name of such an upload: it would hold room and a place for a day."""
    anna = await bounded.sign_up()
    mine = f"SELECT id FROM uploads WHERE owner_id = {anna.id}"
    for _ in range(5):
        given = {"Upload_Checksum": checksum(b"other")} if end == "checksum" else {}
        size = 60_001 if end == "overrun" else 60_000
        sending = await Sending.open(anna, "POST", PATH, size=size, Upload_Length="60000", **given)
        with contextlib.suppress(ConnectionError):
            await sending.send(os.urandom(size - 1))
        match end:
            case "checksum":
                await sending.send(b"x")
                assert await sending.refusal() == (460, "checksum_mismatch")
            case "overrun":
                assert await sending.refusal() == (413, "upload_overrun")
            case _:
                await eventually(lambda: has(bounded, mine), what="the upload has begun")
                sending.cut()
        await eventually(
            lambda: has(bounded, mine, count=0), timeout_seconds=20, what="nothing of it is left"
        )
    # Room and place are free.
    assert (await begin(anna, 60_000, content=os.urandom(60_000))).begun.headers["x-file-id"]


async def has(backend: Backend, query: str, *, count: int = 1) -> bool:
    return len(await read_values(backend.deployment, query)) == count
