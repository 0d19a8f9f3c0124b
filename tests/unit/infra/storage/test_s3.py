"""A bucket behind a bad line: hung, cut, full, refusing; what is left of broken uploads; signed URLs."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import psutil
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from app.infra.storage.address import read_bucket
from app.infra.storage.port import ObjectMissing, Storage, StorageFull, StorageUnavailable
from app.infra.storage.s3 import S3Storage
from app.settings import FileSettings, SettingsError
from tests.faults.tcp_proxy import Link, TcpProxy
from tests.support.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server, run_s3_server
from tests.support.servers import ROOT
from tests.support.waiting import eventually
from tests.unit.infra.storage.stores import (
    files_at,
    get,
    names,
    new_bucket,
    new_name,
    put,
    run_store,
    stream,
)

MIB = 1_048_576
# Five, and what a busy machine needs to notice.
ANSWER_SECONDS = 20.0


@asynccontextmanager
async def opened(files: FileSettings) -> AsyncIterator[S3Storage]:
    storage = S3Storage(read_bucket(files))
    try:
        yield storage
    finally:
        await storage.close()


@asynccontextmanager
async def behind_proxy(server: S3Server) -> AsyncIterator[tuple[S3Storage, TcpProxy, str]]:
    """A storage that works, the proxy before it, and its bucket."""
    async with TcpProxy.to("127.0.0.1", server.port) as proxy:
        files = new_bucket(server, port=proxy.port)
        async with opened(files) as storage:
            await storage.check()
            yield storage, proxy, urlsplit(files.storage_url).netloc


async def endless(piece: bytes = b"x" * 65_536) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(0)


async def every_call_is_unavailable(storage: Storage, name: str) -> None:
    """Each within the time that we have for an answer, all at once."""

    async def refused(call: "asyncio.Future[object]") -> None:
        begun_at = time.monotonic()
        with pytest.raises(StorageUnavailable) as caught:
            await call
        assert caught.value.retry_after
        assert time.monotonic() - begun_at < ANSWER_SECONDS

    calls = [
        storage.write(new_name(), stream([b"x"])),
        storage.write(new_name(), stream([b"x" * MIB] * 3)),
        storage.write(new_name(), endless()),
        get(storage, name),
        get(storage, name, start=1),
        get(storage, name, start=1, length=1),
        get(storage, name, length=0),
        storage.delete(name),
        names(storage),
        storage.check(),
    ]
    await asyncio.gather(*(refused(asyncio.ensure_future(call)) for call in calls))  # type: ignore[arg-type]


async def test_a_store_that_accepts_and_never_answers_costs_five_seconds(
    s3_server: S3Server,
) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, _):
        name = await put(storage, b"content")
        proxy.silence()
        proxy.is_mute = True
        await every_call_is_unavailable(storage, name)
        proxy.heal()
        await storage.check()
        assert await get(storage, name) == b"content"


async def test_a_store_that_is_away_is_told_at_once_and_found_again(s3_server: S3Server) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, _):
        name = await put(storage, b"content")
        proxy.is_refusing = True
        proxy.cut()
        await every_call_is_unavailable(storage, name)
        proxy.heal()
        assert await get(storage, name) == b"content"


async def test_a_line_that_is_cut_is_taken_up_again_where_it_broke(s3_server: S3Server) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, _):
        content = secrets.token_bytes(32 * MIB)
        name = await put(storage, content)
        for start, length in ((0, None), (5, 30 * MIB)):
            read = bytearray()
            cuts = 0
            async for piece in storage.read(name, start=start, length=length):
                read += piece
                if cuts < 3 and len(read) > (cuts + 1) * MIB:
                    cuts += proxy.cut()
            end = None if length is None else start + length
            assert bytes(read) == content[start:end]
            assert cuts == 3


async def test_a_line_that_stalls_within_an_answer_ends_the_reading(s3_server: S3Server) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, _):
        name = await put(storage, secrets.token_bytes(20 * MIB))
        reading = storage.read(name)
        assert await anext(reading)
        proxy.silence()
        proxy.is_mute = True
        begun_at = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await _exhaust(reading)
        # What had arrived, then one look whether it can be taken up again.
        assert time.monotonic() - begun_at < 2 * ANSWER_SECONDS


async def test_answers_that_get_lost_are_asked_for_again(s3_server: S3Server) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, _):
        content = secrets.token_bytes(7 * MIB)
        proxy.loss = 0.2
        for _ in range(8):
            name = new_name()
            try:
                await storage.write(name, stream([content]))
                assert await get(storage, name) == content
            except StorageUnavailable:
                continue
        assert proxy.answers_lost
        proxy.heal()
        name = await put(storage, content)
        assert await get(storage, name) == content


class SlowLink(Link):
    """Lets a piece of an upload through each while."""

    async def on_client_bytes(self, data: bytes) -> None:
        await asyncio.sleep(0.05)
        await super().on_client_bytes(data)


class SlowProxy(TcpProxy):
    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return SlowLink(self, client, server)


async def test_a_slow_line_that_goes_on_answering_is_waited_for(s3_server: S3Server) -> None:
    async with (
        SlowProxy.to("127.0.0.1", s3_server.port) as proxy,
        opened(new_bucket(s3_server, port=proxy.port)) as storage,
    ):
        # A part takes longer than the patience with a silent store.
        with patch("app.infra.storage.s3.PATIENCE_SECONDS", 3.0):
            begun_at = time.monotonic()
            assert await storage.write(new_name(), stream([b"x" * MIB] * 12)) == 12 * MIB
            assert time.monotonic() - begun_at > 4


@pytest.mark.parametrize("fault", ["raises", "cancelled", "cancelled twice"])
async def test_a_broken_upload_in_parts_is_aborted(s3_server: S3Server, fault: str) -> None:
    files = new_bucket(s3_server)
    bucket = urlsplit(files.storage_url).netloc
    is_sent = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield b"x" * MIB
        while not s3_server.count_unfinished(bucket):
            yield b"x" * MIB
        if fault == "raises":
            raise ConnectionResetError
        is_sent.set()
        await asyncio.Event().wait()

    async with opened(files) as storage:
        writing = asyncio.create_task(storage.write(new_name(), broken()))
        if fault != "raises":
            await is_sent.wait()
            writing.cancel()
            if fault == "cancelled twice":
                await asyncio.sleep(0)
                writing.cancel()
        with pytest.raises((ConnectionResetError, asyncio.CancelledError)):
            await writing
    assert s3_server.count_unfinished(bucket) == 0
    assert s3_server.list_keys(bucket) == []


async def test_an_upload_whose_store_goes_away_leaves_no_object_and_is_aborted_if_that_arrives(
    s3_server: S3Server,
) -> None:
    async with behind_proxy(s3_server) as (storage, proxy, bucket):

        async def cut() -> AsyncIterator[bytes]:
            for number in range(40):
                if number == 20:
                    proxy.is_refusing = True
                    proxy.cut()
                yield b"x" * MIB

        with pytest.raises(StorageUnavailable):
            await storage.write(new_name(), cut())
        assert s3_server.list_keys(bucket) == []
        # Nobody could be told, so a rule of the bucket has to end it: see docs/operations.md.
        assert s3_server.count_unfinished(bucket) <= 1


async def test_a_store_that_takes_long_to_put_parts_together_is_waited_for(
    s3_server: S3Server,
) -> None:
    async with (
        DeafProxy.to("127.0.0.1", s3_server.port) as proxy,
        opened(new_bucket(s3_server, port=proxy.port)) as storage,
    ):
        begun_at = time.monotonic()
        assert await storage.write(new_name(), stream([b"x" * MIB] * 11)) == 11 * MIB
        assert time.monotonic() - begun_at > 6


class DeafLink(Link):
    """Keeps the end of an upload back for a while."""

    async def on_client_bytes(self, data: bytes) -> None:
        if b"CompleteMultipartUpload" in data:
            await asyncio.sleep(6)
        await super().on_client_bytes(data)


class DeafProxy(TcpProxy):
    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return DeafLink(self, client, server)


async def test_a_slow_client_is_not_taken_for_a_slow_store(s3_server: S3Server) -> None:
    """A minute passes for each of its pieces, but only while it is the client who is waited for."""
    late = 0.0

    async def slow() -> AsyncIterator[bytes]:
        nonlocal late
        for _ in range(8):
            yield b"x" * MIB
            late += 60

    def now() -> float:
        return time.monotonic() + late

    async with opened(new_bucket(s3_server)) as storage:
        with patch("app.infra.storage.s3.time", SimpleNamespace(monotonic=now)):
            assert await storage.write(new_name(), slow()) == 8 * MIB


@asynccontextmanager
async def answering(status: int, code: str = "") -> AsyncIterator[S3Storage]:
    async with run_store(status, code) as url, opened(files_at(url)) as storage:
        yield storage


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (507, "XMinioStorageFull"),
        (507, ""),
        (403, "QuotaExceeded"),
        (400, "XMinioAdminBucketQuotaExceeded"),
        (503, "InsufficientCapacity"),
    ],
)
@pytest.mark.parametrize("size", [10, 6 * MIB])
async def test_a_full_store_is_told_as_such(status: int, code: str, size: int) -> None:
    async with answering(status, code) as storage:
        with pytest.raises(StorageFull):
            await storage.write(new_name(), stream([b"x" * size]))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_store_that_fails_is_unavailable(status: int) -> None:
    async with answering(status) as storage:
        await every_call_is_unavailable(storage, new_name())


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (404, "NoSuchBucket"), (400, "Bad")],
)
async def test_a_store_that_refuses_us_is_named_at_the_start_and_unavailable_later(
    status: int, code: str
) -> None:
    async with answering(status, code) as storage:
        with pytest.raises(SettingsError, match=f"STORAGE_URL: .*{code}") as caught:
            await storage.check()
        assert SECRET_KEY not in str(caught.value)
        with pytest.raises(StorageUnavailable):
            await get(storage, new_name())
        with pytest.raises(StorageUnavailable):
            await storage.write(new_name(), stream([b"x"]))


async def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    async with opened(files_at(s3_server.url("no-such-bucket"))) as storage:
        with pytest.raises(SettingsError, match=r"STORAGE_URL: .*NoSuchBucket"):
            await storage.check()
        # Nothing is known of any object: none is missing, none is deleted.
        with pytest.raises(StorageUnavailable):
            await get(storage, new_name())
        with pytest.raises(StorageUnavailable):
            await storage.delete(new_name())


async def test_a_large_object_passes_in_little_memory(s3_server: S3Server) -> None:
    process = psutil.Process()
    piece = secrets.token_bytes(MIB)
    async with opened(new_bucket(s3_server)) as storage:
        await put(storage, *[piece] * 12)
        before = most = process.memory_info().rss
        name = new_name()

        async def many() -> AsyncIterator[bytes]:
            nonlocal most
            for _ in range(256):
                yield piece
                most = max(most, process.memory_info().rss)

        assert await storage.write(name, many()) == 256 * MIB
        written = most - before
        most = before
        async for _ in storage.read(name):
            most = max(most, process.memory_info().rss)
        assert max(written, most - before) < 64 * MIB


async def test_objects_are_kept_as_attachments_of_no_type(s3_server: S3Server) -> None:
    files = new_bucket(s3_server)
    place = {"endpoint_url": s3_server.endpoint, "region_name": REGION}
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    client = boto3.client("s3", **place, **keys)
    async with opened(files) as storage:
        for name in (await put(storage, b"small"), await put(storage, b"x" * 6 * MIB)):
            bucket = urlsplit(files.storage_url).netloc
            head = await asyncio.to_thread(client.head_object, Bucket=bucket, Key=name)
            assert head["ContentType"] == "application/octet-stream"
            assert head["ContentDisposition"] == "attachment"
            assert head["CacheControl"] == "private, no-store"


@pytest.mark.parametrize(
    ("mime_type", "disposition", "sent"),
    [
        ("image/png", 'inline; filename="a b.png"', ("image/png", 'inline; filename="a b.png"')),
        (
            "video/mp4",
            "inline; filename*=UTF-8''%D1%8F",
            ("video/mp4", "inline; filename*=UTF-8''%D1%8F"),
        ),
        ("audio/x-m4a+x", "attachment", ("audio/x-m4a+x", "attachment")),
        (
            "text/html",
            "inline; filename=x.html",
            ("application/octet-stream", "attachment; filename=x.html"),
        ),
        ("image/svg+xml", "INLINE", ("application/octet-stream", "attachment")),
        ("image/png; x", " inline", ("application/octet-stream", "attachment")),
        ("", "", ("application/octet-stream", "attachment")),
    ],
)
async def test_a_signed_url_says_how_it_is_answered(
    s3_server: S3Server, mime_type: str, disposition: str, sent: tuple[str, str]
) -> None:
    async with opened(new_bucket(s3_server, "pre/fix")) as storage:
        name = await put(storage, b"content")
        url = await storage.sign_url(name, seconds=30, mime_type=mime_type, disposition=disposition)
        assert url is not None
        async with httpx.AsyncClient() as client:
            answer = await client.get(url, headers={"Range": "bytes=1-3"})
    assert answer.status_code == 206
    assert answer.content == b"ont"
    assert (answer.headers["content-type"], answer.headers["content-disposition"]) == sent


async def test_a_signed_url_is_what_another_signer_makes_of_it(s3_server: S3Server) -> None:
    """The server of the tests lets any signature pass, so botocore has to agree with ours."""
    async with opened(new_bucket(s3_server, "pre/fix")) as storage:
        name = new_name()
        url = await storage.sign_url(
            name, seconds=9999, mime_type="image/webp", disposition='inline; filename="я+ &.webp"'
        )
    assert url is not None
    sent = parse_qs(urlsplit(url).query)
    assert sent["X-Amz-Expires"] == ["60"]
    bare, _, _ = url.partition("&X-Amz-Algorithm=")
    request = AWSRequest("GET", bare)
    moment = datetime.strptime(sent["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with patch("botocore.auth.get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None)):
        signer = S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", REGION, expires=60)
        signer.add_auth(request)
    expected = parse_qs(urlsplit(request.url).query)
    assert expected["X-Amz-Signature"] == sent["X-Amz-Signature"]
    assert expected == sent


async def test_keys_are_proved_and_wrong_ones_refused() -> None:
    """A server that does check the signatures of requests, of parts and ranges too."""
    with run_s3_server(free_calls=4) as server:
        server.make_bucket("bucket")
        place = {"endpoint_url": server.endpoint, "region_name": REGION}
        client = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **place)
        client.create_user(UserName="u")
        policy = (
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
        )
        client.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=policy)
        key = client.create_access_key(UserName="u")["AccessKey"]
        files = files_at(
            server.url("bucket"),
            storage_access_key=key["AccessKeyId"],
            storage_secret_key=key["SecretAccessKey"],
        )
        async with opened(files) as storage:
            await storage.check()
            name = await put(storage, b"x" * 7 * MIB, b"end")
            assert await get(storage, name, start=7 * MIB) == b"end"
            assert await names(storage) == {name}
        wrong = files.model_copy(update={"storage_secret_key": files_at("x").storage_secret_key})
        async with opened(wrong) as storage:
            with pytest.raises(SettingsError, match=r"STORAGE_URL: .*SignatureDoesNotMatch"):
                await storage.check()


async def test_the_environment_of_other_tools_changes_nothing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {
        "AWS_SESSION_TOKEN": "other",
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_REGION": "other",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
    }.items():
        monkeypatch.setenv(variable, value)
    async with opened(new_bucket(s3_server)) as storage:
        await storage.check()
        url = await storage.sign_url(new_name(), seconds=5)
    assert url is not None
    assert "other" not in url
    assert f"X-Amz-Credential={ACCESS_KEY}%2F" in url


async def test_more_large_uploads_than_memory_allows_wait(s3_server: S3Server) -> None:
    async with opened(new_bucket(s3_server)) as storage:
        waiting = [asyncio.create_task(storage.write(new_name(), held())) for _ in range(64)]
        await eventually(lambda: _is(storage._large_uploads.locked()), what="64 uploads")
        begun_at = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await storage.write(new_name(), stream([b"x" * MIB]))
        assert time.monotonic() - begun_at < ANSWER_SECONDS
        # A small one needs no turn.
        name = await put(storage, b"small")
        with pytest.raises(ObjectMissing):
            await get(storage, new_name())
        assert await get(storage, name) == b"small"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await names(storage) == {name}


async def _exhaust(reading: AsyncIterator[bytes]) -> None:
    async for _ in reading:
        continue


async def held() -> AsyncIterator[bytes]:
    yield b"x" * MIB
    await asyncio.Event().wait()


async def _is(fact: bool) -> bool:
    return fact


ONE_CALL = """
import asyncio
from contextlib import suppress

from app.infra.storage.port import StorageUnavailable
from app.infra.storage.s3 import Bucket, S3Storage


async def main():
    storage = S3Storage(Bucket(
        name="bucket", prefix="", endpoint="http://127.0.0.1:1", region="x", access_key="a", secret_key="b"
    ))
    with suppress(StorageUnavailable):
        await storage.delete("a" * 32)
    await storage.close()


asyncio.run(main())
"""


async def test_a_process_that_ends_behind_its_last_call_is_not_aborted() -> None:
    """Beside other work one of eight was, for the interpreter was gone when obstore's threads came back to it."""

    async def run() -> list[int | None]:
        ends: list[int | None] = []
        for _ in range(6):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", ONE_CALL, cwd=ROOT, stderr=asyncio.subprocess.PIPE
            )
            await process.communicate()
            ends.append(process.returncode)
        return ends

    others = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        for _ in range(3)
    ]
    try:
        ends = await asyncio.gather(*(run() for _ in range(3)))
    finally:
        for other in others:
            other.kill()
            await other.wait()
    assert ends == [[0] * 6] * 3
