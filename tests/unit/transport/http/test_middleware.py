"""The edge: request ids, the log line, the head of a request, clients behind proxies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest
import structlog
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.infra.deadline import ANSWER_SECONDS, seconds_left
from app.kernel.addresses import AddressForm
from app.transport.http.middleware import EdgeMiddleware, install_edge

URL = "/api/v1/things/"


@contextmanager
def captured() -> Iterator[list[dict[str, object]]]:
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        yield lines


async def test_a_sane_request_id_is_kept(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{URL}1", headers={"x-request-id": "abc-DEF_1.2"})
    assert answer.headers["x-request-id"] == "abc-DEF_1.2"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a;b", "caf\xe9", 'a"b'])
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    answer = await client.get(f"{URL}1", headers={"x-request-id": sent.encode("latin-1")})
    assert answer.headers["x-request-id"] not in {sent, ""}


async def test_two_requests_have_two_ids(client: httpx.AsyncClient) -> None:
    ids = {(await client.get(f"{URL}1")).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize("path", [f"{URL}1", "/nowhere", f"{URL}x"])
async def test_no_answer_is_stored_on_the_way(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).headers["cache-control"] == "no-store"


async def test_one_line_a_request_names_the_template(client: httpx.AsyncClient) -> None:
    with captured() as lines:
        await client.delete(f"{URL}12345")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["route"] == "/api/v1/things/{thing_id}"
    assert (line["method"], line["status"], line["client"]) == ("DELETE", 204, "10.1.2.0/24")
    assert "12345" not in str(line)


@pytest.mark.parametrize(
    ("form", "logged"), [("full", "10.1.2.3"), ("network", "10.1.2.0/24"), ("none", None)]
)
async def test_the_line_tells_of_the_address_what_it_may(
    app: FastAPI, form: AddressForm, logged: str | None
) -> None:
    edge = EdgeMiddleware(app.router, logged_addresses=form)
    transport = httpx.ASGITransport(edge, client=("10.1.2.3", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        with captured() as lines:
            await client.get("/nowhere")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line.get("client") == logged
    assert "client" not in line or logged is not None


async def test_an_unknown_path_is_not_logged(client: httpx.AsyncClient) -> None:
    with captured() as lines:
        await client.get("/ws/secret-token")
    assert "secret-token" not in str(lines)


async def test_a_bug_is_logged_once_with_its_route(client: httpx.AsyncClient) -> None:
    with captured() as lines:
        await client.put(f"{URL}5")
    assert [line["event"] for line in lines] == ["request_failed", "request"]
    assert lines[1]["status"] == 500


async def test_a_call_has_a_deadline_until_it_is_answered(client: httpx.AsyncClient) -> None:
    """A long body may take its time."""
    answer = await client.get(f"{URL}deadline/stream")
    before, after = map(float, answer.text.split())
    assert 0 < before <= ANSWER_SECONDS
    assert after == 100
    assert seconds_left(100) == 100


async def test_the_time_that_a_client_takes_to_send_is_not_held_against_the_call(
    client: httpx.AsyncClient,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"chat_id": 1,'
        await asyncio.sleep(0.5)
        yield b'"text": "hello"}'

    answer = await client.post(
        f"{URL}deadline/body", content=body(), headers={"content-type": "application/json"}
    )
    assert ANSWER_SECONDS - 0.4 < answer.json()["seconds"] <= ANSWER_SECONDS + 0.1


async def test_half_an_answer_is_cut_off_not_patched(client: httpx.AsyncClient) -> None:
    with pytest.raises(ConnectionAbortedError):
        await client.get(f"{URL}stream/half")


@pytest.mark.parametrize("host", ["a/?x=", "a b", "", "a@b", "a:x", "[::1", "-a", "x" * 300])
async def test_a_host_that_is_none_is_refused(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get(f"{URL}1", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "host_invalid")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "chat.example.org"])
async def test_a_host_passes(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get(f"{URL}1", headers={"host": host})).status_code == 200


async def test_headers_are_bounded(client: httpx.AsyncClient) -> None:
    many = [(f"x-{number}", "1") for number in range(101)]
    large = {"x-large": "x" * 40_000}
    for headers in (many, large):
        answer = await client.get(f"{URL}1", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "headers_too_large")


async def test_only_a_trusted_proxy_names_the_client(app: FastAPI) -> None:
    forged = {"x-forwarded-for": "6.6.6.6, 7.7.7.7"}
    for peer, expected in (("10.1.1.1", "7.7.7.7"), ("8.8.8.8", "8.8.8.8")):
        transport = httpx.ASGITransport(app, client=(peer, 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.get(f"{URL}address/mine", headers=forged)
        assert answer.json()["address"] == expected


async def test_a_websocket_with_a_bad_head_is_refused_before_the_handshake() -> None:
    app = FastAPI()
    install_edge(app, trusted_proxies=(), max_body_size=1000)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/ws/x",
        "scheme": "ws",
        "headers": [(b"host", b"a/?b")],
        "client": ("1.2.3.4", 5),
        "query_string": b"",
    }
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_request_that_the_stop_waits_no_longer_for_is_answered(app: FastAPI) -> None:
    entered = asyncio.Event()

    @app.get("/slow")
    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(app, client=("10.1.2.3", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        asking = asyncio.create_task(client.get("/slow"))
        await entered.wait()
        asking.cancel()
        answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"]
