"""Wrong codes from everywhere, a few from each network and for each phone, are seen by their sum alone."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta

from app.features.audit.detectors import Alert, Detectors, Source
from app.features.audit.read import RecordedEvent
from app.kernel.clock import SystemClock

BEGIN = SystemClock().now()


def event(name: str, number: int, *, at: timedelta, count: int = 1) -> RecordedEvent:
    address = f"{20 + number // 65_536}.{number // 256 % 256}.{number % 256}.1"
    return RecordedEvent(
        id=number,
        seq=number,
        name=name,
        at=BEGIN + at,
        count=count,
        user_id=None,
        session_id=None,
        phone_id=None,
        request_id=None,
        details={},
        personal={"address": address, "subjects": [f"{number:032x}"]},
    )


def feed(events: Iterable[RecordedEvent]) -> list[Alert]:
    detectors = Detectors()
    return [alert for event in events for alert in detectors.feed(event)]


def test_one_wrong_code_for_each_of_many_phones_from_as_many_networks() -> None:
    spread = (
        event("sign_in_refused", number, at=timedelta(seconds=number / 4))
        for number in range(10_000)
    )
    alerts = feed(spread)
    assert {alert.name for alert in alerts} == {"alert_spread_guessing"}
    assert alerts[0] == Alert("alert_spread_guessing", Source(), 200)


def test_rows_that_count_many_count_as_many() -> None:
    alerts = feed(
        event("sign_in_refused", number, at=timedelta(minutes=number), count=100)
        for number in range(2)
    )
    assert Counter(alert.name for alert in alerts) == {"alert_spread_guessing": 1}


def test_on_a_busy_day_some_mistype() -> None:
    names = ("signed_in", "second_factor_asked", "sign_in_refused", "signed_in")
    alerts = feed(
        event(names[number % 4], number, at=timedelta(seconds=number)) for number in range(3_600)
    )
    assert alerts == []


def test_a_slow_day_of_typing_errors_is_no_attack() -> None:
    alerts = feed(
        event("sign_in_refused", number, at=timedelta(minutes=number)) for number in range(1_000)
    )
    assert alerts == []
