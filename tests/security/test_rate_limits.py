"""Limits of calls and frames, attacked from outside: many at once, on all workers, under other names."""

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.openapi import Operation
from tests.support.own_deployments import own_deployment
from tests.support.people import API, Backend, Deployment, Person, new_id
from tests.support.servers import TEST_ENVIRONMENT, Server
from tests.support.sockets import FrameRefused
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

CALLS = 20
CODES = 6
TIGHT = {
    "TRUSTED_PROXIES": "127.0.0.1/32",
    "RATE_LIMIT_REQUESTS": str(CALLS),
    "RATE_LIMIT_WINDOW": "600",
    "RATE_LIMIT_SIGN_IN": "10",
    "RATE_LIMIT_CODE_CHECKS": str(CODES),
    "RATE_LIMIT_SEARCH": "3",
    "RATE_LIMIT_CONTACT_IMPORT": "2",
    "RATE_LIMIT_SENDS": "8",
    "RATE_LIMIT_SENDS_PER_CHAT": "5",
    "RATE_LIMIT_TYPING": "3",
    "RATE_LIMIT_READS": "3",
    "RATE_LIMIT_CATCH_UP": "3",
    "RATE_LIMIT_CALLS": "3",
    "RATE_LIMIT_SOCKETS": "4",
    "RATE_LIMIT_UPLOADS": "3",
    "RATE_LIMIT_UPLOAD_PARTS": "3",
    "RATE_LIMIT_DOWNLOADS": "3",
    "RATE_LIMIT_OUTREACH_NEW": "3",
}
# Structured fields (RFC 9651): a list of strings with integer parameters.
_POLICY = re.compile(r'"[a-z-]+";q=\d+;w=\d+(, "[a-z-]+";q=\d+;w=\d+)*')
_STATE = re.compile(r'"[a-z-]+";r=\d+;t=\d+(, "[a-z-]+";r=\d+;t=\d+)*')


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tight(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        own_deployment(request, Path(directory), TIGHT) as made,
    ):
        yield made


@pytest.fixture
async def limited(tight: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(tight, stack)


async def sign_up(backend: Backend) -> Person:
    """From an address of one's own: those of the tests are not the limits of each other."""
    address = {"X-Forwarded-For": new_address()}
    stranger = backend.stranger()
    phone = backend.deployment.next_phone()
    sent = await stranger.call("POST", "/auth/send-verification", {"phone": phone}, headers=address)
    body = {
        "verification_id": sent.json()["verification_id"],
        "code": backend.deployment.codes(phone)[-1],
        "first_name": "Anna",
    }
    answer = await stranger.call("POST", "/auth/verify-code", body, headers=address)
    assert answer.status_code == 200, answer.text
    return Person(backend, answer.json(), phone=phone)


_addresses = iter(range(1, 250))


def new_address() -> str:
    return f"198.51.100.{next(_addresses)}"


def again(person: Person) -> Person:
    """The same device on the next node."""
    return Person(person.backend, person.tokens, phone=person.phone)


async def flood(person: Person, count: int, path: str = "/users/me") -> list[httpx.Response]:
    """All at once, over all nodes and (by connections of their own) all workers."""
    callers = [again(person) for _ in range(count)]
    return list(await asyncio.gather(*(caller.call("GET", path) for caller in callers)))


def check_limited(answer: httpx.Response) -> None:
    assert answer.status_code == 429
    assert answer.json()["code"] == "rate_limited"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Cache-Control"] == "no-store"
    assert _POLICY.fullmatch(answer.headers["RateLimit-Policy"]), answer.headers
    assert _STATE.fullmatch(answer.headers["RateLimit"]), answer.headers


async def test_one_counter_holds_for_all_workers_and_devices(limited: Backend) -> None:
    anna, bruno = await sign_up(limited), await sign_up(limited)
    answers = await flood(anna, 3 * CALLS)
    statuses = Counter(answer.status_code for answer in answers)
    # The window slides: in the seconds of this test at most one place comes free again.
    assert CALLS <= statuses[200] <= CALLS + 1, statuses
    assert statuses[200] + statuses[429] == 3 * CALLS, statuses
    for answer in answers:
        if answer.status_code == 429:
            check_limited(answer)
        else:
            assert answer.headers["RateLimit-Policy"] == f'"api";q={CALLS};w=600'
            assert _STATE.fullmatch(answer.headers["RateLimit"])
    # Nobody else is concerned, from the same address.
    assert (await bruno.call("GET", "/users/me")).status_code == 200


async def test_a_spent_account_cannot_make_the_server_read_a_body(limited: Backend) -> None:
    anna = await sign_up(limited)
    await flood(anna, 2 * CALLS)
    answer = await anna.call("PUT", "/users/me", content=b"{" + b" " * 500_000)
    check_limited(answer)


async def test_bad_tokens_use_up_the_address_and_not_the_account(limited: Backend) -> None:
    anna = await sign_up(limited)
    forged = {"Authorization": f"Bearer {anna.access_token[:-6]}AAAAAA"}
    head = forged | {"X-Forwarded-For": new_address()}
    statuses = Counter(
        [
            (await limited.stranger().call("GET", "/users/me", headers=head)).status_code
            for _ in range(CALLS + 5)
        ]
    )
    assert statuses[401] in {CALLS, CALLS + 1}, statuses
    assert statuses[429] >= 4, statuses
    # The same address with a good token is not in its way.
    good = {"X-Forwarded-For": head["X-Forwarded-For"]}
    assert (await anna.call("GET", "/users/me", headers=good)).status_code == 200


async def try_codes(backend: Backend, address: str, count: int) -> list[int]:
    body = {"verification_id": "x" * 32, "code": "123456"}
    head = {"X-Forwarded-For": address}
    return [
        (await backend.stranger().call("POST", "/auth/verify-code", body, headers=head)).status_code
        for _ in range(count)
    ]


async def test_codes_are_tried_so_often_from_a_home_and_no_more(limited: Backend) -> None:
    home = "2001:db8:7:8::"
    statuses: list[int] = []
    for number in range(CODES + 4):
        # Every home has 2^64 addresses: a new one for each try is still the same caller.
        statuses += await try_codes(limited, f"{home}{number + 1:x}", 1)
    assert Counter(statuses) == {400: CODES, 429: 4}
    # The neighbours may go on, and so may those whose address the caller only claims to have.
    assert await try_codes(limited, "2001:db8:7:9::1", 1) == [400]
    assert await try_codes(limited, f"192.0.2.77, {home}77", 1) == [429]


async def test_sends_count_over_http_and_frames_together(limited: Backend) -> None:
    anna, bruno, clara = [await sign_up(limited) for _ in range(3)]
    chat, other = await anna.private_chat(bruno), await anna.private_chat(clara)
    socket = await anna.connect()
    for _ in range(2):
        await anna.say(chat, "over HTTP")
    for _ in range(3):
        await socket.request("send_message", {"chat_id": chat["id"], "text": "by frame"})
    # Five to one chat; both doors are shut now, and the socket stays open.
    refused = await socket.refused(
        "send_message", {"chat_id": chat["id"], "text": "x"}, "rate_limited"
    )
    assert refused["retry_after"] >= 1
    body = {"chat_id": chat["id"], "text": "x", "client_message_id": new_id()}
    answer = await anna.call("POST", "/messages/", body)
    check_limited(answer)
    assert '"sends-chat";r=0' in answer.headers["RateLimit"]
    # To another chat the account's own limit holds, at eight.
    statuses = [
        (await anna.call("POST", "/messages/", body | {"chat_id": other["id"]})).status_code
        for _ in range(5)
    ]
    assert 429 in statuses
    assert statuses[0] == 201
    # Nothing of it draws on other calls, and what the others say is no concern of hers.
    await anna.get("/users/me", expect=200)
    await bruno.say(chat, "hello")
    await socket.request("typing", {"chat_id": chat["id"], "action": "typing"})


@pytest.mark.parametrize("content", [b"{", b"{}", b"x" * 100_000])
async def test_what_is_no_message_counts_as_a_call(limited: Backend, content: bytes) -> None:
    anna = await sign_up(limited)
    statuses = Counter(
        [
            (await anna.call("POST", "/messages/", content=content)).status_code
            for _ in range(CALLS + 5)
        ]
    )
    assert statuses[400] + statuses[422] == CALLS, statuses
    assert statuses[429] == 5
    check_limited(await anna.call("GET", "/users/me"))


@pytest.mark.parametrize("kind", ["send_message", "typing", "nonsense"])
async def test_frames_that_are_none_count_as_calls(limited: Backend, kind: str) -> None:
    anna = await sign_up(limited)
    socket = await anna.connect()
    codes: Counter[str] = Counter()
    for _ in range(CALLS + 5):
        with pytest.raises(FrameRefused) as refused:
            await socket.request(kind, {"chat_id": "x"})
        codes[refused.value.problem["code"]] += 1
    assert codes["rate_limited"] >= 5, codes
    check_limited(await anna.call("GET", "/users/me"))


async def test_a_burst_of_sends_ends_and_the_minute_is_not_used_up(directory: Path) -> None:
    with Server(directory, {"RATE_LIMIT_SENDS_BURST": "5"}) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna = await backend.sign_up()
            chat = await anna.private_chat(anna)
            body = {"chat_id": chat["id"], "text": "x"}
            answers = await asyncio.gather(
                *(anna.call("POST", "/messages/", body) for _ in range(12))
            )
            refused = [answer for answer in answers if answer.status_code == 429]
            assert len(refused) == 7
            check_limited(refused[0])
            assert '"sends-burst";q=5;w=10' in refused[0].headers["RateLimit-Policy"]
            assert int(refused[0].headers["Retry-After"]) <= 10
            assert (await anna.call("GET", "/users/me")).status_code == 200


@pytest.mark.parametrize("kind", ["typing", "read", "resume", "call"])
async def test_frames_of_each_kind_have_a_limit_of_their_own(limited: Backend, kind: str) -> None:
    anna, bruno = await sign_up(limited), await sign_up(limited)
    chat = await anna.private_chat(bruno)
    message = await bruno.say(chat, "hello")
    socket = await anna.connect()
    data = {
        "typing": {"chat_id": chat["id"], "action": "typing"},
        "read": {"chat_id": chat["id"], "message_id": message["id"]},
        "resume": {"epoch": socket.hello["epoch"], "state": {}},
        "call": {
            "call_id": new_id(),
            "chat_id": chat["id"],
            "kind": "audio",
            "action": "offer",
            "sdp": "v=0",
        },
    }[kind]
    for _ in range(3):
        await socket.request(kind, data)
    for _ in range(2):
        refused = await socket.refused(kind, data, "rate_limited")
        assert refused["retry_after"] >= 1
    await socket.request("ping")
    # The same over HTTP, where there is such a call.
    match kind:
        case "read":
            body = {"message_id": message["id"]}
            check_limited(await anna.call("POST", f"/chats/{chat['id']}/read", body))
        case "resume":
            body = {"epoch": socket.hello["epoch"], "state": {}}
            check_limited(await anna.call("POST", "/updates/difference", body))
        case _:
            pass


async def test_sockets_are_opened_so_often_and_no_more(limited: Backend) -> None:
    anna = await sign_up(limited)
    for _ in range(4):
        await (await anna.connect(token=anna.access_token)).close()
    socket = await anna.connect(token=anna.access_token, hello=False)
    await socket.expect_close(4429)


async def test_sockets_of_strange_chats_count_as_those_that_open(limited: Backend) -> None:
    """Else a good token asks for one chat after the other, and each costs a look into the database."""
    anna, bruno = await sign_up(limited), await sign_up(limited)
    strange = await bruno.group("Strange")
    for chat_id in (strange["id"], 1_000_000, 1_000_001, strange["id"]):
        socket = await anna.connect(token=anna.access_token, chat_id=chat_id, hello=False)
        await socket.expect_close(4403)
    for chat_id in (strange["id"], 1_000_002):
        socket = await anna.connect(token=anna.access_token, chat_id=chat_id, hello=False)
        await socket.expect_close(4429)
    socket = await anna.connect(token=anna.access_token, hello=False)
    await socket.expect_close(4429)


async def test_guessing_tickets_ends_with_4429(limited: Backend) -> None:
    anna = await sign_up(limited)
    head = {"X-Forwarded-For": new_address()}
    codes: Counter[int | None] = Counter()
    for number in range(CALLS + 5):
        token = f"{anna.access_token[:-8]}{number:08}"
        socket = await limited.stranger().connect(token=token, hello=False, additional_headers=head)
        await socket.closed()
        codes[socket.close_code] += 1
    assert codes.keys() == {4401, 4429}
    assert codes[4401] in {CALLS, CALLS + 1}
    # From there tickets are not even looked at; a signed token needs no look into the database.
    if limited.name == "sqlite":  # of several workers each learns it by its own refusal
        ticket = await anna.ticket()
        refused = await anna.connect(token=ticket, hello=False, additional_headers=head)
        await refused.expect_close(4429)
    await (await anna.connect(token=anna.access_token, additional_headers=head)).settle()


async def test_a_new_account_turns_to_so_many_people_and_no_more(limited: Backend) -> None:
    anna = await sign_up(limited)
    others = [await sign_up(limited) for _ in range(4)]
    chats = [await anna.private_chat(others[n]) for n in range(2)]
    group = await anna.group("Three of three")
    for body in (
        {"type": "private", "user_id": others[2].id},
        {"type": "group", "title": "x"},
        {"type": "channel", "title": "x"},
    ):
        check_limited(await anna.call("POST", "/chats/", body))
    members = {"user_ids": [others[3].id]}
    check_limited(await anna.call("POST", f"/chats/{group['id']}/members", members))
    check_limited(await anna.call("POST", f"/chats/{group['id']}/invites", {}))
    # Whom one has talked to already, and oneself, one may turn to again.
    assert (await anna.private_chat(others[0]))["id"] == chats[0]["id"]
    await anna.private_chat(anna)
    # And whoever is turned to may answer.
    await others[0].say(chats[0], "hello")


async def test_who_scrolls_and_writes_meets_no_limit(directory: Path) -> None:
    """Two busy minutes of one person, done as fast as it goes, against the defaults."""
    defaults = {name: "" for name in TEST_ENVIRONMENT if name.startswith("RATE_LIMIT_")}
    with Server(directory, defaults) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            anna, *others = await backend.people(4)
            chats = [await anna.private_chat(other) for other in others]
            socket = await anna.connect()
            for round_number in range(3):
                for chat, other in zip(chats, others, strict=True):
                    for _ in range(3):
                        await socket.request("typing", {"chat_id": chat["id"], "action": "typing"})
                        await anna.say(chat, "written")
                    told = await other.say(chat, "answered")
                    await socket.request("read", {"chat_id": chat["id"], "message_id": told["id"]})
                # The chat list, three profiles, thirty pages up, a search, a line that was lost.
                await anna.get("/chats/", expect=200)
                for other in others:
                    await anna.get(f"/users/{other.id}", expect=200)
                path = f"/messages/chat/{chats[round_number]['id']}"
                for _ in range(30):
                    await anna.get(path, limit=50, expect=200)
                for letters in ("bru", "brun", "bruno"):
                    await anna.get("/users/search", q=letters, expect=200)
                socket = await anna.connect()
                epoch = socket.hello["epoch"]
                await socket.request("resume", {"epoch": epoch, "state": {}})
                body = {"epoch": epoch, "state": {"user": 0}}
                await anna.post("/updates/difference", body, expect=200)
        server.stop()


async def test_every_route_of_the_document_is_limited(limited: Backend) -> None:
    """A new route is limited without anybody thinking of it."""
    anna = await sign_up(limited)
    address = {"X-Forwarded-For": new_address()}
    for operation in limited.deployment.openapi.operations:
        if operation.path.startswith(API):
            await expect_limited(anna, operation, address)


async def expect_limited(person: Person, operation: Operation, address: dict[str, str]) -> None:
    """Wrong bodies and ids that nobody has count as well: they are refused after the limit."""
    path = operation.path.removeprefix(API)
    path = path.replace("{code}", "A" * 32)
    path = re.sub(r"\{\w+\}", "999999", path)
    content = b"{" if operation.takes_json else None
    query = {"q": "anna", "username": "nobody_at_all"}
    signed_out = path in {"/auth/refresh-token", "/auth/send-verification"}
    caller = person.backend.stranger() if signed_out else person

    async def is_limited() -> bool:
        answer = await caller.call(
            operation.method.upper(), path, content=content, headers=address, query=query
        )
        return answer.status_code == 429

    await eventually(is_limited, timeout_seconds=20, what=f"{operation} is limited")
