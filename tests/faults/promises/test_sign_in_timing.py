"""Signing in takes as long for a phone without an account as for one with it (A6, H4).

300 interleaved pairs; the medians may differ by 5 ms at most. By the clock, so not part of `make test`.
"""

import statistics
import time
from collections.abc import Iterator

import pytest

from tests.faults.promises.scale import full_only
from tests.support.people import Backend, Person

pytestmark = [pytest.mark.anyio, full_only]

PAIRS = 300
_MOST_SECONDS = 0.005


async def timed(person: Person, path: str, body: object) -> tuple[float, str]:
    begun = time.perf_counter()
    answer = await person.call("POST", path, body)
    return time.perf_counter() - begun, answer.text


def median_gap(samples: list[list[float]]) -> float:
    return abs(statistics.median(samples[0]) - statistics.median(samples[1]))


async def test_neither_asking_nor_guessing_tells_who_has_an_account(backend: Backend) -> None:
    """Each pair asks for a code and guesses wrongly once, known and unknown taking turns to be first."""
    known = [(await backend.sign_up()).phone for _ in range(PAIRS)]
    unknown = [backend.deployment.next_phone() for _ in range(PAIRS)]
    asker = backend.stranger()
    asking: list[list[float]] = [[], []]
    guessing: list[list[float]] = [[], []]
    for number, pair in enumerate(zip(known, unknown, strict=True)):
        for which in turns(number):
            seconds, _ = await timed(asker, "/auth/send-verification", {"phone": pair[which]})
            asking[which].append(seconds)
            verification_id, code = await backend.ask_code(pair[which])
            wrong = f"{(int(code) + 1) % 1_000_000:06d}"
            guess = {"verification_id": verification_id, "code": wrong}
            seconds, _ = await timed(asker, "/auth/verify-code", guess)
            guessing[which].append(seconds)
    assert median_gap(asking) < _MOST_SECONDS
    assert median_gap(guessing) < _MOST_SECONDS


async def test_looking_a_number_up_takes_as_long_whether_its_owner_hides_or_is_not_there(
    backend: Backend,
) -> None:
    """Search and import, by one asker within the budget of a day."""
    asker = await backend.sign_up()
    hidden: list[str] = []
    for _ in range(PAIRS):
        hermit = await backend.sign_up()
        await hermit.put("/users/me/privacy", {"find_by_phone": "nobody"})
        hidden.append(hermit.phone)
    absent = [backend.deployment.next_phone() for _ in range(PAIRS)]
    searching: list[list[float]] = [[], []]
    importing: list[list[float]] = [[], []]
    for number, pair in enumerate(zip(hidden, absent, strict=True)):
        for which in turns(number):
            begun = time.perf_counter()
            await asker.get("/users/search", q=pair[which], expect=200)
            searching[which].append(time.perf_counter() - begun)
            contacts = [{"phone": pair[which], "first_name": "X"}]
            seconds, _ = await timed(asker, "/users/contacts", {"contacts": contacts})
            importing[which].append(seconds)
    assert median_gap(searching) < _MOST_SECONDS
    assert median_gap(importing) < _MOST_SECONDS


def turns(number: int) -> Iterator[int]:
    """Which of the pair goes first changes each time."""
    return iter((0, 1) if number % 2 else (1, 0))
