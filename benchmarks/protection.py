"""What protection costs: the real server with everything on against everything off that can be switched off.

    make bench-protection args="[--seconds 5] [--rounds 3] [--only sqlite|postgresql]"

The two take turns, so that whatever else the machine does hits both; figures are medians of the rounds. What
one message or request takes of the processor says more than how many there are in a second: other programs
take from the latter.
Writes the section between its marks in docs/benchmarks.md.
"""

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import tempfile
import textwrap
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.run import HTTP_CONNECTIONS, PAIRS, drive
from tests.support.people import Backend, Deployment, Person
from tests.support.postgres import run_postgres
from tests.support.redis_server import run_redis
from tests.support.servers import ROOT, TEST_ENVIRONMENT, Server

HISTORY = 1_000
_PAGE = ROOT / "docs" / "benchmarks.md"
_BEGIN = "<!-- figures of benchmarks.protection: begin -->"
_END = "<!-- figures of benchmarks.protection: end -->"
OFF = {
    "ENCRYPT_PERSONAL_DATA": "false",
    "ENCRYPT_MESSAGES": "false",
    "ENABLE_RATE_LIMITS": "false",
    "ENABLE_SECURITY_HEADERS": "false",
    "ENABLE_CSRF_PROTECTION": "false",
}
# So high that nothing is refused; they are counted all the same.
_LIMITS = {name: value for name, value in TEST_ENVIRONMENT.items() if "LIMIT" in name}
_SETTINGS = _LIMITS | {
    "WS_FRAMES_PER_SECOND": "100000",
    "ACCESS_TOKEN_MINUTES": "1440",
    "LOG_LEVEL": "INFO",
}
_ROWS = {
    "pairs": ("acknowledged_per_second", "messages/s, 20 pairs, acknowledged and delivered"),
    "history": ("requests_per_second", "requests/s, newest 50 of a 1,000-message chat"),
    "me": ("requests_per_second", "requests/s, my profile"),
}
_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL + Redis"}


@dataclass
class Side:
    """One of the two: its settings, its people, and what was measured so far, by row: how many in a second,
    and the milliseconds of a processor that the server took for each.
    """

    directory: Path
    environment: dict[str, str]
    pairs: list[tuple[Person, Person, int]] = field(default_factory=list)
    history_id: int = 0
    rates: dict[str, list[float]] = field(default_factory=lambda: {row: [] for row in _ROWS})
    costs: dict[str, list[float]] = field(default_factory=lambda: {row: [] for row in _ROWS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    names = [options.only] if options.only else list(_DATABASES)
    measured = {name: measure(name, options.seconds, options.rounds) for name in names}
    write_section(measured)


def measure(name: str, seconds: float, rounds: int) -> dict[str, Side]:
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="messenger-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        shared: dict[str, str] = dict(_SETTINGS)
        databases = dict.fromkeys(("on", "off"), "")
        if name == "postgresql":
            cluster = stack.enter_context(run_postgres(durable=True))
            databases = {side: cluster.create_database() for side in databases}
            shared |= {
                "DATABASE_TYPE": "postgresql",
                "USE_REDIS": "true",
                "REDIS_URL": stack.enter_context(run_redis()),
            }
        sides: dict[str, Side] = {}
        for side, url in databases.items():
            settings = shared | (OFF if side == "off" else {}) | {"DATABASE_URL": url}
            sides[side] = Side(directory / side, settings)
            print(f"{name}, {side}: making people and chats ...", flush=True)
            asyncio.run(prepare(sides[side]))
        for number in range(rounds):
            # Neither is always the first.
            for side in sorted(sides, reverse=bool(number % 2)):
                measure_side(sides[side], seconds)
                costs = {row: round(values[-1], 2) for row, values in sides[side].costs.items()}
                print(f"{name}, {side}: {costs} ms of CPU", flush=True)
        return sides


async def prepare(side: Side) -> None:
    """20 pairs, and a chat with a history."""
    with Server(side.directory, side.environment, forked=False) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server], {}), stack)
            people = await backend.people(2 * PAIRS)
            for one, other in zip(people[::2], people[1::2], strict=True):
                side.pairs.append((one, other, (await one.private_chat(other))["id"]))
            writer = people[0]
            history = await writer.group("History", [])
            side.history_id = history["id"]
            for number in range(HISTORY):
                await writer.say(history, f"message {number} ".ljust(100, "x"))
        server.stop()


def measure_side(side: Side, seconds: float) -> None:
    with Server(side.directory, side.environment, forked=False) as server:
        people = [person for one, other, _ in side.pairs for person in (one, other)]
        sockets = {
            "kind": "sockets",
            "seconds": seconds,
            "urls": [f"{server.websocket_url}/api/v1/ws/{it.access_token}" for it in people],
            "sends": [[index, side.pairs[index // 2][2]] for index in range(2 * PAIRS)],
        }
        http: Mapping[str, Any] = {
            "kind": "http",
            "host": "127.0.0.1",
            "port": server.port,
            "seconds": seconds,
            "connections": HTTP_CONNECTIONS,
            "token": people[0].access_token,
        }
        jobs: dict[str, Mapping[str, Any]] = {
            "pairs": sockets,
            "history": {**http, "path": f"/api/v1/messages/chat/{side.history_id}?limit=50"},
            "me": {**http, "path": "/api/v1/users/me"},
        }
        for row, job in jobs.items():
            before = cpu_seconds(server)
            rate = drive(job)[_ROWS[row][0]]
            side.rates[row].append(rate)
            side.costs[row].append(1000 * (cpu_seconds(server) - before) / (rate * seconds))
        server.stop()


def cpu_seconds(server: Server) -> float:
    """Of the server; PostgreSQL and Redis are processes of their own."""
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


def write_section(measured: Mapping[str, Mapping[str, Side]]) -> None:
    text = textwrap.fill(
        "Written by `make bench-protection`: the same server with everything on, and with everything off that can be"
        " switched off: encryption of personal data and of messages, rate limits, security headers, CSRF protection."
        " Permissions, the record of security events and strict input are part of both. The two take turns; figures"
        " are medians: how many in a second, and milliseconds of a processor that the server took for each, with one"
        f" process. Machine: {os.cpu_count()} cores, {platform.machine()},"
        f" Python {platform.python_version()}; load average at the end {os.getloadavg()[2]:.0f}."
        " Where that is far above 2, other programs had the machine, and the rates say little.",
        width=110,
    )
    lines = [_BEGIN, text, ""]
    lines += ["| work | on | ms | off | ms | cost |", "| --- | --- | --- | --- | --- | --- |"]
    for name, sides in measured.items():
        for row, (_, label) in _ROWS.items():
            rates = [statistics.median(sides[it].rates[row]) for it in ("on", "off")]
            on, off = (statistics.median(sides[it].costs[row]) for it in ("on", "off"))
            lines.append(
                f"| {_DATABASES[name]}: {label} | {rates[0]:,.0f} | {on:.2f} | {rates[1]:,.0f} | {off:.2f}"
                f" | {100 * (on / off - 1):+.0f} % |"
            )
    page = _PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(before + "\n".join(lines) + "\n" + _END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
