"""Limits of what may be spent on codes, and providers that fail. On servers of their own."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.audit import wait_for_log
from tests.support.people import Backend, Deployment
from tests.support.ports import free_port
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

TIGHT = {
    "SMS_LIMIT_PER_PHONE": "2",
    "SMS_LIMIT_PER_ADDRESS": "6",
    "SMS_LIMIT_PER_PREFIX": "100",
    "SMS_LIMIT_PER_DAY": "4",
    "TRUSTED_PROXIES": "127.0.0.1/32",
}


@pytest.fixture
async def limited(directory: Path, anyio_backend: str) -> AsyncIterator[Backend]:
    """Sign-in limits in force; a test may speak as the proxy of any address."""
    del anyio_backend
    with Server(directory, TIGHT, name="limited") as server:
        async with AsyncExitStack() as stack:
            yield Backend(Deployment("sqlite", [server]), stack)


async def ask(backend: Backend, phone: str, address: str) -> int:
    stranger = backend.stranger()
    headers = {"X-Forwarded-For": address}
    body = {"phone": phone}
    answer = await stranger.call("POST", "/auth/send-verification", body, headers=headers)
    return answer.status_code


async def test_codes_are_limited_by_phone_address_and_day(limited: Backend) -> None:
    phone, other = limited.deployment.next_phone(), limited.deployment.next_phone()
    mallory, victim, third = "203.0.113.9", "198.51.100.7", "192.0.2.1"
    assert [await ask(limited, phone, mallory) for _ in range(3)] == [200, 200, 429]
    # A stranger's limit is not the limit of the owner of the phone.
    assert await ask(limited, phone, victim) == 200
    # The day's cap of a phone holds for all addresses together.
    assert [await ask(limited, phone, third) for _ in range(2)] == [200, 429]
    # One address cannot go through many phones.
    statuses = [await ask(limited, limited.deployment.next_phone(), mallory) for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 429]
    assert await ask(limited, other, victim) == 200
    assert len(limited.deployment.codes(phone)) == 4


async def test_a_limit_names_when_to_come_back(limited: Backend) -> None:
    phone = limited.deployment.next_phone()
    for _ in range(2):
        assert await ask(limited, phone, "203.0.113.9") == 200
    answer = await limited.stranger().call(
        "POST",
        "/auth/send-verification",
        {"phone": phone},
        headers={"X-Forwarded-For": "203.0.113.9"},
    )
    assert answer.status_code == 429
    assert answer.json()["code"] == "rate_limited"
    assert 0 < int(answer.headers["retry-after"]) <= 600


async def test_ranges_countries_and_days_have_budgets_that_no_stranger_passes(
    directory: Path,
) -> None:
    settings = {
        "SMS_LIMIT_PER_PREFIX_DAY": "4",
        "SMS_LIMIT_PER_COUNTRY": "6",
        "SMS_LIMIT_IN_ALL": "8",
        "TRUSTED_PROXIES": "127.0.0.1/32",
    }
    with Server(directory, settings, name="budgets") as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            owner = await backend.sign_up("+4915112345678")  # known here from now on
            addresses = iter(range(1, 200))

            async def ask_for(phones: list[str]) -> list[int]:
                return [await ask(backend, it, f"203.0.113.{next(addresses)}") for it in phones]

            # Another address for each: four to one range, six to one country, eight in all.
            range_of_numbers = [f"+4917010000{n:02}" for n in range(6)]
            assert await ask_for(range_of_numbers) == [200] * 4 + [429] * 2
            germany = [f"+491712{n}00000" for n in range(3)]
            assert await ask_for(germany) == [200, 429, 429]
            abroad = [f"+336123{n}5678" for n in range(4)]
            assert await ask_for(abroad) == [200, 200, 429, 429]
            sent = sum(
                len(backend.deployment.codes(it)) for it in range_of_numbers + germany + abroad
            )
            assert sent == 7
            await wait_for_log(backend.deployment, "sign_in_budget_spent")
            # What strangers have used up is no concern of who signed in from here before.
            await backend.sign_in(owner.phone)


@pytest.mark.parametrize("kind", ["refusing", "silent"])
async def test_a_provider_that_fails_is_503_in_time(directory: Path, kind: str) -> None:
    with socket.socket() as listener:
        port = free_port()
        if kind == "silent":
            listener.bind(("127.0.0.1", port))
            listener.listen()
        settings = {
            "SMS_PROVIDER": "http",
            "SMS_HTTP_URL": f"http://127.0.0.1:{port}/send",
            "SMS_TIMEOUT": "1",
        }
        with Server(directory, settings, name="failing provider") as server:
            async with AsyncExitStack() as stack:
                backend = Backend(Deployment("sqlite", [server]), stack)
                started = time.monotonic()
                body = {"phone": backend.deployment.next_phone()}
                await backend.stranger().post("/auth/send-verification", body, expect=503)
                # The gateway has a second; what else runs on this machine may take as much several times.
                assert time.monotonic() - started < 9
