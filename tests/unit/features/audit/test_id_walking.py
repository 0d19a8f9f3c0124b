"""Who asks for ids that are not there, one after the other or in any order."""

from collections.abc import Iterable
from datetime import timedelta
from random import Random

import pytest

from app.features.audit.detectors import Alert, Detectors, Source
from app.features.audit.read import RecordedEvent
from app.kernel.clock import SystemClock
from app.kernel.ids import UserId

BEGIN = SystemClock().now()
WALKER = UserId(7)
# What one row of the record names at the most.
A_ROW = 32


def rows(numbers: Iterable[int], *, every: timedelta = timedelta(seconds=20)) -> list[Alert]:
    """The alerts of somebody who is refused these chats, as the record has them."""
    detectors, subjects = Detectors(), [f"chat:{number}" for number in numbers]
    alerts: list[Alert] = []
    for row, start in enumerate(range(0, len(subjects), A_ROW)):
        some = subjects[start : start + A_ROW]
        alerts += detectors.feed(
            RecordedEvent(
                id=row,
                seq=row,
                name="not_found",
                at=BEGIN + row * every,
                count=len(some),
                user_id=WALKER,
                session_id=None,
                phone_id=None,
                request_id=None,
                details={},
                personal={"address": "192.0.2.1", "subjects": some},
            )
        )
    return alerts


@pytest.mark.parametrize("numbers", [range(1000, 1030), range(1030, 1000, -1)])
def test_in_order_thirty_are_enough(numbers: range) -> None:
    [alert] = rows(numbers)
    assert (alert.name, alert.source) == ("alert_id_walking", Source(user_id=WALKER))


def test_in_any_order_ninety_are_enough_and_sixty_are_not() -> None:
    numbers = list(range(1000, 1096))
    Random(1).shuffle(numbers)
    assert rows(numbers[:60]) == []
    [alert] = rows(numbers)
    assert alert.name == "alert_id_walking"


def test_ten_ids_that_are_gone_may_be_asked_for_for_ever() -> None:
    assert rows([number % 10 for number in range(1000)]) == []


def test_what_lies_ten_minutes_back_counts_no_more() -> None:
    numbers = list(range(1000, 1096))
    Random(1).shuffle(numbers)
    assert rows(numbers, every=timedelta(minutes=6)) == []
