"""Uploading: what comes back, and what is refused with a clear answer and leaves nothing behind."""

import hashlib
import os
import re

import httpx
import pytest

from tests.support.people import API, Backend, Json, Person, check_answer
from tests.support.photos import make_photo
from tests.support.rows import read_values

pytestmark = pytest.mark.anyio

BOUNDARY = "limit-of-a-part"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
END = f"\r\n--{BOUNDARY}--\r\n"


async def post_raw(person: Person, body: bytes, **headers: str) -> httpx.Response:
    """A body of our own making."""
    head = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    if person.tokens:
        head["Authorization"] = f"Bearer {person.access_token}"
    answer = await person.client.post(f"{API}/files/upload", content=body, headers=head)
    check_answer(person.backend.deployment.openapi, "POST", answer)
    return answer


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """(name, further parameters of the disposition, value)"""
    pieces = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + value
        for name, more, value in parts
    ]
    return b"\r\n".join([*pieces, b""]) + f"--{BOUNDARY}--\r\n".encode()


async def test_an_upload_is_read_back_as_it_was_sent(backend: Backend) -> None:
    anna = await backend.sign_up()
    content = os.urandom(1_000_003)
    file = await anna.upload(content, name="notes.bin")
    assert file["file_type"] == "document"
    assert file["original_name"] == "notes.bin"
    assert file["size"] == len(content)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert file["mime_type"] == "application/octet-stream"
    assert file["url"] == f"{API}/files/document/{file['filename']}"
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", file["filename"])
    assert (await anna.download(file)).content == content


@pytest.mark.parametrize("size", [1, 262_143, 262_144, 262_145, 524_288, 1_048_576 + 1])
async def test_every_size_around_a_chunk_is_read_back(backend: Backend, size: int) -> None:
    anna = await backend.sign_up()
    content = os.urandom(size)
    file = await anna.upload(content)
    assert (await anna.download(file)).content == content


async def test_an_empty_file_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    await anna.upload(b"", expect=422, code="file_empty")


async def test_who_has_not_signed_in_is_refused_before_the_body(backend: Backend) -> None:
    answer = await post_raw(backend.stranger(), b"no form at all")
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\photo.jpg", "photo.jpg"),
        ("a\x07b\u202egpj.exe", "abgpj.exe"),
        ("год.txt", "год.txt"),
        ("👩‍👩‍👧.png", "👩‍👩‍👧.png"),
        ("  spaced name .txt ", "spaced name .txt"),
        ("..", "file"),
        ("/", "file"),
        ("", "file"),
        ("x" * 10_000 + ".tar", "x" * 251 + ".tar"),
        ("€" * 10_000, "€" * 255),
        ("😀" * 10_000 + ".png", "😀" * 125 + ".png"),
    ],
)
async def test_a_name_is_kept_readable_and_harmless(backend: Backend, sent: str, kept: str) -> None:
    anna = await backend.sign_up()
    # httpx escapes what a browser would send as it is.
    name = sent.replace('"', "%22").encode()
    body = form(("file", '; filename="', b""))
    body = body.replace(b'filename="', b'filename="' + name + b'"').replace(
        b"\r\n\r\n\r\n", b"\r\n\r\nx\r\n"
    )
    answer = await post_raw(anna, body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["original_name"] == kept


async def test_a_name_in_the_extended_form_is_understood(backend: Backend) -> None:
    anna = await backend.sign_up()
    more = "; filename*=UTF-8''%D0%B3%D0%BE%D0%B4.txt"
    answer = await post_raw(anna, form(("file", more, b"content")))
    assert answer.status_code == 201
    assert answer.json()["original_name"] == "год.txt"
    more = "; filename*=iso-8859-1'en'na%EFve.txt"
    assert (await post_raw(anna, form(("file", more, b"x")))).json()["original_name"] == "naïve.txt"


async def test_a_name_that_is_not_utf8_is_kept_as_far_as_it_can_be_read(backend: Backend) -> None:
    anna = await backend.sign_up()
    body = form(("file", '; filename="NAME"', b"x")).replace(b"NAME", b"a\xff\xfeb.txt")
    answer = await post_raw(anna, body)
    assert answer.json()["original_name"] == "a\ufffd\ufffdb.txt"


async def test_the_purpose_may_stand_before_and_behind_the_file(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = ("file", '; filename="a.txt"', b"text")
    purpose = ("purpose", "", b"document")
    for parts in ((purpose, file), (file, purpose)):
        answer = await post_raw(anna, form(*parts))
        assert answer.status_code == 201, answer.text
        assert answer.json()["file_type"] == "document"


@pytest.mark.parametrize("first", [True, False])
async def test_an_unknown_purpose_is_refused(backend: Backend, first: bool) -> None:
    anna = await backend.sign_up()
    parts = [("purpose", "", b"weapon"), ("file", '; filename="a"', b"text")]
    answer = await post_raw(anna, form(*(parts if first else reversed(parts))))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "purpose"


async def test_what_is_asked_to_be_a_photo_or_a_voice_has_to_be_one(backend: Backend) -> None:
    anna = await backend.sign_up()
    await anna.upload(b"just text", purpose="photo", expect=422, code="photo_invalid")
    await anna.upload(b"just text", purpose="voice", expect=422, code="voice_invalid")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no form", 400),
        (PART.encode(), 400),
        (PART.encode() + b"cut off", 400),
        (form(("purpose", "", b"document")), 422),
        (form(("other", "", b"x"), ("file", '; filename="a"', b"x")), 422),
        (form(("file", "", b"without a filename")), 422),
        (form(("file", '; filename="a"', b"x"), ("file", '; filename="b"', b"y")), 422),
        (form(("picture", '; filename="a"', b"x")), 422),
        (form(("purpose", "", b"p" * 2_000), ("file", '; filename="a"', b"x")), 400),
    ],
)
async def test_a_form_that_is_none_is_refused(backend: Backend, body: bytes, status: int) -> None:
    anna = await backend.sign_up()
    answer = await post_raw(anna, body)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain",
        "application/octet-stream",
        "multipart/mixed; boundary=x",
        "",
    ],
)
async def test_another_type_of_body_is_refused(backend: Backend, content_type: str) -> None:
    anna = await backend.sign_up()
    answer = await post_raw(anna, b"{}", Content_Type=content_type)
    assert answer.status_code == 415


async def test_equal_uploads_of_one_person_share_their_bytes(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    content = os.urandom(300_000)
    first = await anna.upload(content, name="one.bin")
    second = await anna.upload(content, name="two.bin")
    foreign = await bruno.upload(content, name="one.bin")
    assert first["id"] != second["id"]
    assert len({first["url"], second["url"], foreign["url"]}) == 3
    assert second["original_name"] == "two.bin"
    assert first["sha256"] == second["sha256"] == foreign["sha256"]
    await anna.delete(path_of(first), expect=204)
    assert (await anna.download(second)).content == content
    assert (await bruno.download(foreign)).content == content


async def test_a_photo_is_kept_once_whatever_it_was_sent_for(backend: Backend) -> None:
    """But for the one who wants it as it is."""
    anna, photo = await backend.sign_up(), make_photo()
    files = [await anna.upload(photo, purpose=it) for it in ("attachment", "photo", "photo")]
    document = await anna.upload(photo, purpose="document")
    of_anna = f"SELECT id FROM blobs WHERE owner_id = {anna.id}"
    assert len(await read_values(backend.deployment, of_anna)) == 2
    contents = [(await anna.download(it)).content for it in files]
    assert len(set(contents)) == 1
    assert (await anna.download(document)).content == photo
    assert [len(it.get("thumbnails", ())) for it in (*files, document)] == [2, 2, 2, 0]


def path_of(file: Json) -> str:
    return file["url"].removeprefix(API)
