"""One schedule: load and faults for some seconds, everything mended, and then the judgement.

The cluster and the people are used by many schedules; each is judged by what it added to the log.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from messenger_client import Client, Options

from tests.faults import checkers
from tests.faults.checkers import Anomaly, Ending, LogRow, Spans
from tests.faults.cluster import Cluster
from tests.faults.journal import Call, Journal, read_journal
from tests.faults.judge import Judge, Mark
from tests.faults.machine import Machine
from tests.faults.nemesis import Fault, Nemesis
from tests.faults.revocations import Revoker
from tests.faults.workload import SENDS_PER_SECOND, Workload
from tests.faults.world import Device, World

REVOKED = "session revoked"
WHOLE_WITHIN_SECONDS = 10.0
# Clients that notice a dead line, and come back, within a schedule.
PATIENCE = Options(
    request_timeout=5.0, connect_timeout=2.0, pong_timeout=2.0, backoff_first=0.1, backoff_most=1.0
)
# Whoever is late is flagged, and still waited for: what is judged must not move any more.
_PATIENT_SECONDS = 90.0
_STEP_SECONDS = 0.05
_HEADS_EVERY_SECONDS = 0.5
_PAGE = 50
_SAID_AT_STOP = ("timeout graceful shutdown exceeded", "Exception closing connection")


@dataclass(slots=True)
class Result:
    """What a schedule did and what was found.

    `whole_seconds`: of the slowest device, after the healing. `share`: how much of the machine was ours;
    measured times are multiplied with it.
    """

    seed: int
    faults: Counter[str]
    anomalies: list[Anomaly]
    calls: Counter[str]
    sends: int
    whole_seconds: float
    endings: list[Ending]
    share: float
    seconds: float


class Schedules:
    """Runs schedules one after the other on one cluster and one world."""

    def __init__(self, cluster: Cluster, world: World, directory: Path) -> None:
        """`directory`: where what failed is kept."""
        self._cluster = cluster
        self._world = world
        self._judge = Judge(cluster.postgres_url)
        self._directory = directory
        self._memberships: list[LogRow] = []
        self._last = Mark()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, cluster: Cluster, directory: Path, *, people: int = 30, crowd: int = 500
    ) -> AsyncGenerator[Self]:
        """Sign everybody in and make the chats; all is quiet then."""

        async def codes(phone: str) -> str:
            async with asyncio.timeout(10):
                while True:
                    if found := cluster.codes(phone):
                        return found[-1]
                    await asyncio.sleep(_STEP_SECONDS)

        with TemporaryDirectory(prefix="messenger-devices-") as devices:
            world = World(
                lambda store: Client(cluster.front_url, store, options=PATIENCE),
                codes,
                Path(devices),
                people=people,
                crowd=crowd,
            )
            try:
                await world.set_up()
                schedules = cls(cluster, world, directory)
                await schedules.begin()
                yield schedules
            finally:
                await world.close()

    async def begin(self) -> None:
        """After the set-up: wait until all is quiet; what is in the log so far is judged as well."""
        self._memberships = await self._judge.log(Mark())
        waited = await self._wait_until_whole()
        late = [device for device, seconds in waited.items() if seconds is None]
        assert not late, f"not whole after the set-up: {late}"
        self._last = await self._judge.mark()

    async def run(self, seed: int, *, seconds: float, rate: float = SENDS_PER_SECOND) -> Result:
        """One schedule. What failed stays in `directory/seed-<n>`."""
        started, machine = time.monotonic(), Machine()
        base = self._last
        directory = self._directory / f"seed-{seed}"
        shutil.rmtree(directory, ignore_errors=True)
        for device in self._world.devices:
            device.begin_evidence()
        async with Journal(directory / "journal.jsonl") as journal:
            workload = Workload(self._world, journal, seed, rate=rate)
            nemesis = Nemesis(self._cluster, seed)
            revoker = Revoker(
                self._world,
                journal,
                seed,
                worker_urls=[worker.base_url for worker in self._cluster.workers],
                allowance=nemesis.allow,
            )
            await revoker.prepare()
            broken = await asyncio.gather(
                workload.run(seconds),
                nemesis.run(seconds),
                revoker.run(seconds),
                return_exceptions=True,
            )
            await nemesis.heal()
            healed = time.monotonic()
            all_answered = await workload.finish(_PATIENT_SECONDS)
            waited = await self._wait_until_whole(since=healed)
        share = machine.share()
        waited = {name: None if it is None else it * share for name, it in waited.items()}
        anomalies = [] if all_answered else [Anomaly("not-whole", "calls were never answered")]
        anomalies += [Anomaly("suite-failed", repr(error)[:2000]) for error in broken if error]
        anomalies += [
            Anomaly("client-failed", repr(fault)) for fault in self._list_faults(workload)
        ]
        anomalies += checkers.check_healing(waited, bar=WHOLE_WITHIN_SECONDS)
        calls = read_journal(directory / "journal.jsonl")
        anomalies += await self._judge_all(base, calls)
        endings = [replace(it, seconds=it.seconds * share) for it in revoker.endings]
        anomalies += checkers.check_revocations(endings)
        lines = self._cluster.take_logged_errors()
        anomalies += checkers.check_server_logs(_leave_out_expected(lines, nemesis.done))
        self._last = await self._judge.mark()
        self._keep_or_forget(directory, anomalies)
        return Result(
            seed=seed,
            faults=_count(nemesis, revoker),
            anomalies=anomalies,
            calls=Counter(f"{call.action} {call.outcome}" for call in calls),
            sends=workload.sends,
            whole_seconds=max(seconds or _PATIENT_SECONDS for seconds in waited.values()),
            endings=endings,
            share=share,
            seconds=time.monotonic() - started,
        )

    async def _judge_all(self, base: Mark, calls: Sequence[Call]) -> list[Anomaly]:
        judge, world = self._judge, self._world
        heads = await judge.heads()
        log = await judge.log(base)
        messages = await judge.messages(base)
        devices = [device.take_evidence() for device in world.devices]
        self._memberships += [row for row in log if row.type in {"chat_created", "chat_removed"}]
        spans = checkers.read_spans(self._memberships)
        counts = await judge.counts(world.user_ids)
        steady = [chat for chat in world.chats if chat.is_steady]
        newest = await judge.newest([chat.id for chat in steady], _PAGE)
        return [
            *checkers.check_log(base.heads, log, heads),
            *checkers.check_ids(log, messages),
            *checkers.check_sends(calls, messages),
            *checkers.check_changes(calls, log),
            *checkers.check_order(devices, log),
            *checkers.check_polls(devices, heads, spans),
            *checkers.check_visibility(devices, spans),
            *checkers.check_writers(messages, spans),
            *checkers.check_texts(devices, calls),
            *checkers.check_counts(await self._read_lists(), counts),
            *checkers.check_marks(calls, counts),
            *checkers.check_history(await self._read_pages(), newest),
            *checkers.check_answers(calls),
            *checkers.check_looks(calls),
            *checkers.check_transactions(await judge.idle_transactions()),
        ]

    async def _read_lists(self) -> dict[int, Sequence[Mapping[str, Any]]]:
        """The chat list of everybody, over HTTP."""
        lists: dict[int, Sequence[Mapping[str, Any]]] = {}
        for person in self._world.people:
            client = person.devices[0].client
            page = await client.call("GET", "/chats/", params={"limit": "100"})
            lists[person.id] = page["items"]
        return lists

    async def _read_pages(self) -> dict[int, Sequence[int]]:
        """The newest messages of each chat, as its first member gets them."""
        pages: dict[int, Sequence[int]] = {}
        for chat in self._world.chats:
            if not chat.is_steady:
                continue
            client = chat.members[0].devices[0].client
            path = f"/messages/chat/{chat.id}"
            page = await client.call("GET", path, params={"limit": str(_PAGE)})
            pages[chat.id] = [item["id"] for item in page["items"]]
        return pages

    async def _wait_until_whole(self, since: float | None = None) -> dict[str, float | None]:
        """Device -> seconds after `since` until it stood where the log stands; None: not in time."""
        began = time.monotonic() if since is None else since
        whole: dict[str, float | None] = {device.name: None for device in self._world.devices}
        heads: Mapping[str, int] = {}
        while time.monotonic() - began < _PATIENT_SECONDS:
            earlier, heads = heads, await self._judge.heads()
            if heads == earlier and None not in whole.values():
                break
            spans = await self._read_spans()
            until = time.monotonic() + _HEADS_EVERY_SECONDS
            while time.monotonic() < until:
                for device in self._world.devices:
                    if not await _is_whole(device, heads, spans):
                        whole[device.name] = None
                    elif whole[device.name] is None:
                        whole[device.name] = time.monotonic() - began
                if None not in whole.values():
                    break
                await asyncio.sleep(_STEP_SECONDS)
        return whole

    async def _read_spans(self) -> Spans:
        fresh = await self._judge.log(self._last)
        rows = [row for row in fresh if row.type in {"chat_created", "chat_removed"}]
        return checkers.read_spans([*self._memberships, *rows])

    def _keep_or_forget(self, directory: Path, anomalies: Sequence[Anomaly]) -> None:
        """What failed keeps its journal, the logs of the workers and what was found."""
        if not anomalies:
            shutil.rmtree(directory)
            return
        lines = "\n".join(map(str, anomalies))
        (directory / "anomalies.txt").write_text(f"{lines}\n", encoding="utf-8")
        for worker in self._cluster.workers:
            for file in worker.server.directory.glob("*.*"):
                if file.is_file():
                    shutil.copy(file, directory / f"{worker.server.name}-{file.name}")

    async def judge_everything(self) -> list[Anomaly]:
        """The log of all schedules together, from its first number on."""
        heads, log = await self._judge.heads(), await self._judge.log(Mark())
        messages = await self._judge.messages(Mark())
        return [*checkers.check_log({}, log, heads), *checkers.check_ids(log, messages)]

    def _list_faults(self, workload: Workload) -> list[BaseException]:
        faults = [fault for device in self._world.devices if (fault := device.fault()) is not None]
        return [*workload.faults, *faults]


def _leave_out_expected(lines: Sequence[str], done: Mapping[Fault, int]) -> list[str]:
    """A worker that is told to stop while clients or the database hang cancels what waits for them.

    That a stop without such faults is clean is a promise with a test of its own.
    """
    if not done.get(Fault.WORKER_RESTART):
        return list(lines)
    left = [line for line in lines if not any(said in line for said in _SAID_AT_STOP)]
    # A trace on the console has its line of JSON in the log.
    return left if any(line.startswith("{") for line in left) else []


def _count(nemesis: Nemesis, revoker: Revoker) -> Counter[str]:
    """The faults that were really done."""
    done = Counter({str(fault): count for fault, count in nemesis.done.items()})
    if revoker.revoked:
        done[REVOKED] += revoker.revoked
    return done


async def _is_whole(device: Device, heads: Mapping[str, int], spans: Spans) -> bool:
    """It stands where the log stands, and has nothing left to send."""
    wanted = {
        scope: heads.get(f"user:{device.person.id}" if scope == "user" else scope, 0)
        for scope in checkers.list_scopes(device.person.id, spans)
    }
    if not device.client.is_connected or device.cursors() != wanted:
        return False
    return not await device.record.list_outgoing()
