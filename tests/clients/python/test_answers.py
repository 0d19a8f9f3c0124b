"""What the client makes of answers that a healthy server seldom gives: a scripted one does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from messenger_client import (
    Client,
    MemoryStore,
    Options,
    Outgoing,
    Problem,
    SessionEnded,
    Tokens,
    Unreachable,
)

pytestmark = pytest.mark.anyio

Answer = httpx.Response | Exception
LATER = 10_000_000_000.0


class Script:
    """Answers each path with the next of its answers; notes what was asked."""

    def __init__(self, **answers: list[Answer]) -> None:
        self._answers: dict[str, Iterator[Answer]] = {
            name.replace("_", "-"): iter(listed) for name, listed in answers.items()
        }
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers[request.url.path.rstrip("/").rsplit("/", 1)[-1]])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def bodies(self, name: str) -> list[dict[str, object]]:
        return [json.loads(it.content) for it in self.asked if name in it.url.path]


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    document = {"type": "/p", "title": "t", "status": status, "detail": "d", "code": code}
    return httpx.Response(
        status, json=document, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def pair(number: int) -> httpx.Response:
    tokens = {"access_token": f"a{number}", "refresh_token": f"r{number}", "expires_in": 900}
    return httpx.Response(200, json=tokens)


def me() -> httpx.Response:
    return httpx.Response(200, json={"id": 1})


MakeClient = Callable[..., tuple[Client, MemoryStore]]


@pytest.fixture
async def make() -> "Iterator[MakeClient]":
    """A client of a scripted server, signed in with tokens that last, unless told otherwise."""
    made: list[Client] = []

    async def begin(script: Script, *, expires_at: float = LATER) -> tuple[Client, MemoryStore]:
        store = MemoryStore()
        await store.save_tokens(Tokens("a0", "r0", expires_at))
        options = Options(
            backoff_first=0.01, backoff_most=0.02, transport=httpx.MockTransport(script)
        )
        client = Client("http://server.invalid", store, options=options)
        made.append(client)
        return client, store

    yield begin
    for client in made:
        await client.close()


async def test_a_send_is_tried_with_one_id_until_there_is_an_answer(make: MakeClient) -> None:
    script = Script(
        messages=[
            httpx.ConnectError("refused"),
            problem(503, "unavailable"),
            problem(429, "rate_limited", Retry_After="1"),
            httpx.ReadError("cut"),
            httpx.Response(502, text="<html>bad gateway</html>"),
            httpx.Response(200, text="<html>a captive portal</html>"),
            httpx.Response(201, json={"id": 5, "text": "hello"}),
        ]
    )
    client, store = await make(script)
    began = time.monotonic()
    assert (await client.send_message(7, "hello"))["id"] == 5
    assert time.monotonic() - began >= 1.0, "Retry-After was not honoured"
    assert len({str(body) for body in script.bodies("messages")}) == 1
    assert len(script.asked) == 7
    assert await store.list_outgoing() == []


async def test_sends_into_one_chat_wait_for_each_other(make: MakeClient) -> None:
    answers: list[Answer] = [httpx.ConnectError("refused"), problem(403, "not_allowed")]
    answers += [httpx.Response(201, json={"id": n}) for n in range(2)]
    script = Script(messages=answers)
    client, store = await make(script)
    await store.put_outgoing(Outgoing("first", {"chat_id": 7, "text": "0"}))
    texts = ("1", "2")
    await asyncio.gather(*(client.send_message(7, text) for text in texts))
    assert [body["text"] for body in script.bodies("messages")] == ["0", "0", "1", "2"]


async def test_only_a_refusal_ends_a_session(make: MakeClient) -> None:
    script = Script(
        refresh_token=[
            problem(500, "internal_error"),
            problem(429, "rate_limited", Retry_After="0"),
            httpx.ReadError("cut"),
            pair(1),
            problem(401, "token_refused"),
        ],
        me=[me(), problem(401, "token_refused")],
    )
    client, store = await make(script, expires_at=0.0)
    assert await client.call("GET", "/users/me") == {"id": 1}
    assert {str(body["refresh_token"]) for body in script.bodies("refresh")} == {"r0"}
    with pytest.raises(SessionEnded):
        await client.call("GET", "/users/me")
    tokens = await store.load_tokens()
    assert tokens is not None
    assert tokens.refresh_token == "r1"


async def test_callers_share_one_renewal(make: MakeClient) -> None:
    script = Script(refresh_token=[pair(1)], me=[problem(401, "token_refused")] * 3 + [me()] * 3)
    client, _ = await make(script)
    answers = await asyncio.gather(*(client.call("GET", "/users/me") for _ in range(3)))
    assert answers == [{"id": 1}] * 3
    used = [it.headers["authorization"] for it in script.asked if it.method == "GET"]
    assert used == ["Bearer a0"] * 3 + ["Bearer a1"] * 3


async def test_what_changes_something_is_not_repeated_by_itself(make: MakeClient) -> None:
    script = Script(
        chats=[httpx.ReadError("cut"), httpx.ReadError("cut"), me(), problem(409, "taken")]
    )
    client, _ = await make(script)
    with pytest.raises(Unreachable):
        await client.call("POST", "/chats/", {})
    assert await client.call("GET", "/chats/") == {"id": 1}
    with pytest.raises(Problem) as refusal:
        await client.call("POST", "/chats/", {})
    assert (refusal.value.status, refusal.value.code) == (409, "taken")


async def test_a_file_goes_up_once_more_with_a_new_token(make: MakeClient, tmp_path: Path) -> None:
    stored = httpx.Response(201, json={"id": 7})
    refused = problem(401, "token_refused")
    script = Script(refresh_token=[pair(1)], upload=[refused, stored, stored])
    client, _ = await make(script)
    path = tmp_path / "beach.jpg"
    path.write_bytes(b"\xff\xd8 a photo")
    assert await client.upload(path) == {"id": 7}
    assert await client.upload(b"words", name="diary.txt", purpose="document") == {"id": 7}
    uploads = [it for it in script.asked if it.url.path.endswith("/upload")]
    assert [it.headers["authorization"] for it in uploads] == [
        "Bearer a0",
        "Bearer a1",
        "Bearer a1",
    ]
    for request in uploads[:2]:
        assert b'name="file"; filename="beach.jpg"' in request.content
        assert b"\xff\xd8 a photo\r\n" in request.content
    # What it is for stands before it.
    field, file = (uploads[2].content.index(it) for it in (b'name="purpose"', b'name="file"'))
    assert field < file


def contents_of(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.iterdir()]


async def test_a_download_is_whole_or_not_there(make: MakeClient, tmp_path: Path) -> None:
    async def break_off() -> AsyncIterator[bytes]:
        yield b"half of"
        raise httpx.ReadError("cut")

    script = Script(
        photo=[
            httpx.Response(200, content=break_off()),
            problem(404, "file_not_found"),
            httpx.Response(200, content=b"the picture"),
        ]
    )
    client, _ = await make(script)
    path = tmp_path / "copy.jpg"
    with pytest.raises(Unreachable):
        await client.download("/api/v1/files/photo", path)
    with pytest.raises(Problem) as refusal:
        await client.download("/api/v1/files/photo", path)
    assert refusal.value.code == "file_not_found"
    assert contents_of(tmp_path) == []
    await client.download("/api/v1/files/photo", path)
    assert contents_of(tmp_path) == [b"the picture"]
    assert {it.headers["authorization"] for it in script.asked} == {"Bearer a0"}
