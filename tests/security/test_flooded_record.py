"""A flood hides no attack: neither one of other events nor one of the same, and no other refusal either."""

import secrets
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.features.audit.sink import MAX_SOURCES
from app.infra.tokens.access import AccessTokens
from app.kernel.ids import SessionId, UserId
from tests.conftest import BACKENDS
from tests.security.test_detectors import ask_code, coming_from, guess, wait_for_alert
from tests.support.audit import read_events, wait_for_log
from tests.support.databases import SetClock
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment

pytestmark = pytest.mark.anyio

SECRET = secrets.token_urlsafe(40)
SETTINGS = {
    "SECRET_KEY": SECRET,
    "TRUSTED_PROXIES": "127.0.0.1",
    "CONTACT_LOOKUPS_PER_DAY": "5",
    "RATE_LIMIT_SEARCH": "1",
    "SMS_LIMIT_PER_PREFIX": "1000",
    "SMS_LIMIT_PER_PREFIX_DAY": "1000",
}


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        lone_server(request, Path(directory), SETTINGS) as made,
    ):
        yield made


async def test_forged_tokens_from_everywhere_hide_no_other_attack(backend: Backend) -> None:
    """Each /64 costs an attacker nothing: they have 65,536 of them."""
    stranger, attacker = backend.stranger(), "198.51.100.40"
    for number in range(MAX_SOURCES + 20):
        head = coming_from(f"2001:db8:7:{number:x}::1") | {"Authorization": "Bearer forged"}
        await stranger.call("GET", "/users/me", headers=head)
    for _ in range(3):
        await stranger.client.get("/api/v1/.git/config", headers=coming_from(attacker))
    for _ in range(10):
        verification_id = await ask_code(backend, backend.deployment.next_phone(), "192.0.2.9")
        await guess(stranger, verification_id, attacker)
    for name in ("alert_probing", "alert_code_guessing"):
        (alert,) = await wait_for_alert(backend, name)
        assert alert["personal"]["address"] == attacker
    (flooded,) = await wait_for_alert(backend, "alert_record_flooded")
    assert flooded["details"]["cause"] == "token_refused"
    rows = await wait_for_log(backend.deployment, "token_refused", count=MAX_SOURCES)
    assert len(rows) <= MAX_SOURCES + 3


async def test_probes_from_everywhere_leave_the_network_of_one_who_probes_on(
    backend: Backend,
) -> None:
    stranger, attacker = backend.stranger(), "198.51.100.41"
    for number in range(MAX_SOURCES):
        address = f"20.{number}.0.1"
        await stranger.client.get("/api/v1/.env", headers=coming_from(address))
    for _ in range(3):
        await stranger.client.get("/api/v1/.git/config", headers=coming_from(attacker))
    flooded = await wait_for_alert(backend, "alert_record_flooded", cause="probe_seen")
    assert "probe_seen" in {alert["details"]["cause"] for alert in flooded}
    await wait_for_log(backend.deployment, "probe_seen", from_many=True, count=3)
    alerts = await wait_for_alert(backend, "alert_probing")
    while "198.51.0.0/16" not in {alert["personal"]["address"] for alert in alerts}:
        known = len(alerts)
        await wait_for_log(backend.deployment, "alert_probing", count=known + 1)
        alerts = await wait_for_alert(backend, "alert_probing")


async def test_a_budget_of_numbers_that_is_used_up_is_told_beside_other_limits(
    backend: Backend,
) -> None:
    anna = await backend.sign_up()
    for _ in range(3):
        await anna.call("GET", "/users/search?q=nobody")
    await wait_for_log(backend.deployment, "rate_limited", user_id=anna.id)
    await anna.get("/users/search", q="nobody", expect=429)
    contacts = [{"phone": f"+49172555{number:04d}", "first_name": "N"} for number in range(6)]
    body = {"contacts": contacts}
    await anna.post("/users/contacts", body, expect=429, code="lookups_exhausted")
    (alert,) = await wait_for_alert(backend, "alert_mass_import", user_id=anna.id)
    assert (alert["user_id"], alert["details"]["cause"]) == (anna.id, "rate_limited")


async def test_guessing_codes_from_everywhere(backend: Backend) -> None:
    """Five tries of a code, each from a network of its own; no network and no phone stands out."""
    stranger = backend.stranger()
    for phone in range(42):
        address = f"30.{phone}.0.1"
        verification_id = await ask_code(backend, backend.deployment.next_phone(), address)
        for number in range(5):
            await guess(stranger, verification_id, f"31.{phone}.{number}.1")
    (alert,) = await wait_for_alert(backend, "alert_spread_guessing")
    assert alert["details"]["seen"] >= 200
    assert alert["personal"] == {}


async def test_an_expired_token_is_counted_apart_from_forged_ones(backend: Backend) -> None:
    """Over HTTP and at a socket; whoever sends one learns no more than of a forged one."""
    anna = await backend.sign_up()
    clock = SetClock()
    clock.advance(hours=-1)
    tokens = AccessTokens(SECRET.encode(), lifetime=timedelta(minutes=15), clock=clock)
    token = tokens.issue(user_id=UserId(anna.id), session_id=SessionId(1)).token
    await anna.connect(token=token, hello=False)
    answers = [
        await backend.stranger().call(
            "GET", "/users/me", headers=coming_from(address) | {"Authorization": f"Bearer {sent}"}
        )
        for address in ("198.51.100.50", "198.51.100.51")
        for sent in [token] * 16
    ]
    forged = await backend.stranger().call(
        "GET", "/users/me", headers=coming_from("198.51.100.52") | {"Authorization": "Bearer x"}
    )
    documents = [answer.json() | {"request_id": ""} for answer in (*answers, forged)]
    assert documents == [documents[-1]] * len(documents)
    # The last of so many may wait for its minute.
    await wait_for_log(backend.deployment, "token_expired", count=len(answers))
    rows = await read_events(backend.deployment, "--name", "token_expired")
    assert len(rows) <= 3
    assert [row["personal"] for row in rows] == [{}] * len(rows)
    refused = await read_events(backend.deployment, "--name", "token_refused")
    addresses = {row["personal"].get("address") for row in refused}
    assert addresses.isdisjoint({"198.51.100.50", "198.51.100.51", "127.0.0.1"})
