"""Each detector is attacked over HTTP, and its alert seen by `admin audit tail`."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.support.audit import Event, logged_events, run_admin, wait_for_log
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Person

pytestmark = pytest.mark.anyio
WALKED = 40
NEW_NUMBERS = 1_000


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A server behind a proxy, so that each attacker has an address."""
    settings = {"TRUSTED_PROXIES": "127.0.0.1"}
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        lone_server(request, Path(directory), settings) as made,
    ):
        yield made


def coming_from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def wait_for_alert(backend: Backend, name: str, **members: object) -> list[Event]:
    """All alerts of this name, once there is one with these members in the log."""
    lines = await wait_for_log(backend.deployment, name, **members)
    assert all(line["level"] == "warning" for line in lines)
    tail = await run_admin(
        backend.deployment, "audit", "tail", "-n", "5000", "--json", "--show-personal"
    )
    events = [json.loads(line) for line in tail.stdout.splitlines()]
    return [event for event in events if event["name"] == name]


async def ask_code(backend: Backend, phone: str, address: str) -> str:
    answer = await backend.stranger().call(
        "POST", "/auth/send-verification", {"phone": phone}, headers=coming_from(address)
    )
    assert answer.status_code == 200
    return answer.json()["verification_id"]


async def guess(stranger: Person, verification_id: str, address: str) -> None:
    body = {"verification_id": verification_id, "code": "000000"}
    await stranger.call("POST", "/auth/verify-code", body, headers=coming_from(address))


async def test_guessing_codes_over_many_phones(backend: Backend) -> None:
    stranger, clumsy, guesser = backend.stranger(), "198.51.100.11", "198.51.100.10"
    own = await ask_code(backend, backend.deployment.next_phone(), clumsy)
    for _ in range(12):
        await guess(stranger, own, clumsy)
    for _ in range(12):
        verification_id = await ask_code(backend, backend.deployment.next_phone(), "192.0.2.1")
        await guess(stranger, verification_id, guesser)
    (alert,) = await wait_for_alert(backend, "alert_code_guessing")
    assert alert["personal"]["address"] == guesser
    assert alert["details"]["seen"] >= 10


async def test_one_phone_from_many_addresses(backend: Backend) -> None:
    phone = backend.deployment.next_phone()
    for number in range(9):
        await ask_code(backend, phone, f"198.51.{100 + number}.20")
    (alert,) = await wait_for_alert(backend, "alert_phone_under_attack")
    found = await run_admin(
        *(backend.deployment, "audit", "search", "--json", "--name", "alert_", "--phone", phone)
    )
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == [alert["id"]]


async def test_walking_along_ids(backend: Backend) -> None:
    anna, bruno, clara, david = await backend.people(4)
    socket = await david.connect()
    for number in range(1, WALKED):
        # Somebody who asks for the same thing again and again walks nowhere.
        await bruno.get("/messages/1000000", expect=404)
        await anna.get(f"/messages/{1_000_000 + number}", expect=404)
        body = {"chat_id": 1_000_000 + number, "text": "Hi"}
        await clara.post("/messages/", body, expect=404)
        await socket.refused("send_message", body, "chat_not_found")
    for walker in (anna, clara, david):
        await wait_for_log(backend.deployment, "alert_id_walking", user_id=walker.id)
    alerts = await wait_for_alert(backend, "alert_id_walking")
    walkers = {alert["user_id"] for alert in alerts}
    assert walkers >= {anna.id, clara.id, david.id}
    assert bruno.id not in walkers


async def test_walking_along_chats_by_sockets(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    for number in range(1, WALKED):
        # Who is kept out of the same chat again and again walks nowhere.
        for walker, chat_id in ((anna, 1_000_000 + number), (bruno, 1_000_000)):
            socket = await walker.connect(token=walker.access_token, chat_id=chat_id, hello=False)
            await socket.expect_close(4403)
    await wait_for_log(backend.deployment, "alert_id_walking", user_id=anna.id)
    alerts = await wait_for_alert(backend, "alert_id_walking")
    walkers = [alert["user_id"] for alert in alerts]
    assert anna.id in walkers
    assert bruno.id not in walkers


@pytest.mark.parametrize(
    ("kind", "address", "paths"),
    [
        (
            "traversal",
            "203.0.113.1",
            ["/files/..%2f..%2fetc/passwd", "/files/%252e%252e%252fx", "/a/..%5cwin.ini"],
        ),
        (
            "injection",
            "203.0.113.2",
            ["/users/search?q='%20or%201=1--", "/a?q=1+UNION+SELECT+1", "/a?${jndi:x}"],
        ),
        ("secrets", "203.0.113.3", ["/.git/config", "/.env", "/wp-login.php"]),
        (
            "script",
            "203.0.113.4",
            [
                "/users/search?q=%3Cscript%3Ealert(1)",
                "/a?next=javascript:alert(1)",
                "/a?b=x%20onerror=y",
            ],
        ),
    ],
)
async def test_probing_paths_and_queries(
    backend: Backend, kind: str, address: str, paths: list[str]
) -> None:
    stranger = backend.stranger()
    for path in paths:
        await stranger.client.get(f"/api/v1{path}", headers=coming_from(address))
    await wait_for_log(backend.deployment, "probe_seen", kind=kind, count=len(paths))
    known = len(logged_events(backend.deployment, "alert_probing"))
    alerts = await wait_for_alert(backend, "alert_probing")
    while address not in {alert["personal"]["address"] for alert in alerts}:
        await wait_for_log(backend.deployment, "alert_probing", count=known + 1)
        alerts = await wait_for_alert(backend, "alert_probing")


async def test_plain_requests_are_no_probes(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    address = "203.0.113.99"
    known = sum(line.get("count", 1) for line in logged_events(backend.deployment, "probe_seen"))
    paths = (
        "/users/me",
        f"/messages/chat/{chat['id']}?limit=5",
        "/users/search?q=O'Neill%20or%20Anna",
        "/users/search?q=select%20a%20union",
    )
    for path in paths:
        answer = await anna.call("GET", path, headers=coming_from(address))
        assert answer.status_code == 200
    await anna.client.get("/.git/config", headers=coming_from("203.0.113.98"))
    lines = await wait_for_log(backend.deployment, "probe_seen", count=known + 1)
    assert sum(line.get("count", 1) for line in lines) == known + 1


async def test_importing_numbers_by_the_thousand(backend: Backend) -> None:
    anna = await backend.sign_up()
    for first in range(0, NEW_NUMBERS, 500):
        contacts = [
            {"phone": f"+49172{number:07d}", "first_name": "N"}
            for number in range(first, first + 500)
        ]
        await anna.post("/users/contacts", {"contacts": contacts})
    (alert,) = await wait_for_alert(backend, "alert_mass_import")
    assert (alert["user_id"], alert["details"]["seen"]) == (anna.id, NEW_NUMBERS)


async def test_replaying_a_refresh_token(backend: Backend) -> None:
    anna = await backend.sign_up()
    first = anna.tokens["refresh_token"]
    second = (await anna.post("/auth/refresh-token", {"refresh_token": first}))["refresh_token"]
    await anna.post("/auth/refresh-token", {"refresh_token": second})
    await anna.post("/auth/refresh-token", {"refresh_token": first}, expect=401)
    (alert,) = await wait_for_alert(backend, "alert_token_replay")
    assert alert["user_id"] == anna.id


async def test_guessing_tokens(backend: Backend) -> None:
    address = "198.51.100.30"
    stranger = backend.stranger()
    head = coming_from(address) | {"Authorization": "Bearer forged"}
    for _ in range(320):
        await stranger.call("GET", "/users/me", headers=head)
    (alert,) = await wait_for_alert(backend, "alert_token_guessing")
    assert alert["personal"]["address"] == address
