"""Files in a bucket: what lies there, who is sent on to it, and a start without it."""

import hashlib
import io
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from secrets import token_bytes, token_hex
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from app.infra.storage.names import MARKER
from tests.support.media import PLACE, camera_photo
from tests.support.own_deployments import own_deployment
from tests.support.people import Backend, Deployment, Json
from tests.support.s3_server import S3Server
from tests.support.servers import Server, ServerFailed

pytestmark = pytest.mark.anyio

# Of a second of silence, as far as its head says.
WAV = (
    b"RIFF"
    + (36 + 8000).to_bytes(4, "little")
    + b"WAVEfmt "
    + bytes.fromhex("1000000001000100401f0000401f000001000800")
    + b"data"
    + (8000).to_bytes(4, "little")
    + b"\x80" * 8000
)


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    name = f"files-{token_hex(8)}"
    s3_server.make_bucket(name)
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def deployment(
    request: pytest.FixtureRequest, directory: Path, s3_server: S3Server, bucket: str
) -> Iterator[Deployment]:
    settings = s3_server.environment(bucket, "pre/fix")
    with own_deployment(request, directory, settings) as made:
        yield made


async def test_files_lie_in_the_bucket_sealed(
    backend: Backend, s3_server: S3Server, bucket: str
) -> None:
    anna = await backend.sign_up()
    content = b"a marker in the clear" + token_bytes(6_000_000)
    file = await anna.upload(content, name="notes.bin")
    assert (await anna.download(file)).content == content
    part = await anna.download(file, expect=206, Range="bytes=5999990-6000010")
    assert part.content == content[5_999_990:6_000_011]
    marker, key = sorted(s3_server.list_keys(bucket), key=lambda it: not it.endswith(MARKER))
    assert marker == f"pre/fix/{MARKER}"
    assert key.startswith("pre/fix/")
    assert s3_server.count_unfinished(bucket) == 0
    assert b"a marker in the clear" not in s3_server.read_object(bucket, key)
    small = await anna.upload(b"small")
    assert (await anna.download(small)).content == b"small"


@contextmanager
def plain_server(directory: Path, s3_server: S3Server, bucket: str) -> Iterator[Server]:
    settings = {
        **s3_server.environment(bucket),
        "ENCRYPT_FILES": "false",
        "FILES_REDIRECT_SECONDS": "30",
    }
    with Server(directory, settings) as server:
        yield server


@pytest.fixture
async def plain(
    directory: Path, s3_server: S3Server, bucket: str, anyio_backend: str
) -> AsyncIterator[Backend]:
    """Files as they are, and downloads that are sent on to the bucket."""
    del anyio_backend
    with plain_server(directory, s3_server, bucket) as server:
        async with AsyncExitStack() as stack:
            yield Backend(Deployment("sqlite", [server]), stack)


async def test_plain_downloads_are_sent_on_to_the_bucket_for_a_moment(
    plain: Backend, s3_server: S3Server
) -> None:
    anna, boris = await plain.people(2)
    content = b"<script>alert(1)</script>" * 1000
    file = await anna.upload(content, name="Отчёт.html")
    answer = await anna.download(file, expect=307)
    url = answer.headers["location"]
    assert url.startswith(s3_server.endpoint)
    assert "X-Amz-Expires=30&" in url
    assert answer.headers["cache-control"] == "no-store"
    async with httpx.AsyncClient() as client:
        whole = await client.get(url)
        part = await client.get(url, headers={"Range": "bytes=8-12"})
    assert whole.content == content
    assert (part.status_code, part.content) == (206, content[8:13])
    # What a browser would run is only ever saved.
    assert whole.headers["content-type"] == "application/octet-stream"
    disposition = whole.headers["content-disposition"]
    assert disposition.startswith("attachment; ")
    assert "filename*=UTF-8''%D0%9E%D1%82%D1%87%D1%91%D1%82.html" in disposition
    # Who may not see it learns no address, and its head comes from us.
    await boris.download(file, expect=404)
    head = await anna.call("HEAD", file["url"].removeprefix("/api/v1"))
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))


async def test_a_sound_is_played_in_place_from_the_bucket_too(plain: Backend) -> None:
    anna = await plain.sign_up()
    file = await anna.upload(WAV, name="silence.wav")
    assert file["file_type"] == "audio"
    url = (await anna.download(file, expect=307)).headers["location"]
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
    assert answer.headers["content-type"] == file["mime_type"]
    assert answer.headers["content-disposition"].startswith("inline; ")


async def test_a_client_that_has_a_file_is_not_sent_on(plain: Backend) -> None:
    """The bucket knows it by another tag and would send all of it again."""
    anna, boris = await plain.people(2)
    photo = await anna.upload(camera_photo(), name="photo.jpg")
    path = photo["url"].removeprefix("/api/v1")
    for thumbnail in (None, "small", "medium"):
        head = await anna.call("HEAD", path, query={"thumbnail": thumbnail})
        tag = head.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            answer = await anna.download(
                photo, thumbnail=thumbnail, expect=304, If_None_Match=known
            )
            assert (answer.content, answer.headers["etag"]) == (b"", tag)
            assert "location" not in answer.headers
        answer = await anna.download(
            photo, thumbnail=thumbnail, expect=307, If_None_Match='"other"'
        )
        async with httpx.AsyncClient() as client:
            whole = await client.get(answer.headers["location"], headers={"If-None-Match": tag})
        assert whole.status_code == 200
        await boris.download(photo, thumbnail=thumbnail, expect=404, If_None_Match=tag)


async def test_photos_and_their_thumbnails_come_from_the_bucket(plain: Backend) -> None:
    anna, boris = await plain.people(2)
    photo = await anna.upload(camera_photo(orientation=6), name="photo.jpg")
    sizes = {None: (480, 640), "medium": (480, 640), "small": (240, 320)}
    for thumbnail, size in sizes.items():
        answer = await anna.download(photo, thumbnail=thumbnail, expect=307)
        async with httpx.AsyncClient() as client:
            given = await client.get(answer.headers["location"])
        assert given.status_code == 200
        kind = "image/jpeg" if thumbnail is None else "image/webp"
        assert given.headers["content-type"] == kind
        assert given.headers["content-disposition"].startswith("inline; ")
        assert PLACE not in given.content
        assert Image.open(io.BytesIO(given.content)).size == size
        if thumbnail is None:
            assert hashlib.sha256(given.content).hexdigest() == photo["sha256"]
        await boris.download(photo, thumbnail=thumbnail, expect=404)


async def test_what_was_sealed_before_comes_through_us_still(
    directory: Path, s3_server: S3Server, bucket: str
) -> None:
    file: Json
    async with AsyncExitStack() as stack:
        with Server(directory, s3_server.environment(bucket)) as server:
            anna = await Backend(Deployment("sqlite", [server]), stack).sign_up()
            file = await anna.upload(b"sealed at that time")
            token = anna.access_token
        with plain_server(directory, s3_server, bucket) as server:
            async with httpx.AsyncClient(base_url=server.base_url) as client:
                answer = await client.get(file["url"], headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.content) == (200, b"sealed at that time")


def check(server: Server) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.admin", "check"],
        env=server.environment,
        cwd=server.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_bucket_that_is_not_there_refuses_the_start(directory: Path, s3_server: S3Server) -> None:
    server = Server(directory, s3_server.environment("no-such-bucket"))
    with pytest.raises(ServerFailed, match=r"STORAGE_URL: .*NoSuchBucket"):
        server.start()
    told = check(server)
    assert told.returncode == 1
    assert told.stdout.startswith("STORAGE_URL: ")


def test_faults_of_its_settings_refuse_the_start_all_at_once(
    directory: Path, s3_server: S3Server
) -> None:
    wrong = {"STORAGE_URL": "s3://UPPER?endpoint=nowhere", "STORAGE_SECRET_KEY": ""}
    told = check(Server(directory, s3_server.environment("x") | wrong))
    assert told.returncode == 1
    assert [line.partition(":")[0] for line in told.stdout.splitlines()] == [
        "STORAGE_URL",
        "STORAGE_URL",
        "STORAGE_SECRET_KEY",
    ]


def test_a_store_that_does_not_answer_refuses_no_start_and_fails_the_check(
    directory: Path, s3_server: S3Server, bucket: str
) -> None:
    """People can talk without it, and a server must come back while it is away."""
    environment = s3_server.environment(bucket, port=1)
    assert urlsplit(environment["STORAGE_URL"]).netloc == bucket
    server = Server(directory, environment)
    told = check(server)
    assert told.returncode == 1
    assert told.stdout == "STORAGE_URL: the file storage does not answer\n"
    with server:
        assert httpx.get(f"{server.base_url}/health/ready").status_code == 200
    assert "storage_silent" in server.log_file.read_text()


async def test_the_storage_of_another_database_refuses_the_start(
    directory: Path, s3_server: S3Server, bucket: str
) -> None:
    """As where an environment was copied: nothing of what lies there is touched."""
    environment = s3_server.environment(bucket)
    mine, other = directory / "mine", directory / "other"
    for place in (mine, other):
        place.mkdir()
    async with AsyncExitStack() as stack:
        with Server(mine, environment) as server:
            anna = await Backend(Deployment("sqlite", [server]), stack).sign_up()
            file = await anna.upload(b"mine")
            token = anna.access_token
        with Server(other):
            pass
        stranger = Server(other, environment)
        told = check(stranger)
        assert told.returncode == 1
        assert told.stdout.startswith(
            "STORAGE_URL: the file storage holds the files of another database"
        )
        assert told.stdout.count("\n") == 1
        with pytest.raises(ServerFailed, match=r"STORAGE_URL: the file storage holds the files of"):
            stranger.start()
        with Server(mine, environment) as server:
            assert check(server).returncode == 0
            async with httpx.AsyncClient(base_url=server.base_url) as client:
                answer = await client.get(file["url"], headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.content) == (200, b"mine")
