"""Nobody but our own proxies says who is calling, whatever they write and whichever launcher serves them."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.people import API
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PROXY = "127.0.0.7"
STARTS: dict[str, list[str] | None] = {
    "launcher": None,
    "uvicorn": [],
    "uvicorn that believes all": ["--forwarded-allow-ips", "*"],
}


@pytest.fixture(params=STARTS)
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[Server]:
    settings = {"TRUSTED_PROXIES": f"{PROXY}/32", "LOG_ADDRESSES": "full"}
    options = STARTS[request.param]
    made = Server(directory, settings, forked=options is None)
    try:
        yield made.start() if options is None else made.start_uvicorn(*options)
    finally:
        made.stop()


async def find_client(server: Server, source: str, forwarded: str) -> tuple[str, bool]:
    """Who it was by the log, and whether the answer counts as one over HTTPS. `{own}`: the caller's end."""
    with socket.create_connection(
        ("127.0.0.1", server.port), timeout=30, source_address=(source, 0)
    ) as line:
        host, port = line.getsockname()
        lines = [
            f"GET {API}/users/me HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            f"X-Forwarded-For: {forwarded.format(own=f'{host}:{port}')}",
            "X-Forwarded-Proto: https",
        ]
        line.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b"".join(iter(lambda: line.recv(65_536), b"")).decode()
    head = httpx.Headers(
        [tuple(it.split(": ", 1)) for it in answer.split("\r\n\r\n")[0].splitlines()[1:]]  # pyright: ignore[reportArgumentType]
    )
    found: list[str] = []

    async def is_written() -> bool:
        said = [json.loads(it) for it in server.log().splitlines() if head["x-request-id"] in it]
        found[:] = [it["client"] for it in said if it["event"] == "request"]
        return bool(found)

    await eventually(is_written, timeout_seconds=20, what="the line of the request")
    return found[0], "strict-transport-security" in head


async def test_who_calls_directly_cannot_name_another(server: Server) -> None:
    for source in ("127.0.0.1", "127.0.0.5"):
        for forwarded in (
            "9.9.9.9",
            "9.9.9.9:77",
            "[2001:db8::9]:77",
            "{own}",
            "{own}, 9.9.9.9",
            "9.9.9.9, {own}",
            f"9.9.9.9, {PROXY}",
        ):
            assert await find_client(server, source, forwarded) == (source, False), forwarded


async def test_our_own_proxy_names_the_client(server: Server) -> None:
    for forwarded in ("9.9.9.9", "9.9.9.9:77", "6.6.6.6, 9.9.9.9", f"9.9.9.9, {PROXY}"):
        assert await find_client(server, PROXY, forwarded) == ("9.9.9.9", True), forwarded
