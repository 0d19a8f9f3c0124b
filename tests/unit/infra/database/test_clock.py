"""All workers judge by the database's time, whatever the clocks of their machines say."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.infra.database.clock import DatabaseClock, open_database_and_clock, watch_clock
from app.infra.database.tx import Tx
from app.kernel.clock import SystemClock
from app.settings import Settings

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Ticks:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 5_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def told(ticks: Ticks) -> DatabaseClock:
    """A clock that was told at noon that it is noon."""
    clock = DatabaseClock(ticks)
    clock.learn(NOON, asked_at=ticks.seconds, answered_at=ticks.seconds)
    return clock


def test_it_goes_on_from_what_it_was_told(ticks: Ticks, told: DatabaseClock) -> None:
    assert told.now() == NOON
    ticks.seconds += 61.25
    assert told.now() == NOON + timedelta(seconds=61.25)


def test_an_answer_is_right_for_some_moment_on_its_way(ticks: Ticks) -> None:
    clock = DatabaseClock(ticks)
    ticks.seconds += 0.5
    clock.learn(NOON, asked_at=ticks.seconds - 0.5, answered_at=ticks.seconds)
    assert clock.now() == NOON + timedelta(seconds=0.25)


def test_a_slow_answer_moves_nothing_that_it_does_not_prove_wrong(
    ticks: Ticks, told: DatabaseClock
) -> None:
    ticks.seconds += 10
    told.learn(NOON + timedelta(seconds=8), asked_at=ticks.seconds - 4, answered_at=ticks.seconds)
    assert told.now() == NOON + timedelta(seconds=10)


@pytest.mark.parametrize("seconds", [-3600, -1, 1, 3600])
def test_it_follows_a_clock_of_the_database_that_was_set(
    ticks: Ticks, told: DatabaseClock, seconds: int
) -> None:
    ticks.seconds += 10
    later = NOON + timedelta(seconds=10 + seconds)
    told.learn(later, asked_at=ticks.seconds, answered_at=ticks.seconds)
    assert told.now() == later


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_machine_with_a_wrong_clock_has_the_time_of_the_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    right = SystemClock().now
    monkeypatch.setattr(SystemClock, "now", lambda _: right() + timedelta(hours=hours))
    db, clock = await open_database_and_clock(settings)
    try:
        for _ in range(2):
            told, own = await db.read(ask_time)
            assert abs(told - own) < timedelta(seconds=5)
            assert abs(told - clock.now()) < timedelta(seconds=5)
            await watch_clock(db, clock)
    finally:
        await db.close()


async def ask_time(tx: Tx) -> tuple[datetime, datetime]:
    """What the database says, and what the transaction goes by."""
    rows = await tx.all(text("SELECT clock_timestamp()"))
    return rows[0][0], tx.now


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_sqlite_has_the_time_of_its_only_machine(settings: Settings) -> None:
    db, clock = await open_database_and_clock(settings)
    assert isinstance(clock, SystemClock)
    await watch_clock(db, clock)
    await db.close()
