"""One who stops reading is closed with 4409, in bounded memory, and nobody else waits for them."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.storm import (
    Account,
    Memory,
    Place,
    Swarm,
    as_devices,
    make_group,
    run_place,
    run_swarm,
    sign_up,
)
from tests.conftest import BACKENDS
from tests.faults.machine import Machine
from tests.faults.promises.scale import SCALE, scaled
from tests.faults.promises.stalled import StalledReader
from tests.support import missing
from tests.support.people import API
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio

MEMBERS = scaled(quick=12, full=500)
STALLED = scaled(quick=2, full=10)
LEAST_ROUNDS = scaled(quick=1, full=3)
MOST_ROUNDS = 10
# Messages a second, by so many members in turn; with small numbers only as fast as they are answered.
RATE = scaled(quick=100.0, full=20.0)
SPEAKERS = scaled(quick=2, full=10)
SENDS_AT_ONCE = scaled(quick=4, full=None)
TEXT_BYTES = 2048
QUEUE_BYTES = scaled(quick=65_536, full=1_048_576)
# Nobody is to be closed for anything else: a missing pong, or reading alone.
SETTINGS = {
    "WS_QUEUE_BYTES": str(QUEUE_BYTES),
    "WS_HEARTBEAT_SECONDS": "30",
    "WS_IDLE_SECONDS": "86400",
}
CALM_SECONDS = scaled(quick=0.5, full=20.0)
# What the kernel of a reader has taken, frames under way, the difference between two looks.
_SLACK_BYTES = 65_536
ALLOWED_GROWTH_BYTES = 32 << 20
ALLOWED_RATIO = 1.2
# A hiccup of the machine is nobody's slowness.
_FLOOR_MS = 20.0
_TOO_SLOW = 4409
_PATIENCE_SECONDS = 120.0
_DRAIN_SECONDS = 20.0


@dataclass
class Scene:
    """A group: `members` with devices that read, and `sleepers` who will stop."""

    place: Place
    swarm: Swarm
    chat_id: int
    members: list[Account]
    sleepers: list[Account]

    @property
    def scope(self) -> str:
        return f"chat:{self.chat_id}"

    async def reach(self, seq: int) -> None:
        """Until every member has so much."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self.swarm.ask("reach", scope=self.scope, seq=seq)

    async def url(self, account: Account) -> str:
        answer = await self.place.call("POST", "/auth/ws-ticket", {}, token=account.token)
        return f"{self.place.server.websocket_url}{API}/ws/{answer['ticket']}"

    async def begin_load(self) -> None:
        sends = [(device, self.chat_id) for device in range(SPEAKERS)]
        await self.swarm.ask(
            "begin_load", sends=sends, rate=RATE, size=TEXT_BYTES, at_once=SENDS_AT_ONCE
        )

    async def end_load(self) -> dict[str, Any]:
        """What was counted since the last time, when everybody has everything."""
        await self.swarm.ask("end_load")
        chat = await self.place.call("GET", f"/chats/{self.chat_id}", token=self.members[0].token)
        await self.reach(chat["seq"])
        figures = await self.swarm.ask("figures")
        # Nobody was closed, or saw a gap or a repeat, and each message went to each.
        assert figures["faults"] == {}, figures
        assert figures["statuses"].keys() == {"201"}, figures
        sends = figures["statuses"]["201"]
        assert figures["deliveries"]["count"] == sends * len(self.members), figures
        return figures


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    try:
        with run_place(request.param, **SETTINGS) as running:
            yield running
            running.server.stop()
            assert running.server.faults() == []
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


@pytest.fixture
async def scene(place: Place, anyio_backend: str) -> AsyncIterator[Scene]:
    del anyio_backend
    async with run_swarm() as swarm:
        people = await sign_up(place, MEMBERS)
        members, sleepers = people[STALLED:], people[:STALLED]
        chat_id = await make_group(place, members[0], [*members[1:], *sleepers])
        await swarm.ask("open", devices=as_devices(place, members))
        await swarm.ask("figures")
        yield Scene(place, swarm, chat_id, members, sleepers)


async def test_slow_readers_are_closed_and_nobody_else_waits(scene: Scene) -> None:
    calm, slow, growth = list[float](), list[float](), list[int]()
    machine = Machine()
    # Other work on the machine only ever adds to a figure: rounds go on until it has left both a quiet moment.
    while len(calm) < LEAST_ROUNDS or (not is_fair(calm, slow) and len(calm) < MOST_ROUNDS):
        async with Memory(scene.place) as memory:
            figures = await talk(scene)
        calm.append(figures["deliveries"]["p99_ms"])
        before = memory.most
        frame_bytes = figures["bytes"] / figures["deliveries"]["count"]
        async with Memory(scene.place) as memory:
            figures = await talk_to_sleepers(scene, frame_bytes)
        slow.append(figures["deliveries"]["p99_ms"])
        growth.append(memory.most - before)
    print(
        f"slow readers, {scene.place.server.name}: p99 of the others {tell(calm)} ms without and"
        f" {tell(slow)} ms with them, {max(growth) / 1e6:.0f} MB more,"
        f" {machine.share():.0%} of the machine ours"
    )
    assert max(growth) <= ALLOWED_GROWTH_BYTES
    assert is_fair(calm, slow)


def is_fair(calm: Sequence[float], slow: Sequence[float]) -> bool:
    """Small numbers are no measurement."""
    usual = min(calm)
    return SCALE == "quick" or min(slow) <= max(usual * ALLOWED_RATIO, usual + _FLOOR_MS)


def tell(figures: Sequence[float]) -> str:
    return ", ".join(f"{it:.0f}" for it in figures)


async def talk(scene: Scene) -> dict[str, Any]:
    """While everybody reads."""
    await scene.begin_load()
    await asyncio.sleep(CALM_SECONDS)
    return await scene.end_load()


async def talk_to_sleepers(scene: Scene, frame_bytes: float) -> dict[str, Any]:
    """From the moment at which some stop reading until all of them are closed."""
    readers = [await StalledReader.open(await scene.url(account)) for account in scene.sleepers]
    await scene.begin_load()
    try:
        ends = [wait_for_the_end(scene, reader, frame_bytes) for reader in readers]
        last = await asyncio.gather(*ends)
        figures = await scene.end_load()
    finally:
        for reader in readers:
            reader.close()
    for account, seq in zip(scene.sleepers, last, strict=True):
        await resume(scene, account, seq)
    return figures


async def wait_for_the_end(scene: Scene, reader: StalledReader, frame_bytes: float) -> int:
    """Until more was sent to this reader than may wait: then it has been closed. Answers where it stood."""
    started: int = reader.frames[0]["data"]["state"][scene.scope]

    def bound() -> int:
        return reader.waiting_bytes() + QUEUE_BYTES + _SLACK_BYTES

    sent = 0
    while sent * frame_bytes < bound():
        sent = math.ceil(bound() / frame_bytes)
        await scene.reach(started + sent)
    most_bytes = bound()
    # A reader that lives on would never come to an end.
    async with asyncio.timeout(_DRAIN_SECONDS):
        assert await reader.drain() == _TOO_SLOW
    seqs = [frame["seq"] for frame in reader.frames if frame.get("scope") == scene.scope]
    assert seqs == list(range(started + 1, started + 1 + len(seqs)))
    assert QUEUE_BYTES < len(seqs) * frame_bytes <= most_bytes
    return started + len(seqs)


async def resume(scene: Scene, account: Account, seq: int) -> None:
    """A new socket brings all that the old one lost."""
    socket = await Socket.open(await scene.url(account))
    body = {"epoch": socket.hello["epoch"], "state": {scene.scope: seq}}
    await socket.send_frame("resume", body)
    await socket.expect("resumed")
    last = socket.hello["state"][scene.scope]
    assert seq < last
    assert socket.seqs(scene.scope) == list(range(seq + 1, last + 1))
    await socket.close()
