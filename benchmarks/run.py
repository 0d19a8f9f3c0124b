"""The load benchmark: the real server and the bare floor, as processes, on SQLite and on PostgreSQL with Redis.

    python -m benchmarks.run [--seconds 8] [--only sqlite|postgresql]

Everything is made through the API, as clients would do it. The measured server runs on default
settings but for rate limits. Writes docs/benchmarks.md.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.report import Figures, write_report
from tests.support.people import Backend, Deployment, Person
from tests.support.ports import free_port
from tests.support.postgres import run_postgres
from tests.support.redis_server import run_redis
from tests.support.servers import ROOT, TEST_ENVIRONMENT, Server

PAIRS = 20
GROUP_MEMBERS = 500
GROUP_SENDERS = 4
HISTORY = 10_000
CHATS = 500
IDLE = 1_000
HTTP_CONNECTIONS = 8
# The measured server: what the tests lower is at its default again, rate limits stay raised.
_RATE_LIMITS = tuple(name for name in TEST_ENVIRONMENT if "LIMIT" in name or "LOOKUPS" in name)
NO_RATE_LIMITS = {"WS_FRAMES_PER_SECOND": "100000", "ENABLE_RATE_LIMITS": "false"}


@dataclass
class World:
    """What the measured clients need: made before the clock starts."""

    pairs: list[tuple[Person, Person, int]] = field(default_factory=list)
    group: list[Person] = field(default_factory=list)
    group_id: int = 0
    history_id: int = 0
    hoarder: Person | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    for name in [options.only] if options.only else ["sqlite", "postgresql"]:
        figures[name] = measure(name, options.seconds)
        print(json.dumps({name: figures[name]}, indent=2))
    write_report(ROOT / "docs" / "benchmarks.md", figures)


def measure(name: str, seconds: float) -> Figures:
    """All rows on one database: the server's, then the floor's."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="messenger-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        environment = dict(NO_RATE_LIMITS)
        floor_database = f"sqlite:///{directory}/floor.db"
        if name == "postgresql":
            cluster = stack.enter_context(run_postgres(durable=True))
            floor_database = cluster.create_database()
            environment |= {
                "DATABASE_TYPE": "postgresql",
                "DATABASE_URL": cluster.create_database(),
                "USE_REDIS": "true",
                "REDIS_URL": stack.enter_context(run_redis()),
            }
        print(f"{name}: making people and chats ...", flush=True)
        world = asyncio.run(prepare(directory / "app", environment))
        for setting in TEST_ENVIRONMENT:
            if setting not in _RATE_LIMITS and setting != "SMS_PROVIDER":
                environment[setting] = ""  # empty: the default
        with Server(directory / "app", environment, name=name, forked=False) as server:
            figures = {"server": measure_server(server, world, seconds)}
            server.stop()
        with floor(floor_database) as (port, process):
            figures["floor"] = measure_floor(port, process, seconds)
        return figures


async def prepare(directory: Path, environment: Mapping[str, str]) -> World:
    """40 people in pairs, a group of 500, a chat of 10,000 messages, a person with 500 chats."""
    world = World()
    with Server(directory, environment, name="prepare") as server:
        deployment = Deployment("sqlite", [server], {})
        async with AsyncExitStack() as stack:
            backend = Backend(deployment, stack)
            people = await _sign_up(backend, GROUP_MEMBERS)
            for first, second in zip(
                people[: 2 * PAIRS : 2], people[1 : 2 * PAIRS : 2], strict=True
            ):
                chat = await first.private_chat(second)
                world.pairs.append((first, second, chat["id"]))
            owner = people[0]
            world.group = people
            group = await owner.group("All", [])
            world.group_id = group["id"]
            for start in range(1, len(people), 100):
                ids = [person.id for person in people[start : start + 100]]
                await owner.post(f"/chats/{world.group_id}/members", {"user_ids": ids})
            hoarder = people[-1]
            world.hoarder = hoarder
            for number in range(CHATS - 1):
                await hoarder.group(f"Chat {number}", [])
            history = await hoarder.group("History", [])
            world.history_id = history["id"]
            await _fill(server, hoarder, world.history_id)
        server.stop()
    return world


async def _sign_up(backend: Backend, count: int) -> list[Person]:
    people: list[Person] = []
    for start in range(0, count, 10):
        people += await backend.people(min(10, count - start))
    return people


async def _fill(server: Server, person: Person, chat_id: int) -> None:
    """10,000 messages over 20 requests at a time."""
    limits = httpx.Limits(max_connections=20)
    headers = {"Authorization": f"Bearer {person.access_token}"}
    async with httpx.AsyncClient(
        base_url=server.base_url, headers=headers, limits=limits, timeout=60
    ) as client:

        async def say(number: int) -> None:
            body = {"chat_id": chat_id, "text": f"message {number} ".ljust(100, "x")}
            (await client.post("/api/v1/messages/", json=body)).raise_for_status()

        for start in range(0, HISTORY, 100):
            await asyncio.gather(*(say(start + offset) for offset in range(100)))


def measure_server(server: Server, world: World, seconds: float) -> dict[str, Any]:
    pairs = [person for first, second, _ in world.pairs for person in (first, second)]
    sends = [[index, world.pairs[index // 2][2]] for index in range(2 * PAIRS)]
    rows: dict[str, Any] = {}
    before = _memory(server.pid)
    rows["idle"] = _idle(
        [_url(server, world.group[i % len(world.group)]) for i in range(IDLE)], server.pid, before
    )
    job = {
        "kind": "sockets",
        "seconds": seconds,
        "urls": [_url(server, p) for p in pairs],
        "sends": sends,
    }
    rows["pairs"] = drive(job)
    sends = [[index, world.group_id] for index in range(GROUP_SENDERS)]
    job = {
        "kind": "sockets",
        "seconds": seconds,
        "urls": [_url(server, p) for p in world.group],
        "sends": sends,
    }
    rows["group"] = drive(job)
    hoarder = world.hoarder
    assert hoarder is not None
    http = {
        "kind": "http",
        "host": "127.0.0.1",
        "port": server.port,
        "seconds": seconds,
        "connections": HTTP_CONNECTIONS,
        "token": hoarder.access_token,
    }
    rows["history"] = drive({**http, "path": f"/api/v1/messages/chat/{world.history_id}?limit=50"})
    rows["chat_list"] = drive({**http, "path": "/api/v1/chats/?limit=50"})
    return rows


def measure_floor(port: int, process: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any]:
    """The same work: who is in which chat stands in the path."""
    base = f"ws://127.0.0.1:{port}/ws"
    rows: dict[str, Any] = {}
    before = _memory(process.pid)
    rows["idle"] = _idle(
        [f"{base}/{user}/{user}" for user in range(1, IDLE + 1)], process.pid, before
    )
    urls = [f"{base}/{index + 1}/{index // 2 + 1}" for index in range(2 * PAIRS)]
    sends = [[index, index // 2 + 1] for index in range(2 * PAIRS)]
    rows["pairs"] = drive({"kind": "sockets", "seconds": seconds, "urls": urls, "sends": sends})
    urls = [f"{base}/{index + 1}/{GROUP_MEMBERS}" for index in range(GROUP_MEMBERS)]
    sends = [[index, GROUP_MEMBERS] for index in range(GROUP_SENDERS)]
    rows["group"] = drive({"kind": "sockets", "seconds": seconds, "urls": urls, "sends": sends})
    http = {
        "kind": "http",
        "host": "127.0.0.1",
        "port": port,
        "token": "-",
        "connections": HTTP_CONNECTIONS,
    }
    rows["history"] = drive({**http, "seconds": seconds, "path": "/messages/1"})
    return rows


def drive(job: Mapping[str, object]) -> dict[str, float]:
    """Run one job in a process of its own."""
    process = _start_driver()
    output, _ = process.communicate(json.dumps(job).encode() + b"\n", timeout=180)
    if process.returncode:
        sys.exit(f"the driver failed on {job['kind']}")
    return json.loads(output)


def _idle(urls: list[str], pid: int, before: int) -> dict[str, float]:
    """Resident bytes of the server a socket that says nothing."""
    process = _start_driver()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"kind": "idle", "urls": urls}).encode() + b"\n")
    process.stdin.flush()
    opened = json.loads(process.stdout.readline())["open"]
    grown = _memory(pid) - before
    process.communicate(b"\n", timeout=60)
    return {"kib_per_connection": grown / opened / 1024}


def _start_driver() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.driver"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _memory(pid: int) -> int:
    process = psutil.Process(pid)
    return process.memory_info().rss + sum(
        child.memory_info().rss for child in process.children(recursive=True)
    )


def _url(server: Server, person: Person) -> str:
    return f"{server.websocket_url}/api/v1/ws/{person.access_token}"


@contextmanager
def floor(database: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """The floor on a port of its own, ready."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.floor", str(port)],
        cwd=ROOT,
        env={**os.environ, "FLOOR_DATABASE": database},
    )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            client.get(f"http://127.0.0.1:{port}/messages/1", timeout=20).raise_for_status()
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=20)


if __name__ == "__main__":
    main()
