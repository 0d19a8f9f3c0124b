"""The gap logic against a simulated log and a bus that loses, doubles and reorders. One seed = one run."""

import os
import random
from dataclasses import replace

import pytest

from app.features.gateway.feed import Ask, Feed
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId
from app.kernel.scopes import chat_scope

SCOPE = chat_scope(ChatId(1))
SEEDS = int(os.environ.get("FEED_SEEDS", "500"))


def logged(seq: int, *, frame: bool = True) -> Announcement:
    return Announcement(SCOPE, seq, b"%d" % seq if frame else None)


class Worker:
    """One worker's feed with the I/O that the gateway does around it, every delay chosen by the seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.feed = Feed()
        self.out: list[int] = []
        self.began_at: int | None = None
        self.pending: list[tuple[str, int, list[Announcement]]] = []

    def take(self, step) -> None:
        self.out += [update.seq for update in step.deliver]
        assert step.reset_to is None, "nothing was pruned"
        if step.ask is not Ask.NOTHING:
            self.pending.append(("ask", step.ask.value, []))

    def begin(self, log: list[Announcement]) -> None:
        if self.began_at is None:
            self.began_at = len(log)
            self.take(self.feed.begin(len(log)))

    def work(self, log: list[Announcement], *, healthy: bool) -> None:
        if not self.pending:
            return
        kind, value, rows = self.pending.pop(self.rng.randrange(len(self.pending)))
        if kind == "rows":
            self.take(self.feed.fill(value, rows))
        elif value == Ask.PATIENCE.value:
            self.take(self.feed.run_out_of_patience())
        elif self.feed.gap is None or (not healthy and self.rng.random() < 0.2):
            self.take(self.feed.fail_to_fill())
        else:
            after, upto = self.feed.gap
            self.pending.append(("rows", after, log[after:upto][: self.rng.choice([1, 3, 100])]))


class World:
    """The log, three workers, and the wire between them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log = [logged(seq + 1) for seq in range(self.rng.randrange(5))]
        self.workers = [Worker(self.rng) for _ in range(3)]
        self.wire: list[tuple[Worker, Announcement]] = []
        self.lost = self.rng.choice([0, 0.1, 0.5, 1])
        self.doubled = self.rng.choice([0, 0.2])

    def commit(self) -> None:
        seq = len(self.log) + 1
        self.log.append(logged(seq))
        for worker in self.workers:
            if self.rng.random() >= self.lost:
                announced = logged(seq, frame=self.rng.random() < 0.9)
                self.wire += [(worker, announced)] * (1 + (self.rng.random() < self.doubled))

    def arrive(self) -> None:
        if self.wire:
            late = self.rng.random() < 0.5
            target, update = self.wire.pop(self.rng.randrange(len(self.wire)) if late else 0)
            target.take(target.feed.announce(update))

    def step(self) -> None:
        worker = self.rng.choice(self.workers)
        action = self.rng.random()
        if action < 0.3:
            self.commit()
        elif action < 0.6:
            self.arrive()
        elif action < 0.65:
            worker.begin(self.log)
        elif action < 0.7:
            worker.take(worker.feed.stand(len(self.log)))
        else:
            worker.work(self.log, healthy=False)

    def heal(self, worker: Worker) -> None:
        worker.begin(self.log)
        worker.take(worker.feed.stand(len(self.log)))
        for _ in range(2000):
            if worker.pending:
                worker.work(self.log, healthy=True)


def simulate(seed: int, *, heals: bool) -> None:
    world = World(seed)
    for _ in range(world.rng.randrange(20, 150)):
        world.step()
        for worker in world.workers:
            check(worker)
    if heals:
        for worker in world.workers:
            world.heal(worker)
            check(worker)
            assert worker.feed.last == len(world.log), "never whole"


def check(worker: Worker) -> None:
    """Whatever happened so far: a stretch of the log without hole, repeat or change of order."""
    if worker.began_at is not None:
        expected = list(range(worker.began_at + 1, worker.began_at + 1 + len(worker.out)))
        assert worker.out == expected
        assert worker.feed.last == worker.began_at + len(worker.out)
    else:
        assert worker.out == []


@pytest.mark.parametrize("heals", [False, True])
def test_every_update_comes_out_once_and_in_order_whatever_the_bus_does(heals: bool) -> None:
    for seed in range(SEEDS // 2):
        try:
            simulate(seed, heals=heals)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, heals={heals}: {error}") from error


def test_the_next_number_is_handed_out_at_once_and_a_repeat_is_dropped() -> None:
    feed = Feed()
    feed.begin(7)
    assert [u.seq for u in feed.announce(logged(8)).deliver] == [8]
    assert feed.announce(logged(8)).deliver == []
    assert feed.announce(logged(3)).deliver == []


def test_a_gap_waits_a_moment_and_then_asks_the_log() -> None:
    feed = Feed()
    feed.begin(0)
    assert feed.announce(logged(2)).ask is Ask.PATIENCE
    assert feed.announce(logged(3)).ask is Ask.NOTHING
    step = feed.run_out_of_patience()
    assert (step.ask, feed.gap) == (Ask.LOG, (0, 3))
    assert [u.seq for u in feed.fill(0, [logged(1)]).deliver] == [1, 2, 3]


def test_a_gap_that_closes_by_itself_costs_no_read() -> None:
    feed = Feed()
    feed.begin(0)
    feed.announce(logged(2))
    assert [u.seq for u in feed.announce(logged(1)).deliver] == [1, 2]
    assert feed.run_out_of_patience().ask is Ask.NOTHING


def test_an_announcement_without_a_frame_is_filled_from_the_log_at_once() -> None:
    feed = Feed()
    feed.begin(4)
    assert feed.announce(logged(5, frame=False)).ask is Ask.LOG
    assert [u.seq for u in feed.fill(4, [logged(5)]).deliver] == [5]


def test_what_arrives_before_the_log_has_told_where_it_stands_is_kept() -> None:
    feed = Feed()
    assert feed.announce(logged(9)).deliver == []
    assert feed.announce(logged(10)).deliver == []
    assert [u.seq for u in feed.begin(9).deliver] == [10]


def test_rows_that_the_log_no_longer_holds_reset_the_scope() -> None:
    feed = Feed()
    feed.begin(4)
    feed.stand(20)
    feed.run_out_of_patience()
    step = feed.fill(4, [logged(15), logged(16)], upto=20)
    assert (step.reset_to, [u.seq for u in step.deliver], step.ask) == (14, [15, 16], Ask.LOG)
    assert feed.fill(16, [], upto=20).reset_to == 20
    assert (feed.last, feed.gap) == (20, None)


def test_a_reset_goes_no_further_than_what_was_read() -> None:
    """What was announced since is still in the log."""
    feed = Feed()
    feed.begin(4)
    feed.stand(20)
    feed.run_out_of_patience()
    feed.announce(logged(21))
    step = feed.fill(4, [], upto=20)
    assert (step.reset_to, feed.last, step.ask) == (20, 21, Ask.NOTHING)
    assert [u.seq for u in step.deliver] == [21]


def removal(seq: int, revision: int) -> Announcement:
    """An update of a scope with this removal revision."""
    return replace(logged(seq), removals=revision)


def test_an_update_with_a_removal_that_was_not_heard_of_waits_for_it() -> None:
    feed = Feed()
    feed.begin(4, 7)
    assert [u.seq for u in feed.announce(removal(5, 7)).deliver] == [5]
    waiting = feed.announce(removal(6, 8))
    assert (waiting.deliver, waiting.ask) == ([], Ask.PATIENCE)
    assert feed.announce(removal(7, 8)).deliver == []
    assert [u.seq for u in feed.end(8).deliver] == [6, 7]
    assert feed.run_out_of_patience().ask is Ask.NOTHING


def test_removals_are_heard_of_in_any_order_and_more_than_once() -> None:
    feed = Feed()
    feed.begin(4, 0)
    feed.announce(removal(5, 3))
    for revision in (3, 1, 3, 1):
        assert feed.end(revision).deliver == []
    assert [u.seq for u in feed.end(2).deliver] == [5]
    assert feed.checked == 3
    assert feed.end(2).deliver == []


def test_a_removal_that_is_never_heard_of_is_read_about_at_once_when_patience_ends() -> None:
    feed = Feed()
    feed.begin(4, 0)
    feed.announce(removal(5, 1))
    assert (feed.run_out_of_patience().ask, feed.gap) == (Ask.LOG, (4, 5))
    # Rows read before the memberships were checked are not handed out.
    assert feed.fill(4, [removal(5, 1)], upto=5).deliver == []
    feed.check(1)
    assert [u.seq for u in feed.fill(4, [removal(5, 1)], upto=5).deliver] == [5]


def test_a_removal_behind_which_nothing_was_said_is_read_about_without_rows() -> None:
    feed = Feed()
    feed.begin(4, 0)
    assert feed.stand(4, 1).ask is Ask.PATIENCE
    assert (feed.run_out_of_patience().ask, feed.gap) == (Ask.LOG, (4, 4))
    feed.check(1)
    assert feed.fill(4, [], upto=4).reset_to is None
    assert feed.gap is None


def test_what_was_checked_does_not_hold_for_who_was_read_before_it() -> None:
    feed = Feed()
    feed.begin(4, 0)
    feed.end(3)
    feed.end(1)
    assert feed.checked == 1
    # This one was read at revision 0: the first removal may have been theirs, and so may the third.
    feed.admit(0)
    assert feed.announce(removal(5, 1)).deliver == []
    assert feed.end(1).deliver != []
    feed.end(2)
    assert feed.checked == 2


def test_a_number_that_cannot_be_had_is_not_asked_for_again_and_again() -> None:
    feed = Feed()
    feed.begin(4)
    feed.stand(5)
    feed.run_out_of_patience()
    feed.pause()
    for step in (feed.stand(5), feed.announce(logged(6)), feed.announce(logged(7, frame=False))):
        assert (step.deliver, step.ask) == ([], Ask.NOTHING)
    assert [u.seq for u in feed.fill(4, [logged(5)], upto=5).deliver] == [5, 6]


def test_rows_read_before_the_feed_went_on_reset_nothing() -> None:
    feed = Feed()
    feed.begin(4)
    feed.announce(logged(6))
    feed.run_out_of_patience()
    feed.announce(logged(5))
    feed.announce(logged(8))
    step = feed.fill(4, [logged(5), logged(6)])
    assert (step.reset_to, step.ask, feed.gap) == (None, Ask.LOG, (6, 8))
