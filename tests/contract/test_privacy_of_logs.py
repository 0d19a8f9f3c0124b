"""No phone, token, code, name or text in any line at any level, and none in what is stored."""

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from tests.support.people import Backend, Person
from tests.support.rows import dump
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class Story:
    """A day in the life of two people, with a marker in every private thing they say."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.words = {
            name: f"{name}{secrets.token_hex(6)}"
            for name in (
                "first",
                "last",
                "bio",
                "device",
                "text",
                "edited",
                "title",
                "description",
                "contact",
                "search",
                "sdp",
                "refused",
            )
        }

    def secrets(self) -> dict[str, str]:
        return self.words | self.tokens


async def live(backend: Backend) -> tuple[Story, Person]:
    story = Story()
    word = story.words
    anna = await backend.sign_up(
        first_name=word["first"], last_name=word["last"], device_name=word["device"]
    )
    bruno = await backend.sign_up()
    story.tokens = {
        "phone": anna.phone,
        "national phone": anna.phone.removeprefix("+49"),
        "access token": anna.access_token,
        "refresh token": anna.tokens["refresh_token"],
        "ticket": await anna.ticket(),
    }
    await anna.put("/users/me", {"bio": word["bio"]})
    contacts = [{"phone": bruno.phone, "first_name": word["contact"]}]
    await anna.post("/users/contacts", {"contacts": contacts})
    chat = await anna.private_chat(bruno)
    group = await anna.group(word["title"], [bruno], description=word["description"])
    link = [{"type": "text_link", "offset": 0, "length": 2, "url": f"https://{word['text']}.de/"}]
    message = await anna.say(chat, word["text"], entities=link)
    await anna.put(f"/messages/{message['id']}", {"text": word["edited"]})
    await anna.get("/users/search", q=word["search"])
    socket = await anna.connect(token=anna.access_token)
    await anna.connect(token=story.tokens["ticket"], chat_id=None)
    call = {"call_id": "7d9f4f0e-7a0f-4f1a-9d0e-0123456789ab", "chat_id": chat["id"]}
    await socket.request("call", {**call, "kind": "audio", "action": "offer", "sdp": word["sdp"]})
    await socket.request("send_message", {"chat_id": group["id"], "text": word["text"]})
    refused = {"phone": word["refused"]}
    await anna.post("/auth/send-verification", refused, expect=422)
    await anna.call("POST", "/messages/", content=b'{"text": "' + word["refused"].encode())
    await anna.get(f"/invites/{word['refused']}", expect=404)
    await anna.connect(token=word["refused"], hello=False)
    await socket.send_raw(word["refused"])
    await socket.expect_close(4400)
    headers = {"X-Forwarded-For": word["refused"], "User-Agent": word["refused"]}
    await anna.call("GET", "/users/me", headers=headers)
    return story, anna


def spellings(secret: str) -> Iterator[bytes]:
    """As it may stand in a file: plain, UTF-16, hexadecimal, base64 at any alignment."""
    raw = secret.encode()
    yield raw
    yield secret.encode("utf-16-le")
    yield raw.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + raw)
        yield encoded[2 * shift : len(encoded) - 4]


async def test_no_line_of_any_log_tells_anything_private(backend: Backend) -> None:
    story, anna = await live(backend)
    marker = f"last-{secrets.token_hex(8)}"
    await anna.call("GET", "/users/me", headers={"X-Request-ID": marker})

    def lines() -> str:
        return "".join(node.output() + node.log() for node in backend.deployment.nodes)

    async def written() -> bool:
        return marker in lines()

    await eventually(written, what="the line of the last request")
    text = lines()
    for name, secret in story.secrets().items():
        assert secret not in text, f"the {name} stands in a log: {context(text, secret)}"
    for phone in (anna.phone,):
        for code in backend.deployment.codes(phone):
            found = re.search(rf"(?<![\d.]){code}(?!\d)", text)
            assert not found, f"a code stands in a log: {context(text, code)}"


async def test_a_request_leaves_one_structured_line(backend: Backend) -> None:
    anna = await backend.sign_up()
    marker = f"line-{secrets.token_hex(8)}"
    await anna.call("GET", f"/users/{anna.id}", headers={"X-Request-ID": marker})

    def lines() -> list[str]:
        text = "".join(node.log() for node in backend.deployment.nodes)
        return [line for line in text.splitlines() if marker in line]

    async def written() -> bool:
        return bool(lines())

    await eventually(written, what="the line of the request")
    line = json.loads(lines()[0])
    assert line["request_id"] == marker
    assert line["user_id"] == anna.id
    assert line["status"] == 200
    assert line["route"] == "/api/v1/users/{user_id}"
    assert line["ms"] >= 0


async def test_nothing_private_is_stored_in_the_clear(backend: Backend) -> None:
    story, anna = await live(backend)
    stored = await dump(backend.deployment)
    assert str(anna.id).encode() in stored or backend.name == "sqlite"
    for name, secret in story.secrets().items():
        for spelling in spellings(secret):
            assert spelling not in stored, f"the {name} is stored in the clear"


async def test_nothing_private_passes_through_redis(backend: Backend) -> None:
    if "redis_url" not in backend.deployment.details:
        await live(backend)
        return
    with listen(backend.deployment.details["redis_url"]) as heard:
        story, _ = await live(backend)

        async def quiet() -> bool:
            return len(heard) > 0

        await eventually(quiet, what="something on Redis")
    everything = b"\0".join(heard)
    for name, secret in story.secrets().items():
        for spelling in spellings(secret):
            assert spelling not in everything, f"the {name} passed through Redis in the clear"


@contextmanager
def listen(url: str) -> Iterator[list[bytes]]:
    """All commands that Redis gets, as MONITOR shows them."""
    heard: list[bytes] = []
    client = redis.Redis.from_url(url)
    ready, ended = threading.Event(), threading.Event()

    def follow() -> None:
        with client.monitor() as monitor:
            ready.set()
            for command in monitor.listen():
                if ended.is_set():
                    return
                heard.append(str(command["command"]).encode())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield heard
    finally:
        ended.set()
        with redis.Redis.from_url(url) as waker:
            waker.ping()
        thread.join(5)
        client.close()


def context(text: str, secret: str) -> str:
    place = text.index(secret)
    return text[max(0, place - 200) : place + 200].replace(secret, "[...]")
