"""The schedules are what they claim to be: repeatable, and hard enough."""

from tests.faults.nemesis import Fault, count_planned, plan

SCHEDULES = 200
SECONDS = 12.0


def test_a_seed_is_a_schedule() -> None:
    assert plan(7, SECONDS) == plan(7, SECONDS)
    assert plan(7, SECONDS) != plan(8, SECONDS)


def test_a_schedule_is_in_order_and_ends_in_time() -> None:
    for seed in range(SCHEDULES):
        planned = plan(seed, SECONDS)
        assert [it.at for it in planned] == sorted(it.at for it in planned)
        assert all(it.at > 0 and it.at + it.seconds < SECONDS * 1.1 for it in planned)


def test_all_schedules_together_hold_enough_of_every_fault() -> None:
    """More is planned than must be done: a worker that is down already cannot be killed."""
    counts = count_planned(range(SCHEDULES), SECONDS)
    assert counts[Fault.WORKER_KILL] >= 400
    assert {fault: counts[fault] for fault in Fault if counts[fault] < 30} == {}
    assert counts[Fault.POSTGRES_KILL] >= 40
