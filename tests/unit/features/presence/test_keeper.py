"""Who is told to have come and gone, with the time set by hand: two workers over one store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from app.features.presence.keeper import LINGER_SECONDS, TTL_SECONDS, PresenceKeeper
from app.infra.database.errors import DatabaseUnavailable
from app.infra.presence.memory import MemoryPresence
from app.infra.presence.port import GAP_SECONDS, HOLD_SECONDS, LEASE_SECONDS
from app.kernel.ids import UserId

pytestmark = pytest.mark.anyio

ANNA, BORIS = UserId(1), UserId(2)
_REFRESHES_EVERY = 8


@dataclass
class Time:
    """Seconds of a monotonic clock."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """A keeper, and what it told; `is_stopped`: as by SIGSTOP; `is_mute`: whom it tells fails."""

    store: MemoryPresence
    news: list[tuple[str, UserId]]
    is_stopped: bool = False
    is_mute: bool = False
    keeper: PresenceKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = PresenceKeeper(
            self.store, on_online=self.tell_online, on_offline=self.tell_offline
        )

    async def tell_online(self, people: Sequence[UserId]) -> None:
        self.tell("online", people)

    async def tell_offline(self, people: Sequence[UserId]) -> None:
        self.tell("offline", people)

    def tell(self, what: str, people: Sequence[UserId]) -> None:
        if self.is_mute:
            raise DatabaseUnavailable
        self.news += [(what, user_id) for user_id in people]

    async def live_a_second(self, second: int) -> None:
        if self.is_stopped:
            return
        await self.keeper.follow()
        if second % _REFRESHES_EVERY == 0:
            await self.keeper.refresh()
        await self.keeper.tell()
        await self.keeper.sweep()


@dataclass
class World:
    """`news`: of all workers, in order."""

    time: Time = field(default_factory=Time)
    news: list[tuple[str, UserId]] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    second: int = 0

    def __post_init__(self) -> None:
        store = MemoryPresence(self.time)
        self.workers = [Worker(store, self.news) for _ in range(2)]

    async def live(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.second += 1
            self.time.now += 1
            for worker in self.workers:
                await worker.live_a_second(self.second)

    async def seconds_until(self, news: tuple[str, UserId]) -> float:
        started = self.time.now
        while news not in self.news:
            assert self.time.now - started < 120, f"{news} never came, only {self.news}"
            await self.live(1)
        return self.time.now - started


@pytest.fixture
def world() -> World:
    return World()


async def test_who_comes_is_told_at_once_and_once_for_all_devices(world: World) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(1)
    assert world.news == [("online", ANNA)]
    two.keeper.arrive(ANNA, "laptop")
    await world.live(60)
    assert world.news == [("online", ANNA)]


async def test_offline_comes_ten_seconds_after_the_last_device(world: World) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    two.keeper.arrive(ANNA, "laptop")
    await world.live(30)
    one.keeper.depart(ANNA, "phone")
    await world.live(30)
    assert world.news == [("online", ANNA)]
    two.keeper.depart(ANNA, "laptop")
    assert LINGER_SECONDS <= await world.seconds_until(("offline", ANNA)) <= LINGER_SECONDS + 2
    await world.live(60)
    assert world.news == [("online", ANNA), ("offline", ANNA)]


async def test_a_quick_reconnect_to_another_worker_is_nobodys_news(world: World) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(5)
    for step in range(6):
        one.keeper.depart(ANNA, f"{step}" if step else "phone")
        await world.live(9)
        one, two = two, one
        one.keeper.arrive(ANNA, f"{step + 1}")
        await world.live(5)
    assert world.news == [("online", ANNA)]


async def test_people_of_a_killed_worker_are_offline_within_thirty_seconds(world: World) -> None:
    one, _ = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(20)
    one.is_stopped = True
    assert await world.seconds_until(("offline", ANNA)) <= 30


async def test_who_reconnects_after_a_worker_was_killed_never_seems_to_have_gone(
    world: World,
) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(20)
    one.is_stopped = True
    await world.live(12)
    two.keeper.arrive(ANNA, "again")
    await world.live(60)
    assert world.news == [("online", ANNA)]


async def test_people_of_a_worker_that_stood_still_are_told_to_be_online_again(
    world: World,
) -> None:
    one, _ = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(5)
    one.is_stopped = True
    await world.live(TTL_SECONDS + 10)
    assert world.news == [("online", ANNA), ("offline", ANNA)]
    one.is_stopped = False
    await world.live(_REFRESHES_EVERY + 1)
    assert world.news == [("online", ANNA), ("offline", ANNA), ("online", ANNA)]
    await world.live(60)
    assert len(world.news) == 3


async def test_a_socket_that_closed_while_its_worker_stood_still_brings_nobody_back(
    world: World,
) -> None:
    one, _ = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(5)
    one.is_stopped = True
    await world.live(TTL_SECONDS + 10)
    one.is_stopped = False
    one.keeper.depart(ANNA, "phone")
    await world.live(60)
    assert world.news == [("online", ANNA), ("offline", ANNA)]


async def test_when_everything_stood_still_nobody_seems_to_have_gone(world: World) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    two.keeper.arrive(BORIS, "phone")
    await world.live(5)
    world.time.now += 3 * TTL_SECONDS
    await world.live(60)
    assert world.news == [("online", ANNA), ("online", BORIS)]
    one.keeper.depart(ANNA, "phone")
    await world.seconds_until(("offline", ANNA))


async def test_who_left_before_everything_stood_still_is_told_afterwards(world: World) -> None:
    one, _ = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(5)
    one.keeper.depart(ANNA, "phone")
    await world.live(1)
    world.time.now += GAP_SECONDS + LINGER_SECONDS
    assert await world.seconds_until(("offline", ANNA)) <= HOLD_SECONDS + 2


async def test_news_that_could_not_be_told_are_told_later(world: World) -> None:
    one, two = world.workers
    for worker in world.workers:
        worker.is_mute = True
    one.keeper.arrive(ANNA, "phone")
    await world.live(30)
    assert world.news == []
    for worker in world.workers:
        worker.is_mute = False
    await world.live(1)
    assert world.news == [("online", ANNA)]
    for worker in world.workers:
        worker.is_mute = True
    one.keeper.depart(ANNA, "phone")
    two.keeper.arrive(BORIS, "phone")
    await world.live(30)
    two.keeper.depart(BORIS, "phone")
    await world.live(2)
    for worker in world.workers:
        worker.is_mute = False
    await world.live(LEASE_SECONDS + LINGER_SECONDS + 2)
    # Boris came and went unseen: that he was there is no news any more.
    assert world.news == [("online", ANNA), ("offline", ANNA), ("offline", BORIS)]


async def test_when_the_worker_that_took_it_dies_another_tells(world: World) -> None:
    one, two = world.workers
    one.keeper.arrive(ANNA, "phone")
    await world.live(5)
    one.keeper.depart(ANNA, "phone")
    await world.live(1)
    one.is_stopped = two.is_stopped = True
    taken: list[UserId] = []
    while not taken:
        await world.live(1)
        taken = await one.store.take_expired()
    two.is_stopped = False
    assert await world.seconds_until(("offline", ANNA)) <= LEASE_SECONDS + 1


async def test_a_stopping_worker_leaves_its_people_ten_seconds(world: World) -> None:
    one, _ = world.workers
    one.keeper.arrive(ANNA, "phone of Anna")
    one.keeper.arrive(BORIS, "phone of Boris")
    await world.live(5)
    one.keeper.depart(BORIS, "phone of Boris")
    await one.keeper.leave()
    one.is_stopped = True
    await world.live(LINGER_SECONDS + 1)
    assert sorted(world.news[2:]) == [("offline", ANNA), ("offline", BORIS)]


async def test_thousands_who_come_at_once_are_all_told(world: World) -> None:
    one, _ = world.workers
    for number in range(2500):
        one.keeper.arrive(UserId(number), f"c{number}")
    await world.live(1)
    assert sorted(world.news) == [("online", UserId(number)) for number in range(2500)]
