"""What browsers are told to refuse, on every kind of answer; and what the server does not tell."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.chromium import FLAGS, find_chromium
from tests.support.servers import Server

API = "/api/v1"
YEAR_SECONDS = 31_536_000
JSON = {"Content-Type": "application/json"}
# One request for each status that the edge, the framework or a slice answers.
ANSWERS: dict[str, tuple[int, str, str, dict[str, str], bytes]] = {
    "ok": (200, "GET", "/health/live", {}, b""),
    "page": (200, "GET", "/docs", {}, b""),
    "script": (200, "GET", "/docs/assets/swagger-ui-bundle.js", {}, b""),
    "document": (200, "GET", "/openapi.json", {}, b""),
    "not json": (400, "POST", f"{API}/auth/verify-code", JSON, b"{"),
    "no host": (400, "GET", "/health/live", {"Host": "a/?x="}, b""),
    "too many headers": (400, "GET", "/", {f"X-{n}": "1" for n in range(101)}, b""),
    "signed out": (401, "GET", f"{API}/users/me", {}, b""),
    "no such route": (404, "GET", "/nothing", {}, b""),
    "no such asset": (404, "GET", "/docs/assets/../../../etc/passwd", {}, b""),
    "trace": (405, "TRACE", f"{API}/users/me", {}, b""),
    "no such method": (405, "PATCH", f"{API}/users/me", {}, b""),
    "too large": (413, "POST", f"{API}/auth/verify-code", JSON, b" " * 1_100_000),
    "no json type": (415, "POST", f"{API}/auth/verify-code", {}, b"{}"),
    "too deep": (422, "POST", f"{API}/auth/verify-code", JSON, b"[" * 33 + b"]" * 33),
    "wrong values": (422, "POST", f"{API}/auth/verify-code", JSON, b'{"code": 1}'),
    "too often": (429, "GET", f"{API}/users/me", {"X-Forwarded-For": "192.0.2.9"}, b""),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = {"RATE_LIMIT_REQUESTS": "20", "TRUSTED_PROXIES": "127.0.0.1/32"}
    with (
        TemporaryDirectory(prefix="messenger-test-") as directory,
        Server(Path(directory), settings) as made,
    ):
        for _ in range(21):
            httpx.get(f"{made.base_url}{API}/users/me", headers={"X-Forwarded-For": "192.0.2.9"})
        yield made


def ask(server: Server, name: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    status, method, path, own, content = ANSWERS[name]
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        request = client.build_request(
            method, path, headers={**own, **(headers or {})}, content=content
        )
        answer = client.send(request)
    assert answer.status_code == status, answer.text
    return answer


def directives(policy: str) -> dict[str, list[str]]:
    parts = [part.split() for part in policy.split(";")]
    return {part[0]: part[1:] for part in parts if part}


def check_headers(headers: Mapping[str, str]) -> None:
    policy = directives(headers["Content-Security-Policy"])
    for name in ("default-src", "object-src", "base-uri", "frame-ancestors"):
        assert policy[name] == ["'none'"], policy
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "Server" not in headers
    assert "X-Powered-By" not in headers


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_carries_the_security_headers(server: Server, name: str) -> None:
    answer = ask(server, name)
    check_headers(answer.headers)
    assert "Strict-Transport-Security" not in answer.headers
    if answer.is_error:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store"


# What is refused while it is read is refused before anybody could say how it came.
@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"too many headers"}))
def test_over_https_browsers_are_told_to_stay_there(server: Server, name: str) -> None:
    answer = ask(server, name, {"X-Forwarded-Proto": "https"})
    policy = dict(
        part.strip().partition("=")[::2]
        for part in answer.headers["Strict-Transport-Security"].split(";")
    )
    assert int(policy["max-age"]) >= YEAR_SECONDS
    assert "includeSubDomains" in policy


@pytest.mark.parametrize("proto", ["http", "https, http", "ftp"])
def test_what_the_proxy_says_of_the_last_leg_counts(server: Server, proto: str) -> None:
    assert (
        "Strict-Transport-Security" not in ask(server, "ok", {"X-Forwarded-Proto": proto}).headers
    )


@pytest.mark.parametrize("bare", [False, True])
def test_nobody_but_a_proxy_of_ours_may_say_https(directory: Path, *, bare: bool) -> None:
    server = Server(directory)
    try:
        if bare:  # it believes loopback by itself
            server.start_uvicorn()
        else:
            server.start()
        answer = httpx.get(f"{server.base_url}/health/live", headers={"X-Forwarded-Proto": "https"})
        assert "Strict-Transport-Security" not in answer.headers
        assert "Server" not in answer.headers
    finally:
        server.stop()


def test_a_refused_handshake_carries_them_too(server: Server) -> None:
    url = f"{server.websocket_url}{API}/ws/token"
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(url, origin="https://evil.example", proxy=None),
    ):
        pass
    assert refusal.value.response.status_code == 403
    check_headers(refusal.value.response.headers)
    assert server.faults() == []


def test_bare_uvicorn_takes_a_refused_handshake_for_no_fault(directory: Path) -> None:
    server = Server(directory)
    server.start_uvicorn()
    try:
        test_a_refused_handshake_carries_them_too(server)
    finally:
        server.stop()
    assert server.faults() == []


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        # Two ways to tell the length (RFC 9112, 6.1): whoever is in front may have read the other.
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused_and_the_line_closed(server: Server, head: bytes) -> None:
    status, headers, rest = speak(server, head)
    assert status == 400, (status, headers)
    check_headers(headers)
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(rest.split(b"HTTP/1.1")[0])["status"] == 400


def speak(server: Server, request: bytes) -> tuple[int, httpx.Headers, bytes]:
    """The first answer to raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(request)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            line.settimeout(1)
            while piece := line.recv(65536):
                answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines])
    return int(first.split()[1]), headers, rest


@pytest.mark.parametrize(
    "path", ["/metrics", "/.git/config", "/.env", "/debug", "/admin", "/server-status", "/app.log"]
)
def test_nothing_of_the_inside_is_served(server: Server, path: str) -> None:
    assert httpx.get(server.base_url + path).status_code == 404


def test_they_can_be_left_to_a_proxy(directory: Path) -> None:
    with Server(directory, {"ENABLE_SECURITY_HEADERS": "false", "ENABLE_DOCS": "false"}) as server:
        answer = httpx.get(f"{server.base_url}/health/live")
        assert "X-Frame-Options" not in answer.headers
        assert httpx.get(f"{server.base_url}/docs").status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize(("page", "marks"), [("/docs", "opblock"), ("/redoc", "operation/")])
def test_the_pages_work_under_their_policy(
    server: Server, directory: Path, page: str, marks: str
) -> None:
    """In a real browser: everything is rendered, and nothing was refused."""
    browser = find_chromium("the pages in a browser")
    html, console = browse(browser, directory, server.base_url + page)
    assert marks in html
    assert "/auth/verify-code" in html
    assert "Content Security Policy" not in console, console
    assert "ERR_" not in console, console


def browse(browser: str, directory: Path, url: str) -> tuple[str, str]:
    """The page as it is after its scripts ran, and what the console said."""
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={directory / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(lines)
