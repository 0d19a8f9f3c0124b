"""The record of security events, read as an operator does: by the command line and in the log."""

import asyncio
import json
import subprocess
import sys
from typing import Any

from tests.support import forks
from tests.support.people import Deployment
from tests.support.waiting import eventually

Event = dict[str, Any]


async def run_admin(deployment: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m app.admin` beside the first node."""
    server = deployment.nodes[0]

    def run() -> subprocess.CompletedProcess[str]:
        return forks.run(
            (sys.executable, "-m", "app.admin", *words),
            directory=server.directory,
            environment=server.environment,
        )

    return await asyncio.to_thread(run)


async def read_events(deployment: Deployment, *words: str) -> list[Event]:
    """What `audit search` finds with these options, everything that is personal opened."""
    options = ("--json", "--lines", "10000", "--show-personal")
    done = await run_admin(deployment, "audit", "search", *options, *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def logged_events(deployment: Deployment, name: str, **members: object) -> list[Event]:
    """Lines of the log with this event and these members."""
    log = "".join(node.log() for node in deployment.nodes)
    lines = [json.loads(line) for line in log.splitlines() if f'"event":"{name}"' in line]
    return [line for line in lines if members.items() <= line.items()]


async def wait_for_log(
    deployment: Deployment, name: str, *, count: int = 1, **members: object
) -> list[Event]:
    """The lines, as soon as they stand for `count` events. A line follows the commit of its row."""
    found: list[Event] = []

    async def are_there() -> bool:
        found[:] = logged_events(deployment, name, **members)
        return sum(line.get("count", 1) for line in found) >= count

    await eventually(are_there, what=f"{count} events {name} {members}", timeout_seconds=20)
    return found
