"""Who is online is told once and in time, whatever happens to workers and Redis, and only to those who may know."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.conftest import BACKENDS
from tests.faults.cluster import Cluster, Worker, run_cluster, run_sqlite_cluster
from tests.faults.machine import Machine
from tests.faults.promises.scale import SCALE, full_only, scaled
from tests.support import missing
from tests.support.people import API, Backend, Deployment, Person
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

ONLINE = "user_online"
OFFLINE = "user_offline"
ONLINE_SECONDS = 1.0
HEARD_SECONDS = scaled(quick=30.0, full=5.0)
# After the last socket closed; after the worker was killed, which all of them had.
OFFLINE_SECONDS = 10.0
KILLED_SECONDS = 30.0
# For those who are connected all the while.
BACK_SECONDS = scaled(quick=30.0, full=5.0)
# The store looks every second.
_LATE_SECONDS = scaled(quick=30.0, full=2.0)
KILLS = 3
# Made once: a context costs 20 ms.
_NO_TLS = ssl.create_default_context()


@dataclass
class Scene:
    """A friend with ears on every worker, and people who may not know of anybody, with theirs."""

    cluster: Cluster
    backend: Backend
    friend: Person
    stranger: Person
    blocked: Person
    blocking: Person
    ears: list[tuple[Worker, Socket]] = field(default_factory=list[tuple[Worker, Socket]])
    outside: list[Socket] = field(default_factory=list[Socket])

    async def people(self, count: int) -> list[Person]:
        """Accounts that the friend and the two sides of a block know."""
        people = await self.backend.people(count)
        for person in people:
            for other in (self.friend, self.blocked, self.blocking):
                await person.private_chat(other)
            await person.put(f"/users/blocked/{self.blocked.id}")
            await self.blocking.put(f"/users/blocked/{person.id}")
        return people

    async def connect(self, person: Person, worker: Worker) -> Socket:
        url = f"{worker.server.websocket_url}{API}/ws/{person.access_token}"
        socket = await Socket.open(url)
        self.backend.stack.push_async_callback(socket.close)
        return socket

    async def listen(self, worker: Worker) -> None:
        """From now on also there."""
        self.ears.append((worker, await self.connect(self.friend, worker)))
        for other in (self.stranger, self.blocked, self.blocking):
            self.outside.append(await self.connect(other, worker))

    async def come(self, person: Person, *workers: Worker) -> list[Socket]:
        """Online on these workers, and told within the time."""
        machine, began = Machine(), time.monotonic()
        sockets = [await self.connect(person, worker) for worker in workers]
        await self.hear(person, ONLINE)
        if SCALE == "full":
            assert (time.monotonic() - began) * machine.share() <= ONLINE_SECONDS
        return sockets

    async def hear(self, person: Person, *news: str, within_seconds: float = HEARD_SECONDS) -> None:
        """All ears have heard just that of a person."""

        async def is_heard() -> bool:
            return all(heard(ear, person) == [*news] for ear in self.open_ears())

        try:
            await eventually(is_heard, timeout_seconds=within_seconds)
        except AssertionError:
            told = [heard(ear, person) for ear in self.open_ears()]
            raise AssertionError(f"{told} after {within_seconds} s, not {[*news]}") from None

    def open_ears(self) -> list[Socket]:
        """On workers that run."""
        ears = [ear for worker, ear in self.ears if worker.can_serve and ear.close_code is None]
        assert ears
        return ears

    async def see_online(self, *people: Person) -> None:
        """Whoever asks any worker is told so within the time."""

        async def is_seen() -> bool:
            return all(
                [
                    await sees_online(self.friend, person, worker)
                    for worker in self.cluster.workers
                    if worker.can_serve
                    for person in people
                ]
            )

        await eventually(is_seen, timeout_seconds=BACK_SECONDS, what="that they are online")

    async def leave(self, person: Person, socket: Socket) -> None:
        """Told gone in its time; whoever else seemed to have left before is told gone by then too."""
        began = time.monotonic()
        await socket.close()
        seconds = OFFLINE_SECONDS + _LATE_SECONDS
        await self.hear(person, ONLINE, OFFLINE, within_seconds=seconds)
        assert time.monotonic() - began >= OFFLINE_SECONDS

    def forget(self, *people: Person) -> None:
        """What was heard of them so far."""
        ids = {person.id for person in people}
        for _, ear in self.ears:
            ear.frames = [it for it in ear.frames if it.get("data", {}).get("user_id") not in ids]

    def end(self, *still: Person) -> None:
        """These were online all the time, told once at most, and nobody heard who may not."""
        for _, ear in self.ears:
            assert all(heard(ear, person) in ([], [ONLINE]) for person in still)
        for socket in self.outside:
            assert socket.seen(ONLINE) + socket.seen(OFFLINE) == []
        assert self.cluster.take_logged_errors() == []


def heard(ear: Socket, person: Person) -> list[str]:
    frames = [it for it in ear.frames if it["type"] in {ONLINE, OFFLINE}]
    return [it["type"] for it in frames if it["data"]["user_id"] == person.id]


async def sees_online(viewer: Person, person: Person, worker: Worker) -> bool:
    headers = {"Authorization": f"Bearer {viewer.access_token}"}
    async with httpx.AsyncClient(
        base_url=worker.base_url, headers=headers, trust_env=False, verify=_NO_TLS
    ) as client:
        answer = await client.get(f"{API}/users/{person.id}")
    return answer.json()["presence"]["online"]


@asynccontextmanager
async def run(directory: Path, database: str) -> AsyncIterator[Cluster]:
    """Two workers on PostgreSQL and Redis, or one process on SQLite."""
    if database == "sqlite":
        async with run_sqlite_cluster(directory / "cluster") as cluster:
            yield cluster
        return
    try:
        async with run_cluster(directory / "cluster", workers=2) as cluster:
            yield cluster
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


@asynccontextmanager
async def set_scene(directory: Path, database: str) -> AsyncIterator[Scene]:
    async with run(directory, database) as cluster, AsyncExitStack() as stack:
        deployment = Deployment(database, [worker.server for worker in cluster.workers])
        backend = Backend(deployment, stack)
        friend, stranger, blocked, blocking = await backend.people(4)
        scene = Scene(cluster, backend, friend, stranger, blocked, blocking)
        for worker in cluster.workers:
            await scene.listen(worker)
        yield scene


async def test_news_are_right_through_a_lost_redis_and_a_killed_worker(directory: Path) -> None:
    async with set_scene(directory, "postgresql") as scene:
        here, there = scene.cluster.workers
        resident, commuter, traveller, leaver = await scene.people(4)
        await scene.come(resident, there)
        await scene.come(traveller, here, there)
        [leaving] = await scene.come(leaver, there)
        [line] = await scene.come(commuter, here)
        await scene.cluster.restart_redis()
        await scene.see_online(resident, commuter, traveller, leaver)
        await commute(scene, commuter, line, [there, here, there, here])
        here.kill()
        await scene.connect(commuter, there)
        await asyncio.gather(here.start(), scene.leave(leaver, leaving))
        await scene.see_online(resident, commuter, traveller)
        scene.end(resident, commuter, traveller)


@full_only
async def test_people_of_a_killed_worker_are_told_gone_once(directory: Path) -> None:
    async with set_scene(directory, "postgresql") as scene:
        here, there = scene.cluster.workers
        resident, local, traveller, leaver = await scene.people(4)
        await scene.come(resident, here, there)
        for _ in range(KILLS):
            await scene.come(local, here)
            _, distant = await scene.come(traveller, here, there)
            _, leaving = await scene.come(leaver, here, there)
            here.kill()
            killed = time.monotonic()
            await leaving.close()
            await here.start()
            for person in (local, leaver):
                left = killed + KILLED_SECONDS - time.monotonic()
                await scene.hear(person, ONLINE, OFFLINE, within_seconds=left)
            await scene.leave(traveller, distant)
            await scene.see_online(resident)
            scene.forget(local, traveller, leaver)
            await scene.listen(here)
        scene.end(resident)


@full_only
async def test_people_of_a_worker_that_stood_still_come_back_with_it(directory: Path) -> None:
    async with set_scene(directory, "postgresql") as scene:
        here, there = scene.cluster.workers
        local, traveller, leaver, clock = await scene.people(4)
        await scene.come(local, here)
        await scene.come(traveller, here, there)
        [leaving] = await scene.come(leaver, here)
        [last] = await scene.come(clock, there)
        here.stop()
        leaving.abort()
        for person in (local, leaver):
            await scene.hear(person, ONLINE, OFFLINE, within_seconds=KILLED_SECONDS)
        here.go_on()
        await scene.hear(local, ONLINE, OFFLINE, ONLINE)
        await scene.see_online(local, traveller)
        await scene.leave(clock, last)
        await scene.hear(local, ONLINE, OFFLINE, ONLINE)
        await scene.hear(leaver, ONLINE, OFFLINE)
        scene.end(traveller)


@full_only
@pytest.mark.parametrize("database", BACKENDS)
async def test_when_all_workers_stood_still_nobody_is_told_gone(
    directory: Path, database: str
) -> None:
    async with set_scene(directory, database) as scene:
        resident, clock = await scene.people(2)
        workers = scene.cluster.workers
        await scene.come(resident, workers[0])
        [last] = await scene.come(clock, workers[-1])
        for worker in workers:
            worker.stop()
        await asyncio.sleep(KILLED_SECONDS)
        for worker in workers:
            worker.go_on()
        await scene.leave(clock, last)
        await scene.see_online(resident)
        scene.end(resident)


@full_only
async def test_who_came_and_left_while_redis_was_away_is_told_when_it_is_back(
    directory: Path,
) -> None:
    async with set_scene(directory, "postgresql") as scene:
        here, there = scene.cluster.workers
        resident, traveller, comer, leaver, clock = await scene.people(5)
        await scene.come(resident, here)
        near, _ = await scene.come(traveller, here, there)
        [leaving] = await scene.come(leaver, there)
        [last] = await scene.come(clock, here)
        assert scene.cluster.redis is not None
        scene.cluster.redis.kill()
        await asyncio.gather(near.close(), leaving.close(), scene.connect(comer, here))
        await asyncio.sleep(OFFLINE_SECONDS)
        await asyncio.to_thread(scene.cluster.redis.start)
        await scene.hear(comer, ONLINE, within_seconds=2 * BACK_SECONDS)
        await scene.see_online(resident, traveller, comer)
        await scene.leave(clock, last)
        await scene.hear(leaver, ONLINE, OFFLINE)
        scene.end(resident, traveller, comer)


@full_only
async def test_on_sqlite_a_quick_reconnect_is_nobodys_news(directory: Path) -> None:
    async with set_scene(directory, "sqlite") as scene:
        [here] = scene.cluster.workers
        commuter, leaver = await scene.people(2)
        [line] = await scene.come(commuter, here)
        [leaving] = await scene.come(leaver, here)
        await commute(scene, commuter, line, [here] * 4)
        await scene.leave(leaver, leaving)
        await scene.see_online(commuter)
        scene.end(commuter)


async def commute(scene: Scene, person: Person, line: Socket, workers: Sequence[Worker]) -> Socket:
    """Reconnect at once, again and again, once without a word."""
    for number, worker in enumerate(workers):
        if number % 2:
            line.abort()
        await line.close()
        line = await scene.connect(person, worker)
    return line
