"""Seed -> schedule of faults -> faults. The same seed plans the same faults at the same moments."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import redis.asyncio

from tests.faults.cluster import Cluster, Worker
from tests.faults.tcp_proxy import Way
from tests.support.servers import ServerFailed


class Fault(StrEnum):
    """What can go wrong, in the words of the reports."""

    WORKER_KILL = "worker kill"
    BETRAYED_PUBLISH = "kill between commit and publish"
    WORKER_RESTART = "worker restart"
    WORKER_PAUSE = "worker pause"
    REDIS_RESTART = "redis restart"
    REDIS_PAUSE = "redis pause"
    REDIS_CUT = "redis subscriptions cut"
    PUBLISHES_LOST = "publishes lost"
    PUBLISHES_DOUBLED = "publishes doubled"
    POSTGRES_PAUSE = "postgres pause"
    POSTGRES_KILL = "postgres kill"
    COMMIT_ANSWER_LOST = "commit answer lost"
    COMMIT_CUT = "commit cut before"
    COMMITS_HELD = "commits held"
    LONG_TRANSACTION = "long transaction"
    CLIENTS_CUT = "clients cut"
    CLIENTS_HALF_OPEN = "clients half-open"
    CLIENTS_SLOW = "clients slow"
    ANSWERS_LOST = "answers lost"


# How often each is drawn beside the kills that every schedule has.
WEIGHTS: dict[Fault, int] = {
    Fault.BETRAYED_PUBLISH: 5,
    Fault.WORKER_RESTART: 3,
    Fault.WORKER_PAUSE: 4,
    Fault.REDIS_RESTART: 5,
    Fault.REDIS_PAUSE: 5,
    Fault.REDIS_CUT: 5,
    Fault.PUBLISHES_LOST: 5,
    Fault.PUBLISHES_DOUBLED: 5,
    Fault.POSTGRES_PAUSE: 5,
    Fault.POSTGRES_KILL: 5,
    Fault.COMMIT_ANSWER_LOST: 5,
    Fault.COMMIT_CUT: 4,
    Fault.COMMITS_HELD: 4,
    Fault.LONG_TRANSACTION: 5,
    Fault.CLIENTS_CUT: 5,
    Fault.CLIENTS_HALF_OPEN: 5,
    Fault.CLIENTS_SLOW: 4,
    Fault.ANSWERS_LOST: 4,
}
KILLS_A_SCHEDULE = 2
OTHERS_A_SCHEDULE = 4
# After a betrayal is prepared, the worker must publish within this time, or it is called off.
_BETRAYAL_SECONDS = 2.0
_DOWN_SECONDS = (0.1, 1.5)


@dataclass(frozen=True, slots=True)
class Planned:
    """`at`, `seconds`: from the beginning of the schedule, and how long it lasts. `draw`: for its choices."""

    at: float
    fault: Fault
    seconds: float
    draw: float


def plan(seed: int, seconds: float) -> list[Planned]:
    """The faults of one schedule in order of time; the last of them ends before it does."""
    rng = random.Random(f"nemesis {seed}")
    kinds = [Fault.WORKER_KILL] * KILLS_A_SCHEDULE
    kinds += rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=OTHERS_A_SCHEDULE)
    planned = [
        Planned(
            at=rng.uniform(0.3, seconds * 0.8),
            fault=kind,
            seconds=min(rng.uniform(0.5, 3.0), seconds * 0.25),
            draw=rng.random(),
        )
        for kind in kinds
    ]
    return sorted(planned, key=lambda it: it.at)


class Nemesis:
    """Carries one schedule out. `done` counts what really happened."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self.done: Counter[Fault] = Counter()
        # Two starts of the same server at once would fight for its port.
        self._redis_turn = asyncio.Lock()
        self._postgres_turn = asyncio.Lock()
        # Spans of the monotonic clock in which the bus could not carry anything.
        self._silences: list[tuple[float, float]] = []
        # Spans in which nobody could be expected to answer in time.
        self._outages: list[tuple[float, float]] = []

    async def run(self, seconds: float) -> None:
        """All faults of the schedule, each in its time; returns when the last has ended."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for planned in plan(self._seed, seconds):
                await asyncio.sleep(max(0.0, started + planned.at - time.monotonic()))
                group.create_task(self.inflict(planned))
        await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))

    async def inflict(self, planned: Planned) -> None:
        """One fault, and its end."""
        acts: dict[Fault, Callable[[Planned], Awaitable[bool]]] = {
            Fault.WORKER_KILL: self._kill_worker,
            Fault.BETRAYED_PUBLISH: self._betray_publish,
            Fault.WORKER_RESTART: self._restart_worker,
            Fault.WORKER_PAUSE: self._pause_worker,
            Fault.REDIS_RESTART: self._restart_redis,
            Fault.REDIS_PAUSE: self._pause_redis,
            Fault.REDIS_CUT: self._cut_redis,
            Fault.PUBLISHES_LOST: self._lose_publishes,
            Fault.PUBLISHES_DOUBLED: self._double_publishes,
            Fault.POSTGRES_PAUSE: self._pause_postgres,
            Fault.POSTGRES_KILL: self._kill_postgres,
            Fault.COMMIT_ANSWER_LOST: self._lose_commit_answer,
            Fault.COMMIT_CUT: self._cut_commit,
            Fault.COMMITS_HELD: self._hold_commits,
            Fault.LONG_TRANSACTION: self._hold_scope,
            Fault.CLIENTS_CUT: self._cut_clients,
            Fault.CLIENTS_HALF_OPEN: self._silence_clients,
            Fault.CLIENTS_SLOW: self._stall_clients,
            Fault.ANSWERS_LOST: self._lose_answers,
        }
        if await acts[planned.fault](planned):
            self.done[planned.fault] += 1

    async def heal(self) -> None:
        """Mend everything."""
        await self._cluster.heal()

    def allow(self, worker_url: str, start: float, end: float) -> float | None:
        """Within how many seconds a revocation at `start` must be known to this worker.

        None: the worker, or its database, did not run all the time until `end`, so it promises nothing.
        """
        worker = next(it for it in self._cluster.workers if it.base_url == worker_url)
        if not worker.can_serve or worker.disturbed_at > start - 1 or worker.ready_at > start:
            return None
        if any(begun < end and ended > start - 1 for begun, ended in self._outages):
            return None
        is_silent = any(begun < end and ended > start - 1 for begun, ended in self._silences)
        return 2.0 if is_silent else 1.0

    # Workers.

    def _pick(self, planned: Planned) -> Worker | None:
        """A worker that runs; one stays up, so that there is somebody to talk to."""
        up = [worker for worker in self._cluster.workers if worker.can_serve]
        return up[int(planned.draw * len(up))] if len(up) > 1 else None

    async def _kill_worker(self, planned: Planned) -> bool:
        worker = self._pick(planned)
        if worker is None:
            return False
        worker.kill()
        await self._come_back(worker, planned)
        return True

    async def _come_back(self, worker: Worker, planned: Planned) -> None:
        least, most = _DOWN_SECONDS
        await asyncio.sleep(least + planned.draw * (most - least))
        if not worker.is_up and not worker.server.is_running:
            await worker.start()

    async def _betray_publish(self, planned: Planned) -> bool:
        """The next publish of the worker is its death: the commit stands, nobody is told."""
        worker = self._pick(planned)
        if worker is None or worker.redis is None:
            return False
        betrayed = asyncio.Event()

        async def betray() -> bool:
            if not betrayed.is_set() and worker.is_up:
                betrayed.set()
                worker.kill()
            return True

        worker.redis.before_publish = betray
        try:
            async with asyncio.timeout(_BETRAYAL_SECONDS):
                await betrayed.wait()
        except TimeoutError:
            return False
        finally:
            worker.redis.before_publish = None
        await self._come_back(worker, planned)
        return True

    async def _restart_worker(self, planned: Planned) -> bool:
        worker = self._pick(planned)
        if worker is None:
            return False
        # With a database that hangs the end is hard, though in time; that one is clean is a promise of its own.
        with suppress(ServerFailed):
            await worker.terminate()
        await worker.start()
        return True

    async def _pause_worker(self, planned: Planned) -> bool:
        worker = self._pick(planned)
        if worker is None:
            return False
        worker.stop()
        await asyncio.sleep(planned.seconds)
        worker.go_on()
        return True

    # Redis and the bus.

    async def _restart_redis(self, planned: Planned) -> bool:
        redis_server = self._cluster.redis
        assert redis_server is not None
        async with self._redis_turn:
            with _Span(self._silences, after=2.0):
                redis_server.kill()
                await asyncio.sleep(planned.seconds / 2)
                await asyncio.to_thread(redis_server.start)
        return True

    async def _pause_redis(self, planned: Planned) -> bool:
        redis_server = self._cluster.redis
        assert redis_server is not None
        async with self._redis_turn:
            with _Span(self._silences, after=2.0):
                redis_server.signal(signal.SIGSTOP)
                await asyncio.sleep(planned.seconds)
                redis_server.signal(signal.SIGCONT)
        return True

    async def _cut_redis(self, planned: Planned) -> bool:
        assert self._cluster.redis is not None
        with _Span(self._silences, after=1.0):
            try:
                async with (
                    asyncio.timeout(2),
                    redis.asyncio.Redis.from_url(self._cluster.redis.url) as client,
                ):
                    cut = await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            except (redis.RedisError, OSError, TimeoutError):
                return False
        return bool(cut)

    async def _lose_publishes(self, planned: Planned) -> bool:
        with _Span(self._silences, after=0.5):
            return await self._set_bus("lost", 0.1 + 0.9 * planned.draw, planned)

    async def _double_publishes(self, planned: Planned) -> bool:
        return await self._set_bus("doubled", 0.2 + 0.8 * planned.draw, planned)

    async def _set_bus(self, name: str, share: float, planned: Planned) -> bool:
        proxies = [worker.redis for worker in self._cluster.workers if worker.redis is not None]
        for proxy in proxies:
            setattr(proxy, name, share)
        await asyncio.sleep(planned.seconds)
        for proxy in proxies:
            setattr(proxy, name, 0.0)
        return True

    # PostgreSQL.

    async def _pause_postgres(self, planned: Planned) -> bool:
        postgres = self._cluster.postgres
        assert postgres is not None
        async with self._postgres_turn:
            with _Span(self._outages, after=2.0):
                postgres.signal(signal.SIGSTOP)
                await asyncio.sleep(planned.seconds)
                postgres.signal(signal.SIGCONT)
        return True

    async def _kill_postgres(self, planned: Planned) -> bool:
        async with self._postgres_turn:
            with _Span(self._outages, after=3.0):
                await self._cluster.restart_postgres()
        return True

    async def _lose_commit_answer(self, planned: Planned) -> bool:
        return await self._betray_commit("lose_answers", planned)

    async def _cut_commit(self, planned: Planned) -> bool:
        return await self._betray_commit("cut_before", planned)

    async def _betray_commit(self, name: str, planned: Planned) -> bool:
        worker = self._pick(planned)
        if worker is None or worker.postgres is None:
            return False
        count = 1 + int(planned.draw * 3)
        setattr(worker.postgres, name, count)
        await asyncio.sleep(planned.seconds)
        left = getattr(worker.postgres, name)
        setattr(worker.postgres, name, 0)
        return left < count

    async def _hold_commits(self, planned: Planned) -> bool:
        worker = self._pick(planned)
        if worker is None or worker.postgres is None:
            return False
        worker.postgres.hold_commit_seconds = 0.2
        await asyncio.sleep(planned.seconds)
        worker.postgres.hold_commit_seconds = 0.0
        return True

    async def _hold_scope(self, planned: Planned) -> bool:
        """A transaction of somebody else's that keeps the lock of a chat."""
        try:
            async with asyncio.timeout(3):
                connection = await asyncpg.connect(self._cluster.postgres_url)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            transaction = connection.transaction()
            await transaction.start()
            held = await connection.fetch(
                "SELECT id FROM scopes WHERE kind = 1 ORDER BY seq DESC, id LIMIT 1 OFFSET $1"
                " FOR UPDATE SKIP LOCKED",
                int(planned.draw * 3),
            )
            await asyncio.sleep(planned.seconds)
            await transaction.rollback()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        finally:
            connection.terminate()
        return bool(held)

    # Clients.

    async def _cut_clients(self, planned: Planned) -> bool:
        front = self._cluster.front
        return bool(front.cut(front.sample(0.1 + 0.9 * planned.draw)))

    async def _silence_clients(self, planned: Planned) -> bool:
        front = self._cluster.front
        return bool(front.silence(front.sample(0.1 + 0.3 * planned.draw)))

    async def _stall_clients(self, planned: Planned) -> bool:
        front = self._cluster.front
        links = front.sample(0.1 + 0.3 * planned.draw)
        for link in links:
            link.stall(Way.TO_CLIENT)
        await asyncio.sleep(planned.seconds)
        for link in links:
            link.flow()
        return bool(links)

    async def _lose_answers(self, planned: Planned) -> bool:
        """Requests arrive, and what is answered does not."""
        front = self._cluster.front
        links = front.sample(0.1 + 0.3 * planned.draw)
        before = front.answers_lost
        for link in links:
            link.loses_next_answer = True
        await asyncio.sleep(planned.seconds)
        for link in links:
            link.loses_next_answer = False
        return front.answers_lost > before


class _Span:
    """Notes from when to when something was so; `after`: what it takes to be over."""

    def __init__(self, spans: list[tuple[float, float]], *, after: float) -> None:
        self._spans = spans
        self._after = after
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()
        # Open until it ends.
        self._place = len(self._spans)
        self._spans.append((self._began, float("inf")))

    def __exit__(self, *_: object) -> None:
        self._spans[self._place] = (self._began, time.monotonic() + self._after)


def count_planned(seeds: Sequence[int], seconds: float) -> Counter[Fault]:
    """How often each fault is planned in all of these schedules."""
    return Counter(planned.fault for seed in seeds for planned in plan(seed, seconds))
