"""`LOG_ADDRESSES`: what of a client's address stands in the log, and that fail2ban's filter in the docs finds it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.people import API
from tests.support.servers import ROOT, Server
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

ADDRESS, ADDRESS_6 = "203.0.113.77", "2001:db8:aaaa:bbbb::7"
NETWORKS = {ADDRESS: "203.0.113.0/24", ADDRESS_6: "2001:db8:aaaa::/48"}
_REFUSED = {"verification_id": "x" * 32, "code": "000000"}


@pytest.fixture(params=["default", "full", "network", "none"])
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[Server]:
    settings = {"TRUSTED_PROXIES": "127.0.0.0/8"}
    if request.param != "default":
        settings["LOG_ADDRESSES"] = request.param
    with Server(directory, settings) as made:
        yield made


def form_of(server: Server) -> str:
    return server.environment.get("LOG_ADDRESSES", "network")


async def guess_from(server: Server, address: str) -> str:
    """A wrong code; answers the line of the log."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        headers = {"X-Forwarded-For": address}
        answer = await client.post(f"{API}/auth/verify-code", json=_REFUSED, headers=headers)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    request_id = answer.headers["x-request-id"]

    def lines() -> list[str]:
        return [it for it in server.log().splitlines() if request_id in it and '"request"' in it]

    async def is_written() -> bool:
        return bool(lines())

    await eventually(is_written, what="the line of the request")
    return lines()[0]


async def test_a_line_tells_as_much_as_it_may(server: Server) -> None:
    for address, network in NETWORKS.items():
        line = json.loads(await guess_from(server, address))
        expected = {"full": address, "network": network, "none": None}[form_of(server)]
        assert line.get("client") == expected
        assert (address in server.log() + server.output()) == (expected == address)


async def test_lines_of_sockets_tell_no_more(server: Server) -> None:
    """They are uvicorn's, and begin with the peer."""
    url = f"{server.websocket_url}{API}/ws/nobodys-token"
    await (await Socket.open(url, hello=False)).expect_close(4401)

    def lines() -> list[str]:
        return [it for it in server.log().splitlines() if "WebSocket" in it]

    async def is_written() -> bool:
        return bool(lines())

    await eventually(is_written, what="the line of the socket")
    said = json.loads(lines()[0])["event"].partition(" - ")[0]
    shown = {"full": r"127\.0\.0\.1:\d+", "network": r"127\.0\.0\.0/24", "none": "-"}
    assert re.fullmatch(shown[form_of(server)], said)


async def test_the_filter_of_the_docs_finds_the_address(server: Server) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    [pattern] = re.findall(r"^failregex = (.+)$", text, re.MULTILINE)
    regex = re.compile(pattern.replace("<ADDR>", "(?P<address>[0-9A-Fa-f:.]+)"))
    for address in NETWORKS:
        found = regex.search(await guess_from(server, address))
        assert (found is not None) == (form_of(server) == "full")
        if found:
            assert found["address"] == address
