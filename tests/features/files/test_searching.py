"""Uploads with a scanner: nothing is anybody's before it called it clean, whichever door it came by (ASVS 5.4.3)."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import BACKENDS
from tests.support.audit import read_events, run_admin, wait_for_log
from tests.support.clamd import EICAR, SIGNATURE, ClamdServer
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Json, Person
from tests.support.photos import make_photo
from tests.support.ports import free_port
from tests.support.rows import change_rows, read_values
from tests.support.servers import Server
from tests.support.tus import PATH, Upload, begin, try_to_begin
from tests.support.uploads import FILE_HEAD, RawUpload, list_objects
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MIB = 1_048_576
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def one_clamd() -> Iterator[ClamdServer]:
    with ClamdServer(free_port()) as running:
        yield running


@pytest.fixture
def clamd(one_clamd: ClamdServer) -> ClamdServer:
    one_clamd.reset()
    return one_clamd


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request: pytest.FixtureRequest, one_clamd: ClamdServer) -> Iterator[Deployment]:
    settings = {"CLAMD_ADDRESS": one_clamd.address, "CLAMD_MAX_SIZE": str(MIB)}
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        lone_server(request, Path(directory), settings) as made,
    ):
        yield made


@pytest.fixture
async def backend(
    deployment: Deployment, clamd: ClamdServer, anyio_backend: str
) -> AsyncIterator[Backend]:
    del clamd, anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(deployment, stack)


def objects_of(backend: Backend) -> set[Path]:
    return set(list_objects(backend.deployment.nodes[0].var_dir))


async def expect_nothing_more(backend: Backend, before: set[Path]) -> None:
    async def is_gone() -> bool:
        return objects_of(backend) <= before

    await eventually(is_gone, what="nothing is left", timeout_seconds=PATIENCE_SECONDS)


async def count_files(backend: Backend, person: Person) -> int:
    query = f"SELECT id FROM files WHERE owner_id = {person.id}"
    return len(await read_values(backend.deployment, query))


async def wait_for_state(upload: Upload, state: str) -> Json:
    found: list[Json] = []

    async def is_reached() -> bool:
        found[:] = [await upload.standing()]
        return found[0]["state"] == state

    await eventually(is_reached, what=state, timeout_seconds=PATIENCE_SECONDS)
    return found[0]


def require_refusal(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert SIGNATURE not in answer.text + str(answer.headers)
    assert (int(answer.headers.get("retry-after", "0")) > 0) == (status == 503)


# By a form


async def test_a_clean_file_is_kept(backend: Backend, clamd: ClamdServer) -> None:
    anna = await backend.sign_up()
    content = os.urandom(700_000)
    file = await anna.upload(content)
    assert (await anna.download(file)).content == content
    assert clamd.received == [len(content)]


@pytest.mark.parametrize("purpose", ["attachment", "document", "photo"])
async def test_what_is_found_is_refused_and_leaves_nothing(backend: Backend, purpose: str) -> None:
    """Of a photo too, whose copy would be without it: what counts is what was sent."""
    anna = await backend.sign_up()
    before = objects_of(backend)
    answer = await anna.post_form(make_photo() + EICAR, name="a.jpg", purpose=purpose)
    require_refusal(answer, 422, "file_infected")
    assert [fault["field"] for fault in answer.json()["errors"]] == ["file"]
    assert await count_files(backend, anna) == 0
    await expect_nothing_more(backend, before)


async def test_what_is_found_is_recorded_with_its_name(backend: Backend) -> None:
    anna = await backend.sign_up()
    require_refusal(await anna.post_form(EICAR), 422, "file_infected")
    [line] = await wait_for_log(backend.deployment, "malware_found", user_id=anna.id)
    assert line["signature"] == SIGNATURE
    [event] = [
        event
        for event in await read_events(backend.deployment, "--name", "malware_found")
        if event["user_id"] == anna.id
    ]
    assert event["details"] == {"signature": SIGNATURE}
    assert event["personal"]["subjects"] == [SIGNATURE]
    logged = await wait_for_log(backend.deployment, "file_infected", user_id=anna.id)
    assert [line["signature"] for line in logged] == [SIGNATURE]


async def test_nothing_is_anybodys_before_the_answer(backend: Backend, clamd: ClamdServer) -> None:
    anna = await backend.sign_up()
    clamd.gate.clear()
    uploading = asyncio.create_task(anna.upload(b"harmless"))

    async def is_being_searched() -> bool:
        return bool(clamd.received)

    await eventually(is_being_searched, what="the search", timeout_seconds=PATIENCE_SECONDS)
    assert await count_files(backend, anna) == 0
    assert not uploading.done()
    clamd.gate.set()
    assert (await anna.download(await uploading)).content == b"harmless"


@pytest.mark.parametrize(
    "mode", ["away", "cut", "stream: Can't allocate memory ERROR", "stream: unheard of"]
)
async def test_without_an_answer_nothing_is_kept(
    backend: Backend, clamd: ClamdServer, mode: str
) -> None:
    anna = await backend.sign_up()
    before = objects_of(backend)
    if mode == "away":
        clamd.stop()
    else:
        clamd.mode = mode
    require_refusal(await anna.post_form(b"harmless"), 503, "scanner_unavailable")
    assert await count_files(backend, anna) == 0
    await expect_nothing_more(backend, before)
    async with httpx.AsyncClient(trust_env=False) as client:
        ready = await client.get(f"{backend.deployment.nodes[0].base_url}/health/ready")
    assert ready.status_code == 200
    clamd.reset()
    await anna.upload(b"harmless")


async def test_one_account_leaves_places_to_the_others(
    backend: Backend, clamd: ClamdServer
) -> None:
    anna, bruno = await backend.people(2)
    clamd.gate.clear()
    uploading = [asyncio.create_task(anna.post_form(os.urandom(100))) for _ in range(4)]
    done, _ = await asyncio.wait(
        uploading, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS
    )
    [refused] = done
    require_refusal(refused.result(), 503, "scanner_unavailable")
    assert len(clamd.received) == 3
    uploading.append(asyncio.create_task(bruno.post_form(os.urandom(100))))

    async def is_searched() -> bool:
        return len(clamd.received) == 4

    await eventually(is_searched, what="his search", timeout_seconds=PATIENCE_SECONDS)
    clamd.gate.set()
    answers = await asyncio.gather(*uploading)
    assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 201, 503]


async def test_nobody_sends_for_nothing(backend: Backend, clamd: ClamdServer) -> None:
    """Nor is anything copied of what came by tus, at each try, as long as nobody can search it."""
    anna = await backend.sign_up()
    before = objects_of(backend)
    clamd.stop()
    upload = await RawUpload.open(anna.node.port, anna.access_token)
    await upload.send(FILE_HEAD + b"and much would come")
    status, problem = await upload.answer()
    assert (status, problem["code"]) == (503, "scanner_unavailable")
    assert objects_of(backend) <= before
    await upload.close()


async def test_a_limit_of_clamd_below_ours_keeps_nothing(
    backend: Backend, clamd: ClamdServer
) -> None:
    anna = await backend.sign_up()
    clamd.max_bytes = 1000
    require_refusal(await anna.post_form(b"a" * 2000), 503, "scanner_unavailable")
    assert await count_files(backend, anna) == 0


async def test_an_equal_file_is_searched_again(backend: Backend, clamd: ClamdServer) -> None:
    """What is known as harmful only since is not taken once more; the file of before stays."""
    anna = await backend.sign_up()
    content = b"not known yet" + os.urandom(100)
    file = await anna.upload(content)
    clamd.signatures[b"not known yet"] = "New-Signature"
    require_refusal(await anna.post_form(content), 422, "file_infected")
    assert (await anna.download(file)).content == content


# What is too large for it


async def test_what_cannot_be_searched_is_refused_by_each_door(
    backend: Backend, clamd: ClamdServer
) -> None:
    anna = await backend.sign_up()
    answer = await anna.post_form(b"a" * (MIB + 1))
    require_refusal(answer, 413, "file_too_large")
    assert answer.json()["max_bytes"] == MIB
    answer = await try_to_begin(anna, MIB + 1)
    require_refusal(answer, 413, "file_too_large")
    assert answer.json()["max_bytes"] == MIB
    abilities = await anna.call("OPTIONS", PATH)
    assert abilities.headers["tus-max-size"] == str(MIB)
    upload = await begin(anna, None)
    answer = await upload.patch(b"", 0, Upload_Length=str(MIB + 1))
    require_refusal(answer, 413, "file_too_large")
    assert clamd.received == []
    await anna.upload(b"a" * MIB)
    assert clamd.received == [MIB]


# By tus


async def test_an_upload_in_pieces_is_searched_as_a_whole(
    backend: Backend, clamd: ClamdServer
) -> None:
    anna = await backend.sign_up()
    before = objects_of(backend)
    content = b"a" * 1000 + EICAR
    upload = await begin(anna, len(content), content=content[:1020])
    assert clamd.received == []
    answer = await upload.patch(content[1020:], 1020)
    require_refusal(answer, 422, "file_infected")
    standing = await upload.standing()
    assert (standing["state"], standing["failure"]) == ("failed", "file_infected")
    assert "file" not in standing
    assert await count_files(backend, anna) == 0
    await expect_nothing_more(backend, before)
    await wait_for_log(backend.deployment, "malware_found", user_id=anna.id)


async def test_a_clean_upload_in_pieces_becomes_a_file(
    backend: Backend, clamd: ClamdServer
) -> None:
    anna = await backend.sign_up()
    content = os.urandom(3000)
    upload = await begin(anna, len(content), content=content[:1000])
    answer = await upload.patch(content[1000:], 1000)
    assert answer.status_code == 204, answer.text
    standing = await wait_for_state(upload, "finished")
    assert (await anna.download(standing["file"])).content == content
    assert clamd.received == [3000]


@pytest.mark.parametrize("mode", ["away", "cut"])
@pytest.mark.parametrize(
    ("ending", "state"),
    [(b"harmless", "finished"), (EICAR, "failed")],
    ids=["clean", "infected"],
)
async def test_what_came_waits_for_the_scanner(
    backend: Backend, clamd: ClamdServer, mode: str, ending: bytes, state: str
) -> None:
    anna = await backend.sign_up()
    content = os.urandom(1000) + ending
    upload = await begin(anna, len(content), content=content[:500])
    if mode == "away":
        clamd.stop()
    else:
        clamd.mode = mode
    require_refusal(await upload.patch(content[500:], 500), 503, "scanner_unavailable")
    standing = await upload.standing()
    assert (standing["state"], standing["offset"]) == ("finishing", len(content))
    assert await count_files(backend, anna) == 0
    clamd.reset()
    await change_rows(
        backend.deployment, f"UPDATE uploads SET finish_at = created_at WHERE owner_id = {anna.id}"
    )
    standing = await wait_for_state(upload, state)
    if state == "finished":
        assert (await anna.download(standing["file"])).content == content
    else:
        assert standing["failure"] == "file_infected"
        assert await count_files(backend, anna) == 0


# At the start


async def test_an_operator_is_told_that_it_is_away(backend: Backend, clamd: ClamdServer) -> None:
    assert (await run_admin(backend.deployment, "check")).stdout == "ok\n"
    clamd.stop()
    done = await run_admin(backend.deployment, "check")
    assert (done.returncode, done.stdout) == (1, "CLAMD_ADDRESS: clamd does not answer\n")


def test_a_scanner_that_is_away_refuses_no_start(directory: Path) -> None:
    with Server(directory, {"CLAMD_ADDRESS": f"tcp://127.0.0.1:{free_port()}"}) as server:
        assert '"event":"scanner_silent"' in server.log()


# With other settings


@pytest.mark.parametrize("database", BACKENDS, indirect=True)
async def test_larger_files_may_be_let_through_and_silence_never_is(
    database: Backend, impatient: ClamdServer
) -> None:
    anna = await database.sign_up()
    infected = b"a" * 2000 + EICAR
    await anna.upload(infected)
    assert impatient.received == []
    [line] = await wait_for_log(database.deployment, "file_not_searched")
    assert line["size"] == len(infected)
    impatient.mode = "silent"
    require_refusal(await anna.post_form(b"harmless"), 503, "scanner_unavailable")
    assert await count_files(database, anna) == 1


@pytest.fixture
def impatient(directory: Path) -> Iterator[ClamdServer]:
    with ClamdServer(directory / "clamd.ctl") as running:
        yield running


@pytest.fixture
async def database(
    request: pytest.FixtureRequest, directory: Path, impatient: ClamdServer, anyio_backend: str
) -> AsyncIterator[Backend]:
    """It waits for one second, and keeps what is larger than 2,000 bytes."""
    del anyio_backend
    settings = {
        "CLAMD_ADDRESS": impatient.address,
        "CLAMD_MAX_SIZE": "2000",
        "CLAMD_ALLOW_LARGER": "true",
        "CLAMD_TIMEOUT": "1",
    }
    with lone_server(request, directory / "server", settings) as made:
        async with AsyncExitStack() as stack:
            yield Backend(made, stack)
