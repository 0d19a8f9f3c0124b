"""Resumable uploads, header by header: what tus 1.0 asks of a server, and what is refused."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.people import Backend, Json, is_time
from tests.support.rows import change_rows, read_values
from tests.support.tus import (
    BODY_TYPE,
    PATH,
    TUS,
    Upload,
    begin,
    checksum,
    describe,
    try_to_begin,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

# Either way of sending bytes keeps the same rules.
OVERRIDES = pytest.mark.parametrize("override", [False, True], ids=["patch", "override"])
MIB = 1_048_576


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def require_file(document: Json, content: bytes, name: str) -> None:
    file = document["file"]
    assert (file["size"], file["original_name"]) == (len(content), name)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


async def test_the_server_says_what_it_can(backend: Backend) -> None:
    answer = await backend.stranger().call("OPTIONS", PATH)
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "termination",
        "checksum",
        "expiration",
    }
    assert int(answer.headers["tus-max-size"]) == 2 * 1024**3
    assert set(answer.headers["tus-checksum-algorithm"].split(",")) == {"sha1", "sha256", "md5"}


async def test_an_upload_in_pieces_becomes_a_file(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(300_000)
    metadata = describe(filename="Größe.bin", filetype="image/png")
    upload = await begin(anna, len(content), metadata=metadata)
    assert upload.begun.headers["upload-offset"] == "0"
    assert "GMT" in upload.begun.headers["upload-expires"]

    half = await upload.patch(content[:100_000], 0)
    assert (half.status_code, half.headers["upload-offset"]) == (204, "100000")
    assert "x-file-id" not in half.headers
    head = await upload.head()
    assert (head.status_code, head.headers["upload-offset"]) == (200, "100000")
    assert head.headers["upload-length"] == "300000"
    assert head.headers["upload-metadata"] == metadata
    assert head.headers["cache-control"] == "no-store"
    assert (await upload.standing())["state"] == "receiving"

    last = await upload.patch(content[100_000:], 100_000)
    assert (last.status_code, last.headers["upload-offset"]) == (204, "300000")
    told = await upload.standing()
    assert (told["state"], told["offset"], told["length"]) == ("finished", 300_000, 300_000)
    assert is_time(told["expires_at"])
    require_file(told, content, "Größe.bin")
    assert told["file"]["file_type"] == "document", "the bytes decide"
    for answer in (last, await upload.head()):
        assert answer.headers["x-file-id"] == str(told["file"]["id"])
        assert answer.headers["x-file-url"] == told["file"]["url"]
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert (await upload.head()).headers["upload-metadata"] == metadata
    again = await upload.patch(b"", len(content))
    assert (again.status_code, again.headers["upload-offset"]) == (204, "300000")


async def test_the_bytes_may_come_with_the_beginning(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(50_000)
    upload = await begin(anna, len(content), content=content, metadata=describe(filename="a.bin"))
    assert upload.begun.headers["upload-offset"] == "50000"
    assert upload.begun.headers["x-file-id"]
    require_file(await upload.standing(), content, "a.bin")
    part = await begin(anna, 2 * len(content), content=content)
    assert part.begun.headers["upload-offset"] == "50000"
    await part.patch(content, len(content))
    require_file(await part.standing(), content + content, "file")


@OVERRIDES
async def test_the_length_may_be_told_later(backend: Backend, override: bool) -> None:
    anna = await backend.sign_up()
    content = os.urandom(20_000)
    upload = await begin(anna, None)
    assert upload.begun.headers["upload-defer-length"] == "1"
    first = await upload.patch(content[:5_000], 0, override=override)
    assert "upload-length" not in first.headers
    assert (await upload.head()).headers["upload-defer-length"] == "1"
    assert (await upload.standing())["length"] is None
    less = await upload.patch(b"", 5_000, override=override, Upload_Length="4999")
    assert refusal(less) == (400, "upload_header_invalid")
    second = await upload.patch(content[5_000:9_000], 5_000, Upload_Length="20000")
    assert second.headers["upload-length"] == "20000"
    other = await upload.patch(b"", 9_000, override=override, Upload_Length="20001")
    assert refusal(other) == (400, "upload_header_invalid")
    await upload.patch(content[9_000:], 9_000, override=override, Upload_Length="20000")
    require_file(await upload.standing(), content, "file")
    whole = await begin(anna, None)
    await whole.patch(content, 0)
    last = await whole.patch(b"", len(content), Upload_Length=str(len(content)))
    assert last.headers["x-file-id"]


async def test_the_end_of_a_length_that_was_told_late_is_an_end(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, None)
    await upload.patch(b"1234", 0, Upload_Length="6")
    over = await upload.patch(b"567", 4)
    assert refusal(over) == (413, "upload_overrun")
    assert await upload.offset() == 4


@OVERRIDES
@pytest.mark.parametrize("offset", [0, 1, 5, 11, 2**53 - 1])
async def test_bytes_are_taken_only_where_the_upload_stands(
    backend: Backend, offset: int, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 20, content=b"0123456789")
    refused = await upload.patch(b"x" * 5, offset, override=override)
    assert refusal(refused) == (409, "offset_mismatch")
    assert await upload.offset() == 10


async def test_of_two_who_send_at_once_one_goes_on(backend: Backend) -> None:
    anna = await backend.sign_up()
    one, other = b"1" * (6 * MIB), b"2" * (6 * MIB)
    for _ in range(3):
        upload = await begin(anna, len(one))
        answers = await asyncio.gather(*(upload.patch(it, 0) for it in (one, other, one, other)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [204, 409, 409, 409]
        told = await upload.standing()
        digests = {hashlib.sha256(it).hexdigest() for it in (one, other)}
        assert told["file"]["sha256"] in digests, "bytes of both were mixed"


@OVERRIDES
async def test_more_bytes_than_announced_are_refused(backend: Backend, override: bool) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    over = await upload.patch(b"567890", 5, override=override)
    assert refusal(over) == (413, "upload_overrun")
    assert await upload.offset() == 5
    assert refusal(await try_to_begin(anna, 3, content=b"1234")) == (413, "upload_overrun")


async def test_chunks_that_overrun_end_no_upload(backend: Backend) -> None:
    """Without a Content-Length only the end of the body tells."""
    anna = await backend.sign_up()
    upload = await begin(anna, 100_000)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        yield b"y"

    answer = await anna.client.patch(
        f"/api/v1{upload.path}",
        content=body(),
        headers=TUS
        | {
            "Authorization": f"Bearer {anna.access_token}",
            "Content-Type": BODY_TYPE,
            "Upload-Offset": "0",
        },
    )
    assert refusal(answer) == (413, "upload_overrun")
    assert (await upload.standing())["state"] == "receiving"


@OVERRIDES
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
async def test_a_checksum_keeps_all_or_nothing(
    backend: Backend, algorithm: str, override: bool
) -> None:
    anna = await backend.sign_up()
    content = os.urandom(5 * MIB)
    upload = await begin(anna, 2 * len(content))
    wrong = checksum(content + b"x", algorithm)
    refused = await upload.patch(content, 0, override=override, Upload_Checksum=wrong)
    assert refusal(refused) == (460, "checksum_mismatch")
    assert await upload.offset() == 0
    right = checksum(content, algorithm)
    kept = await upload.patch(content, 0, override=override, Upload_Checksum=right)
    assert (kept.status_code, kept.headers["upload-offset"]) == (204, str(len(content)))
    last = await upload.patch(content, len(content), Upload_Checksum=right)
    assert last.headers["x-file-id"]
    require_file(await upload.standing(), content + content, "file")


async def test_a_checksum_of_the_beginning_counts_too(backend: Backend) -> None:
    anna = await backend.sign_up()
    refused = await try_to_begin(anna, 9, content=b"012345678", Upload_Checksum=checksum(b"x"))
    assert refusal(refused) == (460, "checksum_mismatch")
    upload = await begin(anna, 3, content=b"abc", Upload_Checksum=checksum(b"abc"))
    assert upload.begun.headers["x-file-id"]


BAD_CHECKSUMS = (
    "",
    "sha1",
    "crc32 AAAAAA==",
    "SHA1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBw",
    "sha256 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "sha1  2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "sha1 !!!!",
)


@OVERRIDES
@pytest.mark.parametrize("value", BAD_CHECKSUMS)
async def test_a_checksum_that_is_none_is_refused(
    backend: Backend, value: str, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3)
    refused = await upload.patch(b"abc", 0, override=override, Upload_Checksum=value)
    assert refusal(refused) == (400, "upload_header_invalid")
    assert await upload.offset() == 0


@OVERRIDES
@pytest.mark.parametrize("value", [None, "", "-1", "+0", "00", "0x0", "1.0", "1,2", "9" * 17])
async def test_an_offset_that_is_none_is_refused(
    backend: Backend, value: str | None, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3)
    head = TUS | {"Content-Type": BODY_TYPE, "X-HTTP-Method-Override": "PATCH"}
    head |= {"Upload-Offset": value} if value is not None else {}
    method = "POST" if override else "PATCH"
    refused = await anna.call(method, upload.path, content=b"abc", headers=head)
    assert refusal(refused) == (400, "upload_header_invalid")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "-1"},
        {"Upload-Length": "1e3"},
        {"Upload-Length": ""},
        {"Upload-Length": "9" * 17},
        {"Upload-Length": "1", "Upload-Defer-Length": "1"},
        {"Upload-Defer-Length": "0"},
        {"Upload-Defer-Length": "yes"},
        {"Upload-Length": "1", "Upload-Concat": "partial"},
        {"Upload-Length": "1", "Upload-Metadata": "filename %%%"},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ"},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ==,filename Yg=="},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ==,"},
        {"Upload-Length": "1", "Upload-Metadata": "filename gICA"},
        {"Upload-Length": "1", "Upload-Metadata": "purpose c2VjcmV0"},
        {"Upload-Length": "1", "Upload-Metadata": ",".join(f"k{n} YQ==" for n in range(33))},
        {"Upload-Length": "1", "Upload-Metadata": "filename " + "YWFh" * 4096},
    ],
)
async def test_a_beginning_that_says_nonsense_is_refused(
    backend: Backend, headers: dict[str, str]
) -> None:
    anna = await backend.sign_up()
    answer = await anna.call("POST", PATH, headers=TUS | headers)
    assert refusal(answer) == (400, "upload_header_invalid")


@pytest.mark.parametrize(
    "metadata",
    ["", "filename", "relativePath bnVsbA==,filename YQ==, type YQ==", "a YQ==,b"],
)
async def test_other_words_of_clients_are_taken_and_given_back(
    backend: Backend, metadata: str
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3, metadata=metadata)
    assert (await upload.head()).headers.get("upload-metadata", "") == metadata.strip()


async def test_a_name_of_ten_thousand_letters_is_cut(backend: Backend) -> None:
    anna = await backend.sign_up()
    metadata = describe(filename="n" * 10_000 + ".bin")
    upload = await begin(anna, 3, content=b"abc", metadata=metadata)
    name = (await upload.standing())["file"]["original_name"]
    assert name.startswith("nnn")
    assert name.endswith(".bin")
    assert len(name) == 255


@OVERRIDES
@pytest.mark.parametrize("value", [None, "0.2.2", "2.0.0", "1.0", "1.0.0, 1.0.0"])
async def test_another_version_of_tus_is_refused(
    backend: Backend, value: str | None, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3)
    head = {"Content-Type": BODY_TYPE, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    head |= {"Tus-Resumable": value} if value is not None else {}
    method = "POST" if override else "PATCH"
    answers = [
        await anna.call(method, upload.path, content=b"abc", headers=head),
        await anna.call("HEAD", upload.path, headers=head),
        await anna.call("DELETE", upload.path, headers={"Tus-Resumable": value or "0"}),
        await anna.call(
            "POST", PATH, headers={"Upload-Length": "3", "Tus-Resumable": value or "0"}
        ),
    ]
    for answer in answers:
        assert answer.status_code == 412, answer.request.method
        assert answer.headers["tus-version"] == "1.0.0"
    assert await upload.offset() == 0


@OVERRIDES
@pytest.mark.parametrize(
    "value", ["application/json", "application/octet-stream", "text/plain", BODY_TYPE + "; a=b", ""]
)
async def test_a_body_of_another_type_is_refused(
    backend: Backend, value: str, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3)
    refused = await upload.patch(b"abc", 0, override=override, Content_Type=value)
    assert refusal(refused) == (415, "unsupported_media_type")
    packed = await upload.patch(b"abc", 0, override=override, Content_Encoding="gzip")
    assert refusal(packed) == (415, "unsupported_media_type")
    begun = await try_to_begin(anna, 3, content=b"abc", Content_Type=value)
    assert refusal(begun) == (415, "unsupported_media_type")


async def test_another_method_behind_post_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 3)
    for head in ({}, {"X-HTTP-Method-Override": "GET"}, {"X-HTTP-Method-Override": "patch"}):
        answer = await anna.call("POST", upload.path, headers=TUS | head)
        assert refusal(answer) == (405, "method_not_allowed")
    head = {"X-HTTP-Method-Override": "DELETE"}
    answer = await anna.call("POST", upload.path, headers=TUS | head)
    assert answer.status_code == 204
    assert (await upload.head()).status_code == 404


async def test_nobody_else_finds_an_upload(backend: Backend) -> None:
    """Byte for byte as one that never was, whatever is asked of it."""
    anna, bruno = await backend.people(2)
    upload = await begin(anna, 6, content=b"abc")
    never = Upload(bruno, f"{PATH}/{'x' * 32}", upload.begun)
    foreign = Upload(bruno, upload.path, upload.begun)
    for it in (never, foreign):
        answers = [
            await it.head(),
            await it.patch(b"def", 3),
            await it.patch(b"def", 3, override=True),
            await it.patch(b"def", 0),
            await it.terminate(),
            await bruno.call("GET", it.path),
        ]
        assert [answer.status_code for answer in answers] == [404] * 6
        bodies = {answer.content for answer in answers if answer.content}
        assert len(bodies) == 1, bodies
    assert await upload.offset() == 3
    await bruno.call("GET", f"{PATH}/...", headers=TUS)
    for method in ("HEAD", "GET", "DELETE", "PATCH", "POST"):
        head = TUS | {"Content-Type": BODY_TYPE} if method in {"PATCH", "POST"} else TUS
        assert (await bruno.call(method, f"{PATH}/a.b", headers=head)).status_code == 422


@OVERRIDES
async def test_a_terminated_upload_is_gone(backend: Backend, override: bool) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    assert (await upload.terminate()).status_code == 204
    assert (await upload.head()).status_code == 404
    assert (await upload.terminate()).status_code == 404
    assert refusal(await upload.patch(b"56789", 5, override=override)) == (404, "not_found")
    finished = await begin(anna, 3, content=b"abc")
    file_id = (await finished.standing())["file"]["id"]
    assert (await finished.terminate()).status_code == 204
    query = f"SELECT id FROM files WHERE id = {file_id} AND ended_at IS NULL"
    assert await read_values(backend.deployment, query) == [file_id]


async def test_an_empty_upload_is_no_file(backend: Backend) -> None:
    anna = await backend.sign_up()
    assert refusal(await try_to_begin(anna, 0)) == (422, "file_empty")


@OVERRIDES
async def test_what_can_be_no_file_fails_for_good_and_says_why(
    backend: Backend, override: bool
) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 9, metadata=describe(purpose="photo"))
    assert refusal(await upload.patch(b"no photo!", 0, override=override)) == (
        422,
        "photo_invalid",
    )
    told = await upload.standing()
    assert (told["state"], told["failure"]) == ("failed", "photo_invalid")
    assert "file" not in told
    assert (await upload.head()).status_code == 404
    assert (await upload.patch(b"", 9)).status_code == 404
    assert (await upload.terminate()).status_code == 204


async def test_an_upload_that_nobody_goes_on_with_expires(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    token = upload.path.rpartition("/")[2]
    statement = f"UPDATE uploads SET expires_at = 1 WHERE token = '{token}'"
    assert await change_rows(backend.deployment, statement) == 1
    answers = [await upload.head(), await upload.patch(b"56789", 5), await upload.terminate()]
    assert [answer.status_code for answer in answers] == [404, 404, 404]


async def test_a_session_that_has_ended_sends_no_more(backend: Backend) -> None:
    """A new one of the same person goes on where it stands."""
    anna = await backend.sign_up()
    upload = await begin(anna, 10, content=b"01234")
    await anna.post("/auth/logout", expect=204)
    assert (await upload.patch(b"56789", 5)).status_code == 401
    again = await backend.sign_in(anna.phone)
    answer = await upload.patch(b"56789", 5, person=again)
    assert answer.headers["x-file-id"]


async def test_nothing_personal_lies_in_the_clear(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 40, metadata=describe(filename="secret-marker.txt"))
    await upload.patch(b"another-marker " * 2, 0)
    token = upload.path.rpartition("/")[2]
    query = f"SELECT details FROM uploads WHERE token = '{token}'"
    (details,) = await read_values(backend.deployment, query)
    assert isinstance(details, bytes)
    assert b"marker" not in details
    files = backend.deployment.nodes[0].var_dir / "files"
    stored = [path.read_bytes() for path in files.rglob("*") if path.is_file()]
    assert stored
    assert all(b"another-marker" not in content for content in stored)


async def test_parts_of_a_finished_upload_are_deleted(backend: Backend) -> None:
    anna = await backend.sign_up()
    upload = await begin(anna, 6, content=b"abc")
    token = upload.path.rpartition("/")[2]
    names = (
        "SELECT object_name FROM upload_parts JOIN uploads ON uploads.id = upload_id "
        f"WHERE token = '{token}'"
    )
    key = f"SELECT keys.id FROM keys JOIN uploads ON keys.id = 'upload:' || uploads.id WHERE token = '{token}'"
    (name,) = await read_values(backend.deployment, names)
    assert len(await read_values(backend.deployment, key)) == 1
    await upload.patch(b"def", 3)
    assert await read_values(backend.deployment, names) == []
    assert await read_values(backend.deployment, key) == []
    files = backend.deployment.nodes[0].var_dir / "files"

    async def is_gone() -> bool:
        return not [path for path in files.rglob(f"{name}*") if path.is_file()]

    await eventually(is_gone, timeout_seconds=20, what="the end of the part")
