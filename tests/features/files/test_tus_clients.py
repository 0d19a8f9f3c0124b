"""Resumable uploads by the public clients, tuspy and tus-js-client, over lines that break and servers that die."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

from tests.faults.tcp_proxy import Address, Link, TcpProxy, Way
from tests.support import missing
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.postgres import Postgres
from tests.support.redis_server import run_redis
from tests.support.rows import read_values
from tests.support.s3_server import run_s3_server
from tests.support.servers import ROOT, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

T = TypeVar("T")
MIB = 1_048_576
METADATA = {"filename": "Ümläut.bin", "filetype": "application/octet-stream"}
TUS = {"Tus-Resumable": "1.0.0"}
SCRIPT = ROOT / "tests" / "clients" / "tus-js"
NPM_SECONDS = 120


class MeteredProxy(TcpProxy):
    """Breaks a connection when so many bytes went to the server: it is cut, or nothing more gets through."""

    def __init__(self, target: Address) -> None:
        super().__init__(lambda: [target])
        self.target = target
        self._choose = lambda: [self.target]
        self.cuts: list[int] = []
        self.stall_after: int | None = None
        self.is_stalled = asyncio.Event()

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return MeteredLink(self, client, server)


class MeteredLink(Link):
    passed = 0

    async def on_client_bytes(self, data: bytes) -> None:
        proxy = self.proxy
        assert isinstance(proxy, MeteredProxy)
        self.passed += len(data)
        await super().on_client_bytes(data)
        if proxy.cuts and self.passed >= proxy.cuts[0]:
            proxy.cuts.pop(0)
            self.cut()
        if proxy.stall_after is not None and self.passed >= proxy.stall_after:
            proxy.stall_after = None
            self.stall(Way.TO_SERVER)
            proxy.is_stalled.set()


@dataclass
class Story:
    """What a client did. `file_id`: as the answer to its last bytes had it, if it got that answer."""

    url: str
    file_id: int | None
    offsets: list[int] = field(default_factory=list[int])

    @property
    def path(self) -> str:
        return f"/files/tus/{self.url.rpartition('/')[2]}"


def endpoint(port: int) -> str:
    return f"http://127.0.0.1:{port}{API}/files/tus"


def upload_by_tuspy(
    person: Person, port: int, content: bytes, *, retries: int = 100, **options: Any
) -> Story:
    """Until it is done; a broken line is asked for its offset and gone on with."""
    client = TusClient(endpoint(port), headers={"Authorization": f"Bearer {person.access_token}"})
    uploader = client.uploader(
        file_stream=BytesIO(content), metadata=METADATA, retries=retries, retry_delay=0.2, **options
    )
    uploader.set_url(uploader.create_url())
    offsets = [0]
    while uploader.offset < len(content):
        uploader.upload_chunk()
        offsets.append(uploader.offset)
    file_id = uploader.request.response_headers.get("x-file-id")
    return Story(uploader.url or "", file_id and int(file_id), offsets)


async def by_tuspy(person: Person, port: int, content: bytes, **options: Any) -> Story:
    return await anyio.to_thread.run_sync(
        lambda: upload_by_tuspy(person, port, content, **options), abandon_on_cancel=True
    )


async def require_stored(person: Person, story: Story, content: bytes) -> Json:
    """The file is what was sent, and there is one."""
    told = await person.get(story.path)
    file = told["file"]
    assert told["state"] == "finished"
    assert story.file_id in {file["id"], None}
    assert file["original_name"] == "Ümläut.bin"
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    answer = await person.download(file)
    assert answer.content == content
    return file


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def deployed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """SQLite with a directory, or PostgreSQL, Redis and S3 with two servers that share nothing else."""
    directory = tmp_path_factory.mktemp("tus")
    if request.param == "sqlite":
        with Server(directory) as server:
            details = {"sqlite_file": str(server.var_dir / "messenger.db")}
            yield Deployment("sqlite", [server], details)
        return
    with ExitStack() as stack:
        cluster: Postgres = request.getfixturevalue("postgres")
        database = cluster.create_database()
        stack.callback(cluster.drop_database, database)
        s3 = stack.enter_context(run_s3_server())
        s3.make_bucket("files")
        try:
            redis = stack.enter_context(run_redis())
        except missing.Missing as reason:
            missing.skip("Redis", str(reason))
        shared = s3.environment("files") | {
            "DATABASE_TYPE": "postgresql",
            "DATABASE_URL": database,
            "USE_REDIS": "true",
            "REDIS_URL": redis,
        }
        one = stack.enter_context(Server(directory / "one", shared, name="one"))
        keys = {"VAR_DIR": str(one.var_dir), "LOG_FILE": str(one.log_file)}
        two = stack.enter_context(Server(directory / "two", shared | keys, name="two"))
        yield Deployment("postgresql", [one, two], {"database_url": database})


@pytest.fixture
def own(deployed: Deployment) -> Deployment:
    """All its servers run, whatever the test before has done to them."""
    for server in deployed.nodes:
        if not server.is_running:
            server.start()
    return deployed


@pytest.fixture
async def anna(own: Deployment, anyio_backend: str) -> AsyncIterator[Person]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield await Backend(own, stack).sign_up()


@pytest.mark.parametrize("chunk_size", [None, 700_000])
@pytest.mark.parametrize("with_checksum", [False, True])
async def test_tuspy_uploads(backend: Backend, chunk_size: int | None, with_checksum: bool) -> None:
    anna = await backend.sign_up()
    content = os.urandom(5 * MIB + 17)
    options = {"upload_checksum": with_checksum}
    if chunk_size is not None:
        options["chunk_size"] = chunk_size
    story = await by_tuspy(anna, backend.deployment.nodes[0].port, content, **options)
    await require_stored(anna, story, content)
    assert len(story.offsets) == (2 if chunk_size is None else 9)


async def test_tuspy_goes_on_over_a_line_that_breaks(own: Deployment, anna: Person) -> None:
    content = os.urandom(12 * MIB + 5)
    async with MeteredProxy(("127.0.0.1", own.nodes[0].port)) as proxy:
        proxy.cuts = [1 * MIB, 5 * MIB, 300_000, 2 * MIB]
        story = await by_tuspy(anna, proxy.port, content)
        assert proxy.cuts == []
    await require_stored(anna, story, content)


async def test_answers_that_get_lost_make_no_second_file(own: Deployment, anna: Person) -> None:
    content = os.urandom(3 * MIB)
    async with MeteredProxy(("127.0.0.1", own.nodes[0].port)) as proxy:
        proxy.loss = 0.4
        stories = [await retry_lost_answers(anna, proxy.port, content) for _ in range(3)]
        assert proxy.answers_lost > 0
    files = [await require_stored(anna, story, content) for story in stories]
    assert await list_files(own, anna) == [file["id"] for file in files]


async def retry_lost_answers(person: Person, port: int, content: bytes) -> Story:
    """As an app does: whatever was lost is asked for again."""
    client = TusClient(endpoint(port), headers={"Authorization": f"Bearer {person.access_token}"})

    async def until_answered(call: Callable[[], T]) -> T:
        while True:
            try:
                return await anyio.to_thread.run_sync(call)
            except (TusCommunicationError, TusUploadFailed):
                continue

    def begin() -> str:
        return client.uploader(file_stream=BytesIO(content), metadata=METADATA).create_url()

    url = await until_answered(begin)

    def go_on() -> None:
        uploader = client.uploader(file_stream=BytesIO(content), url=url, chunk_size=MIB)
        while uploader.offset < len(content):
            uploader.upload_chunk()

    await until_answered(go_on)
    return Story(url, None)


async def test_a_killed_server_loses_no_part_that_was_kept(own: Deployment, anna: Person) -> None:
    """With another server over the same storage and database, that one goes on at once."""
    content = os.urandom(14 * MIB)
    first, last = own.nodes[0], own.nodes[-1]
    async with MeteredProxy(("127.0.0.1", first.port)) as proxy:
        proxy.stall_after = 10 * MIB
        uploading = asyncio.create_task(by_tuspy(anna, proxy.port, content))
        await proxy.is_stalled.wait()
        path = await find_upload(anna, own, offset=8 * MIB)
        first.kill()
        if first is last:
            await anyio.to_thread.run_sync(first.start)
        proxy.target = ("127.0.0.1", last.port)
        anna.client.base_url = last.base_url
        answer = await anna.call("HEAD", path, headers=TUS)
        assert int(answer.headers["upload-offset"]) == 8 * MIB
        story = await uploading
    await require_stored(anna, story, content)


async def test_a_kill_while_the_file_is_made_makes_one_file(own: Deployment, anna: Person) -> None:
    content = os.urandom(48 * MIB)
    first, last = own.nodes[0], own.nodes[-1]
    sending = asyncio.create_task(send_to_the_end(anna, first, content))
    path = await find_upload(anna, own, offset=len(content))
    assert (await anna.get(path))["state"] == "finishing"
    first.kill()
    await sending
    if first is last:
        await anyio.to_thread.run_sync(first.start)
    anna.client.base_url = last.base_url

    async def is_finished() -> bool:
        return (await anna.get(path))["state"] == "finished"

    await eventually(is_finished, timeout_seconds=60, what="the file")
    file = await require_stored(anna, Story(path, None), content)
    assert await list_files(own, anna) == [file["id"]]


async def send_to_the_end(person: Person, server: Server, content: bytes) -> None:
    """Whoever would answer is killed."""
    with pytest.raises((TusCommunicationError, TusUploadFailed)):
        await by_tuspy(person, server.port, content, retries=0)


async def list_files(own: Deployment, person: Person) -> list[object]:
    """Ids of all that there are of this person's."""
    return await read_values(own, f"SELECT id FROM files WHERE owner_id = {person.id} ORDER BY id")


async def find_upload(person: Person, own: Deployment, *, offset: int) -> str:
    """The path of the one upload, when it stands there or further on."""
    path = ""

    async def stands() -> bool:
        nonlocal path
        tokens = await read_values(own, f"SELECT token FROM uploads WHERE owner_id = {person.id}")
        if not tokens:
            return False
        path = f"/files/tus/{tokens[0]}"
        answer = await person.call("HEAD", path, headers=TUS)
        return int(answer.headers["upload-offset"]) >= offset

    await eventually(stands, timeout_seconds=60, what=f"the offset {offset}")
    return path


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """A directory with tus-js-client in the version of its lock."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        # Told at the end and no failure, not even with CI=true: nothing else here needs them.
        missing.REASONS["tus-js-client"] = "no node and npm on the PATH"
        pytest.skip(missing.REASONS["tus-js-client"])
    with tempfile.TemporaryDirectory(prefix="messenger-test-") as name:
        for file in SCRIPT.iterdir():
            shutil.copy(file, name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        installed = subprocess.run(
            command, cwd=name, capture_output=True, text=True, timeout=NPM_SECONDS, check=False
        )
        if installed.returncode != 0:
            missing.skip("tus-js-client", f"npm ci: {installed.stderr[-500:]}")
        yield Path(name)


class TusJs:
    """Runs of the script over one file; what it knows of earlier runs is in a file beside it."""

    def __init__(self, node: Path, directory: Path, content: bytes) -> None:
        self._node = node
        self._file = directory / "content.bin"
        self._file.write_bytes(content)
        self._storage = directory / "urls.json"

    async def run(
        self, person: Person, port: int, *, chunk_size: int = 0, retries: int = 30
    ) -> tuple[Json, Story]:
        """What it tells at its end."""
        process = await self.start(person, port, chunk_size=chunk_size, retries=retries)
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        told = json.loads(output)
        return told, Story(told["url"], told["fileId"] and int(told["fileId"]))

    async def start(
        self, person: Person, port: int, *, chunk_size: int = 0, retries: int = 30
    ) -> asyncio.subprocess.Process:
        words = (
            endpoint(port),
            person.access_token,
            str(self._file),
            str(self._storage),
            str(chunk_size),
            str(retries),
        )
        return await asyncio.create_subprocess_exec(
            "node", "upload.mjs", *words, cwd=self._node, stdout=PIPE, stderr=PIPE
        )


@pytest.mark.parametrize("chunk_size", [0, 700_000])
async def test_tus_js_client_uploads(
    backend: Backend, node: Path, directory: Path, chunk_size: int
) -> None:
    anna = await backend.sign_up()
    content = os.urandom(5 * MIB + 17)
    client = TusJs(node, directory, content)
    told, story = await client.run(anna, backend.deployment.nodes[0].port, chunk_size=chunk_size)
    assert told["requests"][0] == "POST 201"
    assert story.file_id is not None
    await require_stored(anna, story, content)


async def test_tus_js_client_goes_on_over_a_line_that_breaks(
    own: Deployment, anna: Person, node: Path, directory: Path
) -> None:
    content = os.urandom(12 * MIB + 5)
    client = TusJs(node, directory, content)
    async with MeteredProxy(("127.0.0.1", own.nodes[0].port)) as proxy:
        proxy.cuts = [1 * MIB, 5 * MIB, 300_000, 2 * MIB]
        told, story = await client.run(anna, proxy.port)
        assert proxy.cuts == []
    # One more where it asks for the offset before what came of the last body is kept.
    assert told["retries"] >= 4
    await require_stored(anna, story, content)


async def test_tus_js_client_goes_on_when_it_and_the_server_were_killed(
    own: Deployment, anna: Person, node: Path, directory: Path
) -> None:
    content = os.urandom(14 * MIB)
    first, last = own.nodes[0], own.nodes[-1]
    client = TusJs(node, directory, content)
    async with MeteredProxy(("127.0.0.1", first.port)) as proxy:
        proxy.stall_after = 10 * MIB
        process = await client.start(anna, proxy.port)
        await proxy.is_stalled.wait()
        await find_upload(anna, own, offset=8 * MIB)
        process.kill()
        await process.wait()
        first.kill()
        if first is last:
            await anyio.to_thread.run_sync(first.start)
        proxy.target = ("127.0.0.1", last.port)
        anna.client.base_url = last.base_url
        told, story = await client.run(anna, proxy.port)
    assert told["resumed"]
    assert told["requests"][:1] == ["HEAD 200"]
    assert "POST 201" not in told["requests"]
    await require_stored(anna, story, content)
