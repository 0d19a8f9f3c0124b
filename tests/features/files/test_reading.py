"""Reading files: ranges, conditions, `HEAD`, headers, and 404 for everything that is not mine."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from email.message import Message
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support.own_deployments import own_deployment
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SIZE = 700_001
# More than is sent in one go, with and without a seal.
LARGE = 20_000_003
# The launcher, which notes each piece that leaves by `sendfile`: where it begins and how long it is.
COUNTING = """
import os, runpy
send = os.sendfile
def counted(out, file, offset, count):
    sent = send(out, file, offset, count)
    with open("sent.txt", "a") as notes:
        notes.write(f"{offset} {sent}\\n")
    return sent
os.sendfile = counted
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module", params=["sealed", "plain"])
def form(request: pytest.FixtureRequest) -> str:
    """How files lie in the directory; plain ones go out by another way."""
    return request.param


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def deployment(
    request: pytest.FixtureRequest, form: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    settings = {"ENCRYPT_FILES": str(form == "sealed").lower()}
    with own_deployment(request, tmp_path_factory.mktemp("reading"), settings) as made:
        yield made
        assert not [fault for server in made.nodes for fault in server.faults()]


async def head(person: Person, file: Json, **headers: str) -> httpx.Response:
    return await person.call("HEAD", file["url"].removeprefix(API), headers=headers)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=100-199", 100, 199),
        ("bytes=262143-262144", 262_143, 262_144),
        ("bytes=262144-524287", 262_144, 524_287),
        ("bytes=-1", SIZE - 1, SIZE - 1),
        ("bytes=-999999999", 0, SIZE - 1),
        ("bytes=600000-99999999", 600_000, SIZE - 1),
        ("Bytes= 5-6", 5, 6),
        ("bytes=0-4,3-9,10-12", 0, 12),
    ],
)
async def test_a_range_is_answered_with_its_bytes(
    backend: Backend, asked: str, first: int, last: int
) -> None:
    anna = await backend.sign_up()
    content = os.urandom(SIZE)
    file = await anna.upload(content)
    answer = await anna.download(file, expect=206, Range=asked)
    assert answer.content == content[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["content-length"] == str(last - first + 1)


async def test_a_large_file_is_answered_whole_and_in_ranges(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(LARGE)
    file = await anna.upload(content)
    answer = await anna.download(file)
    assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    assert answer.headers["content-length"] == str(LARGE)
    for first, last in ((1, LARGE - 2), (16_777_215, 16_777_216), (LARGE - 5, LARGE - 1)):
        answer = await anna.download(file, expect=206, Range=f"bytes={first}-{last}")
        # Not compared by pytest, which would explain twenty megabytes.
        assert hashlib.sha256(answer.content).digest() == (
            hashlib.sha256(content[first : last + 1]).digest()
        )
    answer = await anna.download(file, expect=206, Range="bytes=0-0,10000000-10000009,-1")
    assert content[10_000_000:10_000_010] in answer.content


async def test_a_plain_file_goes_out_by_sendfile(directory: Path, anyio_backend: str) -> None:
    """Not one byte of it is copied by us, and no other of the file leaves."""
    del anyio_backend
    command = (sys.executable, "-c", COUNTING)
    server = Server(directory, {"ENCRYPT_FILES": "false"}, forked=False)
    async with AsyncExitStack() as stack:
        stack.callback(server.stop)
        server.start(command)
        anna = await Backend(Deployment("sqlite", [server]), stack).sign_up()
        content = os.urandom(LARGE)
        file = await anna.upload(content)
        assert (await head(anna, file)).status_code == 200
        assert sent_pieces(directory) == []
        sent: list[tuple[int, int]] = []
        for asked, spans in (
            ("bytes=0-", [(0, LARGE)]),
            ("bytes=100-299", [(100, 300)]),
            ("bytes=5000000-5000009,0-4,-3", [(0, 5), (5_000_000, 5_000_010), (LARGE - 3, LARGE)]),
        ):
            answer = await anna.download(file, expect=206, Range=asked)
            assert all(content[start:end] in answer.content for start, end in spans)
            sent += spans
            await expect_sent(directory, sent)
        answer = await anna.download(file)
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        await expect_sent(directory, [*sent, (0, LARGE)])
        assert server.faults() == []


async def expect_sent(directory: Path, spans: list[tuple[int, int]]) -> None:
    """Just these so far; a piece is noted behind its sending, when it may be read already."""

    async def are_noted() -> bool:
        return joined(sent_pieces(directory)) == spans

    await eventually(are_noted, what=f"{spans} sent")


def sent_pieces(directory: Path) -> list[tuple[int, int]]:
    """Where each began and ended, in their order."""
    notes = directory / "sent.txt"
    lines = notes.read_text().splitlines() if notes.exists() else []
    found = [tuple(map(int, line.split())) for line in lines if line.count(" ") == 1]
    return [(offset, offset + sent) for offset, sent in found]


def joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for start, end in pieces:
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


async def test_several_ranges_are_answered_in_parts(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(SIZE)
    file = await anna.upload(content)
    answer = await anna.download(file, expect=206, Range="bytes=500000-500009,0-4,-3")
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = answer.content.split(b"\r\n--" + boundary.encode())
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    found = []
    for part in parts[1:-1]:
        lines, _, body = part.partition(b"\r\n\r\n")
        span = re.search(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)", lines)
        assert span is not None
        start, end, size = map(int, span.groups())
        assert size == SIZE
        assert body == content[start : end + 1]
        found.append((start, end))
    assert found == [(0, 4), (500_000, 500_009), (SIZE - 3, SIZE - 1)]


@pytest.mark.parametrize("asked", ["bytes=700001-", "bytes=800000-900000", "bytes=-0"])
async def test_a_range_outside_is_refused(backend: Backend, asked: str) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(os.urandom(SIZE))
    answer = await anna.download(file, expect=416, Range=asked)
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=a-b", "bytes", "lines=1-2", "bytes=1-2;3", "bytes=-", "bytes=,"]
)
async def test_a_range_that_is_none_is_ignored(backend: Backend, asked: str) -> None:
    anna = await backend.sign_up()
    content = os.urandom(1000)
    file = await anna.upload(content)
    assert (await anna.download(file, Range=asked)).content == content


async def test_thousands_of_ranges_cost_nothing(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(os.urandom(SIZE))
    ranges = "bytes=" + ",".join(f"{i * 2}-{i * 2}" for i in range(2_500))
    began = time.monotonic()
    answer = await anna.download(file, expect=416, Range=ranges)
    assert time.monotonic() - began < 20
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


async def test_a_file_that_the_client_has_is_not_sent_again(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(os.urandom(1000))
    tag = (await anna.download(file)).headers["etag"]
    assert re.fullmatch(r'"[^"]+"', tag)
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await anna.download(file, expect=304, If_None_Match=known)
        assert answer.content == b""
        assert answer.headers["etag"] == tag
        assert answer.headers["content-security-policy"].startswith("sandbox")
    await anna.download(file, expect=200, If_None_Match='"other"')


async def test_a_range_holds_only_of_the_version_that_the_client_has(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(1000)
    file = await anna.upload(content)
    tag = (await anna.download(file)).headers["etag"]
    await anna.download(file, expect=206, Range="bytes=0-9", If_Range=tag)
    for other in ('"other"', f"W/{tag}", "Sat, 28 Nov 2026 18:00:00 GMT"):
        answer = await anna.download(file, expect=200, Range="bytes=0-9", If_Range=other)
        assert answer.content == content


async def test_head_says_what_get_would(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(os.urandom(1000), name="год.bin")
    whole, empty = await anna.download(file), await head(anna, file)
    assert empty.status_code == 200
    assert empty.content == b""
    different = {"x-request-id", "date", "ratelimit"}
    assert {n: v for n, v in whole.headers.items() if n not in different} == {
        n: v for n, v in empty.headers.items() if n not in different
    }
    tag = whole.headers["etag"]
    assert (await head(anna, file, **{"If-None-Match": tag})).status_code == 304
    assert (await head(anna, file, Range="bytes=0-1")).status_code == 200


async def test_a_name_is_given_back_as_rfc_6266_wants_it(backend: Backend) -> None:
    anna = await backend.sign_up()
    name = 'a "quoted" год; 100%.txt'
    file = await anna.upload(b"text", name=name)
    assert file["original_name"] == name
    given = (await anna.download(file)).headers["content-disposition"]
    message = Message()
    message["Content-Disposition"] = given
    assert given.startswith("attachment; ")
    assert quote(name, safe="") in given.replace("!", "%21")
    assert message.get_filename() is not None
    assert "\\" not in given


async def test_what_is_no_picture_or_film_is_only_ever_saved(backend: Backend) -> None:
    anna = await backend.sign_up()
    bodies = {
        "page.html": b"<!doctype html><script>fetch('/api/v1/users/me')</script>",
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "letter.pdf": b"%PDF-1.7\n",
        "script.js": b"alert(1)",
        "photo.jpg": b"<html>no photo</html>",
    }
    for name, body in bodies.items():
        file = await anna.upload(body, name=name)
        assert file["file_type"] == "document"
        answer = await anna.download(file)
        headers = answer.headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


async def test_what_is_not_mine_answers_as_what_never_was(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    file = await anna.upload(b"mine alone")
    name = file["filename"]
    never = "A" * len(name)
    for method in ("GET", "HEAD", "DELETE"):
        for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
            for query in ("", "?thumbnail=small"):
                answers = [
                    await bruno.call(method, f"/files/document/{it}{query}", headers=headers)
                    for it in (name, never)
                ]
                seen = [(a.status_code, a.content, dict(a.headers)) for a in answers]
                for _, _, head_ in seen:
                    for varying in ("x-request-id", "date", "ratelimit"):
                        head_.pop(varying, None)
                assert seen[0] == seen[1]
                assert seen[0][0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/files/photo/{name}",
        "/files/documents/{name}",
        "/files/Document/{name}",
        "/files/document/{name}x",
        "/files/document/{name}%00",
        "/files/document/..%2f..%2fmessenger.db",
        "/files/document/%2e%2e",
        "/files/..%2fdocument/{name}",
        "/files/document/{name}/",
        "/files/document/{name}%20",
    ],
)
async def test_a_path_that_is_not_the_file_leads_nowhere(backend: Backend, path: str) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(b"text")
    answer = await anna.call("GET", path.format(name=file["filename"]))
    assert answer.status_code == 404, answer.text


async def test_a_thumbnail_that_is_not_there_is_not_found(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(b"text")
    await anna.download(file, thumbnail="small", expect=404)
    answer = await anna.download(file, thumbnail="huge", expect=422)
    assert answer.json()["code"] == "validation_error"
    assert (await backend.stranger().call("GET", file["url"].removeprefix(API))).status_code == 401
