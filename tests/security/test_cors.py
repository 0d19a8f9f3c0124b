"""CORS: closed, and open to nobody but the exact list of CORS_ORIGINS."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.people import API
from tests.support.servers import LAUNCHER, Server

OURS = "https://app.example.org"
OTHERS = (
    "https://app.example.org.evil.example",
    "https://evil-app.example.org",
    "http://app.example.org",
    "https://app.example.org:8443",
    "https://APP.example.org",
    "https://app.example.org/",
    "https://appXexample.org",
    "https://example.org",
    "null",
    "*",
    "",
    "https://app.example.org, https://evil.example",
)
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type, x-csrf-token, x-auth-mode, authorization",
}
PATHS = (
    ("GET", f"{API}/users/me", 401),
    ("GET", f"{API}/nothing/here", 404),
    ("PATCH", f"{API}/users/me", 405),
    ("POST", f"{API}/auth/send-verification", 422),
    ("GET", "/health/live", 200),
)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with an origin on its list."""
    directory = tmp_path_factory.mktemp("cors")
    with Server(directory, {"CORS_ORIGINS": f"{OURS}, http://localhost:3000"}) as server:
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:
            yield client
        server.stop()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with Server(tmp_path_factory.mktemp("closed")) as server:
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:
            yield client
        server.stop()


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if "access-control" in name}


@pytest.mark.parametrize("origin", [OURS, *OTHERS])
def test_without_a_list_nobody_is_let_in(closed: httpx.Client, origin: str) -> None:
    for method, path, status in PATHS:
        answer = closed.request(method, path, headers={"Origin": origin})
        assert (answer.status_code, cors_headers(answer)) == (status, {}), path
    asked = closed.options(f"{API}/users/me", headers={"Origin": origin, **PREFLIGHT})
    assert (asked.status_code, cors_headers(asked)) == (405, {})


def test_a_listed_origin_may_read_answers_and_errors_alike(listed: httpx.Client) -> None:
    for method, path, status in PATHS:
        answer = listed.request(method, path, headers={"Origin": OURS})
        assert answer.status_code == status, path
        assert answer.headers["access-control-allow-origin"] == OURS, path
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in answer.headers["vary"]
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert answer.headers["x-request-id"]


def test_a_head_that_is_refused_at_the_edge_can_be_read_too(listed: httpx.Client) -> None:
    answer = listed.get("/health/live", headers={"Origin": OURS, "Host": "a/?x="})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == OURS


def test_a_listed_origin_is_told_what_it_may_send(listed: httpx.Client) -> None:
    answer = listed.options(f"{API}/users/me", headers={"Origin": OURS, **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == OURS
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["x-request-id"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "*" not in allowed
    assert {"authorization", "x-csrf-token", "x-auth-mode"} <= set(allowed.split(", "))
    assert "PUT" in answer.headers["access-control-allow-methods"]


def test_a_listed_origin_may_upload_by_tus(listed: httpx.Client) -> None:
    """All headers that tus-js-client sends and reads."""
    sent = "authorization, content-type, tus-resumable, upload-checksum, upload-defer-length, "
    sent += "upload-length, upload-metadata, upload-offset, x-csrf-token, x-http-method-override"
    for method in ("POST", "HEAD", "PATCH", "DELETE"):
        asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": sent}
        answer = listed.options(f"{API}/files/tus/{'x' * 32}", headers={"Origin": OURS, **asked})
        assert answer.status_code == 200, method
    answer = listed.options(f"{API}/files/tus", headers={"Origin": OURS})
    exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
    read = {"location", "tus-extension", "tus-max-size", "tus-resumable", "tus-version"}
    read |= {"upload-expires", "upload-length", "upload-metadata", "upload-offset"}
    assert read | {"tus-checksum-algorithm", "x-file-id", "x-file-url"} <= exposed


@pytest.mark.parametrize("origin", OTHERS)
def test_no_other_origin_is_let_in_or_mirrored(listed: httpx.Client, origin: str) -> None:
    for method, path, status in PATHS:
        answer = listed.request(method, path, headers={"Origin": origin})
        assert (answer.status_code, cors_headers(answer)) == (status, {}), path
        assert "evil" not in str(answer.headers)
    asked = listed.options(f"{API}/users/me", headers={"Origin": origin, **PREFLIGHT})
    assert (asked.status_code, cors_headers(asked)) == (403, {})
    assert asked.json()["code"] == "cors_refused"


@pytest.mark.parametrize(
    "change",
    [
        {"Access-Control-Request-Method": "TRACE"},
        {"Access-Control-Request-Headers": "x-forwarded-for"},
        {"Access-Control-Request-Private-Network": "true"},
    ],
)
def test_a_listed_origin_gets_nothing_beyond(listed: httpx.Client, change: dict[str, str]) -> None:
    headers = {"Origin": OURS, **PREFLIGHT, **change}
    asked = listed.options(f"{API}/users/me", headers=headers)
    assert (asked.status_code, cors_headers(asked)) == (403, {})


@pytest.mark.parametrize("name", ["CORS_ORIGINS", "ALLOWED_ORIGINS"])
@pytest.mark.parametrize(
    "value",
    [
        "*",
        "null",
        "https://*.example.org",
        f"{OURS}, *",
        f"{OURS}/",
        "app.example.org",
        "HTTPS://app.example.org",
        "https://user@app.example.org",
        "file://",
        "https://app.example.org:0",
    ],
)
def test_a_list_that_is_not_exact_refuses_the_start(directory: Path, name: str, value: str) -> None:
    server = Server(directory, {name: value})
    server.launch(LAUNCHER)
    assert server.wait_for_exit(30) == 1
    assert f"{name}: each must be like https://app.example.org" in server.output()
