"""deploy/nginx.conf under the real nginx: who the client is, what is logged, what is let through."""

import asyncio
import itertools
import json
import os
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect

from app.transport.http.security_headers import SECURITY_HEADERS
from tests.deploy.dockerfile import ROOT
from tests.deploy.proxy import Proxy, run_echo, run_nginx
from tests.support.certificates import make_certificate
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END

API = "/api/v1"
MIB = 1_048_576
SECRET = "Zk3-this-must-not-be-logged_9Q"
FORGED = {
    "X-Forwarded-For": "9.9.9.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Real-IP": "9.9.9.9",
    "Forwarded": "for=9.9.9.9",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unlike tmp_path, also open to nginx's own user."""
    path = Path(tempfile.mkdtemp(prefix="messenger-nginx-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def echo(folder: Path) -> AsyncIterator[Proxy]:
    async with run_echo() as port:
        with run_nginx(folder / "nginx", port) as proxy:
            yield proxy


def client(proxy: Proxy, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=proxy.base_url, trust_env=False, timeout=30, **options)


async def headers_seen(proxy: Proxy, path: str, headers: dict[str, str]) -> dict[str, list[str]]:
    async with client(proxy) as http:
        pairs = (await http.get(path, headers=headers)).json()
    seen: dict[str, list[str]] = {}
    for name, value in pairs:
        seen.setdefault(name, []).append(value)
    return seen


@pytest.mark.parametrize("path", [f"{API}/users/me", f"{API}/ws/{SECRET}"])
async def test_the_server_learns_the_real_client_and_nothing_that_was_forged(
    echo: Proxy, path: str
) -> None:
    seen = await headers_seen(echo, path, FORGED)
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["http"]
    assert not {"x-forwarded-host", "x-real-ip", "forwarded"} & seen.keys()


async def test_only_websocket_paths_may_change_the_protocol(echo: Proxy) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    elsewhere = await headers_seen(echo, f"{API}/users/me", upgrade)
    assert "upgrade" not in elsewhere
    there = await headers_seen(echo, f"{API}/ws/{SECRET}", upgrade)
    assert there["upgrade"] == ["websocket"]
    assert there["connection"] == ["upgrade"]


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"{API}/ws/{SECRET}", f"{API}/ws/-"),
        (f"{API}/ws/chat/42/{SECRET}", f"{API}/ws/chat/42/-"),
        (f"{API}/ws/chat/{SECRET}/1", f"{API}/ws/-"),
        (f"{API}//ws/{SECRET}", f"{API}/ws/-"),
        (f"/API/V1/WS/{SECRET}", "/API/V1/WS/-"),
        (f"{API}/%77s/{SECRET}", f"{API}/ws/-"),
        (f"/ws/{SECRET}", "/ws/-"),
        (f"{API}/ws/{SECRET}?token={SECRET}", f"{API}/ws/-"),
        (f"{API}/users/me?access_token={SECRET}", f"{API}/users/me"),
    ],
)
async def test_a_token_in_a_path_or_query_is_not_logged(
    echo: Proxy, path: str, logged: str
) -> None:
    async with client(echo) as http:
        await http.get(path, headers={"Referer": f"http://x/{SECRET}", "User-Agent": SECRET})
    line = json.loads(echo.wait_for_line(f'"{logged}"'))
    assert line["client"] == "127.0.0.1"
    assert line["status"] == httpx.codes.OK
    assert SECRET not in echo.logged()


async def test_a_token_is_not_logged_when_the_server_is_down(folder: Path) -> None:
    with run_nginx(folder / "nginx", free_port()) as proxy:
        async with client(proxy) as http:
            answer = await http.get(f"{API}/ws/{SECRET}")
        proxy.wait_for_line(f"{API}/ws/-")
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert SECRET not in proxy.logged()


async def test_what_nginx_refuses_itself_is_a_problem_document_too(folder: Path) -> None:
    with run_nginx(folder / "nginx", free_port()) as proxy:
        async with client(proxy) as http:
            down = await http.get(f"{API}/users/me")
            large = await http.post(f"{API}/messages/", content=b"x" * 3_000_000)
    assert down.status_code == down.json()["status"] == httpx.codes.SERVICE_UNAVAILABLE
    assert (down.json()["code"], large.json()["code"]) == ("unavailable", "too_large")
    assert int(down.headers["retry-after"]) > 0
    assert large.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    for answer in (down, large):
        assert answer.headers["content-type"] == "application/problem+json"
        assert "nginx/" not in answer.headers["server"]
        assert "strict-transport-security" not in answer.headers
        check_headers(answer)


def check_headers(answer: httpx.Response) -> None:
    """As of the server's own answers, and each once."""
    for name, value in SECURITY_HEADERS:
        # What isolates a page says nothing of a document that no page is made of.
        if not name.startswith((b"cross-origin-", b"permissions-")):
            assert answer.headers.get_list(name.decode()) == [value.decode()], name
    assert answer.headers.get_list("cache-control") == ["no-store"]
    for name in ("retry-after", "strict-transport-security"):
        assert len(answer.headers.get_list(name)) <= 1, name


async def test_over_tls_every_answer_pins_it_once(folder: Path) -> None:
    tls = folder / "tls"
    make_certificate(tls)
    shutil.copy(ROOT / "deploy" / "tls.conf", tls)
    trust = ssl.create_default_context(cafile=str(tls / "fullchain.pem"))
    with (
        Server(folder / "server", {"TRUSTED_PROXIES": "127.0.0.1/32"}) as server,
        run_nginx(folder / "nginx", server.port, tls=tls) as proxy,
    ):
        async with client(proxy, verify=trust) as http:
            url = f"{proxy.tls_url}{API}"
            own = await http.get(f"{url}/users/me")
            large = await http.post(f"{url}/messages/", content=b"x" * 3_000_000)
            server.stop()
            down = await http.get(f"{url}/users/me")
    assert [it.status_code for it in (own, large, down)] == [401, 413, 503]
    pinned = own.headers.get_list("strict-transport-security")
    for answer in (own, large, down):
        check_headers(answer)
        assert answer.headers.get_list("strict-transport-security") == pinned
    assert len(pinned) == 1


async def test_an_upload_of_any_size_goes_through_as_it_comes(folder: Path) -> None:
    """The upstream answers the head before the body is all there: nothing waited for it on the way."""
    has_begun = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        async with asyncio.timeout(30):
            await has_begun.wait()
        yield b"x" * 3_000_000

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1_000_000)
        has_begun.set()
        taken = 1_000_000
        while taken < 6_000_000:
            taken += len(await reader.read(65_536))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with run_nginx(folder / "nginx", port) as proxy:
        async with server, client(proxy) as http:
            answer = await http.post(
                f"{API}/files/upload", content=body(), headers={"Content-Length": "6000000"}
            )
    assert answer.status_code == httpx.codes.CREATED


async def test_one_server_of_two_is_enough_whichever_was_away_before(folder: Path) -> None:
    ports = free_port(), free_port()
    with run_nginx(folder / "nginx", *ports) as proxy:
        for port in (*ports, *ports):
            async with run_echo(port), client(proxy) as http:
                answers = [await http.get(f"{API}/users/me") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [httpx.codes.OK] * 4


async def test_with_tls_conf_it_speaks_tls_and_sends_plain_http_there(folder: Path) -> None:
    tls = folder / "tls"
    make_certificate(tls)
    shutil.copy(ROOT / "deploy" / "tls.conf", tls)
    trust = ssl.create_default_context(cafile=str(tls / "fullchain.pem"))
    async with run_echo() as port:
        with run_nginx(folder / "nginx", port, tls=tls) as proxy:
            async with client(proxy, verify=trust) as http:
                plain = await http.get(f"{API}/users/me")
                secure = await http.get(f"{proxy.tls_url}{API}/users/me")
    assert plain.status_code == httpx.codes.PERMANENT_REDIRECT
    assert plain.headers["location"].startswith("https://")
    assert ["x-forwarded-proto", "https"] in secure.json()
    assert "max-age" in secure.headers["strict-transport-security"]


class Installation(NamedTuple):
    """The server as it is deployed: nginx before it, and only nginx trusted to name the client."""

    proxy: Proxy
    server: Server


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    directory = Path(tempfile.mkdtemp(prefix="messenger-nginx-"))
    directory.chmod(0o755)
    overrides = {"TRUSTED_PROXIES": "127.0.0.1/32", "SMS_LIMIT_PER_ADDRESS": "3"}
    try:
        with (
            Server(directory / "server", overrides) as server,
            run_nginx(directory / "nginx", server.port) as proxy,
        ):
            yield Installation(proxy, server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def sign_in(http: httpx.AsyncClient, server: Server, phone: str) -> dict[str, str]:
    """The header of a new account."""
    answer = await http.post(f"{API}/auth/send-verification", json={"phone": phone})
    body = {
        "verification_id": answer.raise_for_status().json()["verification_id"],
        "code": server.codes(phone)[-1],
        "first_name": "Anna",
    }
    answer = await http.post(f"{API}/auth/verify-code", json=body)
    access_token = answer.raise_for_status().json()["access_token"]
    return {"Authorization": f"Bearer {access_token}"}


async def test_a_websocket_opens_through_nginx_and_its_token_is_in_no_log(
    installation: Installation,
) -> None:
    proxy, server = installation
    async with client(proxy) as http:
        headers = await sign_in(http, server, "+491701111111")
        access_token = headers["Authorization"].removeprefix("Bearer ")
        answer = await http.post(f"{API}/auth/ws-ticket", json={}, headers=headers)
        ticket = answer.raise_for_status().json()["ticket"]
    for token in (ticket, access_token):
        url = f"{proxy.websocket_url}{API}/ws/{token}"
        async with connect(url, proxy=None) as socket:
            assert json.loads(await socket.recv())["type"] == "hello"
            await socket.send(json.dumps({"type": "ping", "data": {}}))
            assert json.loads(await socket.recv())["type"] == "pong"
    line = json.loads(proxy.wait_for_line(f'"{API}/ws/-"'))
    assert line["status"] == httpx.codes.SWITCHING_PROTOCOLS
    written = proxy.logged() + server.log() + server.output()
    assert ticket not in written
    assert access_token not in written


async def test_a_large_file_passes_nginx_and_never_lies_on_its_disk(
    installation: Installation,
) -> None:
    proxy, server = installation
    content = os.urandom(MIB) * 8
    async with client(proxy) as http:
        headers = await sign_in(http, server, "+491701111112")
        seen: set[Path] = set()

        async def body() -> AsyncIterator[bytes]:
            yield FILE_HEAD
            for start in range(0, len(content), MIB):
                yield content[start : start + MIB]
                seen.update(list_bodies(proxy))
            yield FORM_END

        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = await http.post(f"{API}/files/upload", content=body(), headers=headers | kind)
        file = answer.raise_for_status().json()
        read = await http.get(file["url"], headers=headers | {"Range": "bytes=1-8388606"})
        assert read.status_code == httpx.codes.PARTIAL_CONTENT
        assert read.content == content[1:-1]
    assert seen == set()


def list_bodies(proxy: Proxy) -> list[Path]:
    """What nginx keeps of bodies that it passes on."""
    return [path for path in proxy.bodies.rglob("*") if path.is_file()]


async def ask_for_code(
    proxy: Proxy, phone: str, *, from_address: str, forged: str | None = None
) -> int:
    """The status of asking for a code from this address of the machine."""
    transport = httpx.AsyncHTTPTransport(local_address=from_address)
    headers = {"X-Forwarded-For": forged} if forged else {}
    async with client(proxy, transport=transport) as http:
        body = {"phone": phone}
        answer = await http.post(f"{API}/auth/send-verification", json=body, headers=headers)
    return answer.status_code


async def test_limits_count_the_real_client_whatever_it_claims(installation: Installation) -> None:
    proxy, _ = installation
    phones = (f"+49170222{number:04d}" for number in itertools.count())
    try:
        greedy = [
            await ask_for_code(proxy, next(phones), from_address="127.0.0.2") for _ in range(4)
        ]
    except httpx.ConnectError:
        pytest.skip("this system has one loopback address only")
    assert greedy == [200, 200, 200, 429]
    lying = await ask_for_code(proxy, next(phones), from_address="127.0.0.2", forged="203.0.113.9")
    assert lying == httpx.codes.TOO_MANY_REQUESTS
    other = await ask_for_code(proxy, next(phones), from_address="127.0.0.3")
    assert other == httpx.codes.OK
