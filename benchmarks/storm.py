"""The storm: thousands of sockets cut at once come back for what they missed, while others talk on.

    make storm args="[--only sqlite|postgresql] [--sockets 2000] [--missed 200]"

Measures delivery and memory before, during and after it, and what a replay costs, on the real server
as processes. Writes the section between its marks in docs/reliability.md, where both were measured.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.swarm import allow_many_files, request
from tests.support.postgres import run_postgres_process
from tests.support.redis_server import run_redis
from tests.support.servers import ROOT, TEST_ENVIRONMENT, Server

GROUP_MEMBERS = 100
PAIRS = 10
TALK_RATE = 20.0
WATCHED = 50
CALM_SECONDS = 10.0
REST_SECONDS = 60.0
REPLAYED = 1000
REPLAYS = 10
_SIGN_UPS_AT_ONCE = 16
_MEMORY_STEP_SECONDS = 0.25
_PAGE = ROOT / "docs" / "reliability.md"
_BEGIN = "<!-- figures of benchmarks.storm: begin -->"
_END = "<!-- figures of benchmarks.storm: end -->"
_LABELS = {"sqlite": "SQLite, one process", "postgresql": "PostgreSQL and Redis, two workers"}
# The measured server runs on its defaults but for these.
_KEPT = {name for name in TEST_ENVIRONMENT if "LIMIT" in name} | {
    "SMS_PROVIDER",
    "CODE_HASH_ROUNDS",
}

_phones = itertools.count(1)


@dataclass
class Place:
    """A running server, and the processes behind it."""

    server: Server
    database_pid: int | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.port

    def memory(self) -> int:
        """Resident bytes of the server and its workers."""
        return sum(process.memory_info().rss for process in _tree(self.server.pid))

    def cpu_seconds(self) -> tuple[float, float]:
        """Used so far by the server, and by its database where that is a process of its own."""
        own = _cpu(_tree(self.server.pid))
        return own, _cpu(_tree(self.database_pid)) if self.database_pid else 0.0

    async def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None
    ) -> Any:
        """What an API call answers; it must succeed."""
        status, answer = await request(self.address, method, path, body or {}, token=token)
        if status >= 300:
            sys.exit(f"{method} {path} -> {status} {answer}")
        return answer


@dataclass(frozen=True)
class Account:
    id: int
    token: str


class Swarm:
    """A process of `benchmarks.swarm`; `await swarm.ask("open", devices=[...])`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    async def ask(self, command: str, **arguments: object) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "do": command, "with": arguments})
        self._process.stdin.write(line.encode() + b"\n")
        return await self._answers[number]

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._answers.pop(answer["id"])
            if "error" in answer:
                future.set_exception(RuntimeError(answer["error"]))
            else:
                future.set_result(answer["answer"])
        for future in self._answers.values():
            future.set_exception(RuntimeError("the swarm has ended"))


@asynccontextmanager
async def run_swarm() -> AsyncIterator[Swarm]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.swarm",
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "clients/python/src")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    swarm = Swarm(process)
    try:
        yield swarm
    finally:
        await swarm.close()


@contextmanager
def run_place(name: str, **settings: str) -> Iterator[Place]:
    """The real server on `sqlite` or `postgresql`: default settings, rate limits raised."""
    allow_many_files()
    environment = {setting: "" for setting in TEST_ENVIRONMENT if setting not in _KEPT}
    environment |= {"LOG_LEVEL": "WARNING", "ACCESS_TOKEN_MINUTES": "1440"}
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="messenger-storm-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        database_pid = None
        if name == "postgresql":
            postgres = stack.enter_context(run_postgres_process(durable=True))
            database_pid = postgres.pid
            environment |= {
                "DATABASE_TYPE": "postgresql",
                "DATABASE_URL": postgres.url,
                "USE_REDIS": "true",
                "REDIS_URL": stack.enter_context(run_redis()),
                "WORKERS": "2",
            }
        server = stack.enter_context(
            Server(directory, environment | settings, name=name, forked=False)
        )
        yield Place(server, database_pid)


async def sign_up(place: Place, count: int) -> list[Account]:
    """New accounts, many at a time."""
    remaining = iter(range(count))
    accounts: list[Account] = []

    async def repeat() -> None:
        for _ in remaining:
            phone = f"+49151{next(_phones):08d}"
            sent = await place.call("POST", "/auth/send-verification", {"phone": phone})
            body = {
                "verification_id": sent["verification_id"],
                "code": place.server.codes(phone)[-1],
                "first_name": "Anna",
            }
            answer = await place.call("POST", "/auth/verify-code", body)
            accounts.append(Account(answer["user"]["id"], answer["access_token"]))

    await asyncio.gather(*(repeat() for _ in range(_SIGN_UPS_AT_ONCE)))
    return accounts


async def make_group(place: Place, owner: Account, members: Sequence[Account]) -> int:
    ids = [member.id for member in members]
    body = {"type": "group", "title": "Group", "member_ids": ids[:100]}
    chat_id = (await place.call("POST", "/chats/", body, token=owner.token))["id"]
    for start in range(100, len(ids), 100):
        body = {"user_ids": ids[start : start + 100]}
        await place.call("POST", f"/chats/{chat_id}/members", body, token=owner.token)
    return chat_id


async def make_pair(place: Place, one: Account, other: Account) -> int:
    body = {"type": "private", "user_id": other.id}
    return (await place.call("POST", "/chats/", body, token=one.token))["id"]


def as_devices(place: Place, accounts: Sequence[Account]) -> list[dict[str, Any]]:
    host, port = place.address
    return [{"host": host, "port": port, "token": account.token} for account in accounts]


@dataclass
class Scene:
    """`crowd`: the devices that are cut. `others`: a speaker, a watcher, and pairs that talk on."""

    place: Place
    crowd: Swarm
    others: Swarm
    groups: list[int]
    talks: list[tuple[int, int]]
    watched: set[int] = field(default_factory=set[int])


async def set_scene(place: Place, crowd: Swarm, others: Swarm, *, sockets: int) -> Scene:
    """Everybody signed up, in groups of a hundred, connected."""
    speaker, watcher, *talkers = await sign_up(place, 2 + 2 * PAIRS)
    people = await sign_up(place, sockets)
    groups = [
        await make_group(place, speaker, people[start : start + GROUP_MEMBERS])
        for start in range(0, sockets, GROUP_MEMBERS)
    ]
    watched = people[:: max(1, sockets // WATCHED)]
    for person in watched:
        await make_pair(place, watcher, person)
    talks: list[tuple[int, int]] = []
    for index in range(0, 2 * PAIRS, 2):
        chat_id = await make_pair(place, talkers[index], talkers[index + 1])
        talks += [(2 + index, chat_id), (2 + index + 1, chat_id)]
    await others.ask("open", devices=as_devices(place, [speaker, watcher, *talkers]))
    await crowd.ask("open", devices=as_devices(place, people))
    return Scene(place, crowd, others, groups, talks, {person.id for person in watched})


class Memory:
    """The most that a server holds while this is open, and what it holds now; in bytes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._task: asyncio.Task[None] | None = None
        self.most = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        self.most = max(self.most, self._place.memory())

    async def _look(self) -> None:
        while True:
            self.most = max(self.most, self._place.memory())
            await asyncio.sleep(_MEMORY_STEP_SECONDS)


async def measure_storm(
    scene: Scene, *, missed: int, calm_seconds: float, rest_seconds: float
) -> dict[str, Any]:
    """`before`, `during` and `after`: what the others saw, and memory; `storm`: how the crowd came back."""
    figures: dict[str, Any] = {"before": await _talk(scene, calm_seconds)}
    await scene.crowd.ask("cut")
    await asyncio.gather(
        *(
            scene.others.ask("say", device=0, chat_id=chat_id, count=missed, at_once=2)
            for chat_id in scene.groups
        )
    )
    await scene.others.ask("figures")
    await scene.crowd.ask("figures")
    storm, during = await _storm(scene)
    figures["during"] = during
    figures["storm"] = storm
    after = await _talk(scene, calm_seconds)
    await asyncio.sleep(max(0.0, rest_seconds - calm_seconds))
    figures["after"] = {**after, "memory": scene.place.memory()}
    return figures


async def _talk(scene: Scene, seconds: float) -> dict[str, Any]:
    """What the others see of each other for a while."""
    async with Memory(scene.place) as memory:
        await scene.others.ask("begin_load", sends=scene.talks, rate=TALK_RATE)
        await asyncio.sleep(seconds)
        await scene.others.ask("end_load")
    return {**await scene.others.ask("figures"), "memory": memory.most}


async def _storm(scene: Scene) -> tuple[dict[str, Any], dict[str, Any]]:
    cpu = scene.place.cpu_seconds()
    async with Memory(scene.place) as memory:
        await scene.others.ask("begin_load", sends=scene.talks, rate=TALK_RATE)
        started = time.monotonic()
        storm = await scene.crowd.ask("storm")
        wall = time.monotonic() - started
        await asyncio.sleep(1.5)  # the last news of who came
        await scene.others.ask("end_load")
    used = [now - then for now, then in zip(scene.place.cpu_seconds(), cpu, strict=True)]
    others = await scene.others.ask("figures")
    crowd = await scene.crowd.ask("figures")
    seconds = storm["seconds"]
    late = sorted(
        (others["news"][user_id] - hello_at) / 1e9
        for user_id, hello_at in storm["hello_at"].items()
        if user_id in others["news"]
    )
    return {
        "resumed": len(seconds),
        "half_seconds": seconds[len(seconds) // 2],
        "most_seconds": seconds[-1],
        "wall_seconds": wall,
        "replayed": crowd["replayed"],
        "faults": crowd["faults"],
        "statuses": crowd["statuses"],
        "server_cpu_seconds": used[0],
        "database_cpu_seconds": used[1],
        "news": len(late),
        "watched": len(scene.watched),
        "news_most_seconds": late[-1] if late else None,
    }, {**others, "memory": memory.most}


async def measure_replay(place: Place, swarm: Swarm) -> dict[str, float]:
    """What one client that missed `REPLAYED` messages costs; the mean of `REPLAYS`."""
    speaker, *people = await sign_up(place, 1 + REPLAYS)
    chat_id = await make_group(place, speaker, people)
    async with run_swarm() as speakers:
        await speakers.ask("open", devices=as_devices(place, [speaker]))
        await swarm.ask("open", devices=as_devices(place, people))
        await swarm.ask("cut")
        await speakers.ask("say", device=0, chat_id=chat_id, count=REPLAYED)
    await swarm.ask("figures")
    idle = await _idle_cpu(place)
    cpu, started = place.cpu_seconds(), time.monotonic()
    took = [await swarm.ask("come_back", device=index) for index in range(REPLAYS)]
    elapsed = time.monotonic() - started
    used = [
        (now - then - rate * elapsed) * 1000 / REPLAYS
        for now, then, rate in zip(place.cpu_seconds(), cpu, idle, strict=True)
    ]
    figures = await swarm.ask("figures")
    if figures["replayed"] != REPLAYED * REPLAYS or figures["faults"]:
        sys.exit(f"the replay was not whole: {figures}")
    return {
        "server_cpu_ms": used[0],
        "database_cpu_ms": used[1],
        "wall_ms": sum(took) * 1000 / REPLAYS,
        "kilobytes": figures["bytes"] / REPLAYS / 1000,
    }


async def _idle_cpu(place: Place) -> list[float]:
    """Seconds of CPU a second that server and database use for themselves."""
    before, seconds = place.cpu_seconds(), 4.0
    await asyncio.sleep(seconds)
    return [(now - then) / seconds for now, then in zip(place.cpu_seconds(), before, strict=True)]


async def measure(name: str, *, sockets: int, missed: int) -> dict[str, Any]:
    with run_place(name) as place:
        async with run_swarm() as swarm:
            replay = await measure_replay(place, swarm)
        async with run_swarm() as crowd, run_swarm() as others:
            print(f"{name}: {sockets} people sign up ...", flush=True)
            scene = await set_scene(place, crowd, others, sockets=sockets)
            print(f"{name}: the storm ...", flush=True)
            storm = await measure_storm(
                scene, missed=missed, calm_seconds=CALM_SECONDS, rest_seconds=REST_SECONDS
            )
        place.server.stop()
        return {"replay": replay, **storm}


def render(figures: Mapping[str, dict[str, Any]], *, sockets: int, missed: int) -> list[str]:
    """The section of the page."""
    told = (
        f"Written by `make storm`: {sockets:,} sockets of {sockets:,} people in groups of"
        f" {GROUP_MEMBERS} are cut at once; {missed} messages come into every group; then all of them fetch"
        f" a ticket, connect and resume within a quarter of a second. {PAIRS} pairs of others go on talking,"
        f" {TALK_RATE:.0f} messages a second in all. Server, database and clients share {os.cpu_count()}"
        f" cores ({platform.machine()}, Python {platform.python_version()}); single figures depend on the"
        " machine."
    )
    lines = textwrap.wrap(told, 105)
    for name, measured in figures.items():
        lines += [
            "",
            f"**{_LABELS[name]}**",
            "",
            *_storm_table(measured),
            "",
            _storm_text(measured),
        ]
    lines += ["", f"The cost of replaying {REPLAYED:,} missed messages to one client:", ""]
    lines += ["| | CPU of the server, ms | CPU of the database, ms | wall, ms | kB sent |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, measured in figures.items():
        it = measured["replay"]
        database = f"{it['database_cpu_ms']:.0f}" if it["database_cpu_ms"] else "(in the server)"
        lines.append(
            f"| {_LABELS[name]} | {it['server_cpu_ms']:.0f} | {database} | {it['wall_ms']:.0f} |"
            f" {it['kilobytes']:.0f} |"
        )
    return lines


def _storm_table(measured: Mapping[str, Any]) -> list[str]:
    lines = [
        "| | delivery p50 / p99 ms | send p50 / p99 ms | memory of the server, MB |",
        "| --- | --- | --- | --- |",
    ]
    for moment in ("before", "during", "after"):
        it = measured[moment]
        lines.append(
            f"| {moment} | {_latency(it['deliveries'])} | {_latency(it['answers'])} |"
            f" {it['memory'] / 1e6:.0f} |"
        )
    return lines


def _storm_text(measured: Mapping[str, Any]) -> str:
    it = measured["storm"]
    server_faults = sum(n for status, n in it["statuses"].items() if int(status) >= 500)
    news = "nobody was watched"
    if it["news_most_seconds"] is not None:
        news = f"{it['news']} of {it['watched']} watched people were told online, the last after"
        news += f" {it['news_most_seconds']:.2f} s"
    return (
        f"{it['resumed']:,} clients whole again: half after {it['half_seconds']:.1f} s, the last after"
        f" {it['most_seconds']:.1f} s; {it['replayed']:,} updates replayed in"
        f" {it['server_cpu_seconds']:.1f} s of CPU; {server_faults} answers of 5xx, faults:"
        f" {it['faults'] or 'none'}; {news}."
    )


def _latency(row: Mapping[str, float]) -> str:
    return f"{row['p50_ms']:.0f} / {row['p99_ms']:.0f}" if "p50_ms" in row else "-"


def write_section(lines: Sequence[str]) -> None:
    """Between the marks of the page."""
    text = _PAGE.read_text(encoding="utf-8")
    if _BEGIN not in text or _END not in text:
        sys.exit(f"{_PAGE} has no marks for the figures: {_BEGIN} {_END}")
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    _PAGE.write_text("\n".join([head + _BEGIN, *lines, _END]) + tail, encoding="utf-8")


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu(processes: Sequence[psutil.Process]) -> float:
    used = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument("--missed", type=int, default=200)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in [options.only] if options.only else ["sqlite", "postgresql"]:
        figures[name] = asyncio.run(measure(name, sockets=options.sockets, missed=options.missed))
        print(json.dumps({name: figures[name]}, indent=2))
    if not options.only:
        write_section(render(figures, sockets=options.sockets, missed=options.missed))


if __name__ == "__main__":
    main()
