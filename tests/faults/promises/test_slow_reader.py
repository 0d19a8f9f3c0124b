"""One who stops reading is closed with 4409, in bounded memory, and nobody else waits for them."""

import asyncio
import statistics
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
from tests.faults.promises.scale import SCALE, scaled
from tests.faults.promises.stalled import StalledReader
from tests.support import missing
from tests.support.people import API
from tests.support.sockets import Socket
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

MEMBERS = scaled(quick=12, full=500)
STALLED = scaled(quick=2, full=10)
ROUNDS = scaled(quick=1, full=3)
# Messages a second, by so many members in turn; with small numbers only as fast as they are answered.
RATE = scaled(quick=100.0, full=20.0)
SPEAKERS = scaled(quick=2, full=10)
SENDS_AT_ONCE = scaled(quick=4, full=None)
TEXT_BYTES = 2048
QUEUE_BYTES = scaled(quick=65_536, full=1_048_576)
CALM_SECONDS = scaled(quick=0.5, full=20.0)
# What the kernel of a reader has taken, frames under way, the difference between two looks.
_SLACK_BYTES = 65_536
ALLOWED_GROWTH_BYTES = 32 << 20
ALLOWED_RATIO = 1.2
# A hiccup of the machine is nobody's slowness.
_FLOOR_MS = 20.0
_TOO_SLOW = 4409
_PATIENCE_SECONDS = 120.0


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

    async def seq(self) -> int:
        """Of the last message that was acknowledged."""
        chat = await self.place.call("GET", f"/chats/{self.chat_id}", token=self.members[0].token)
        return chat["seq"]

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
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self.swarm.ask("reach", scope=self.scope, seq=await self.seq())
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
        with run_place(request.param, WS_QUEUE_BYTES=str(QUEUE_BYTES)) as running:
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
    calm, slow = list[float](), list[float]()
    calm_bytes = slow_bytes = 0
    for _ in range(ROUNDS):
        async with Memory(scene.place) as memory:
            figures = await talk(scene)
        calm.append(figures["deliveries"]["p99_ms"])
        calm_bytes = calm_bytes or memory.most
        frame_bytes = figures["bytes"] / figures["deliveries"]["count"]
        async with Memory(scene.place) as memory:
            figures = await talk_to_sleepers(scene, frame_bytes)
        slow.append(figures["deliveries"]["p99_ms"])
        slow_bytes = max(slow_bytes, memory.most)
    growth = slow_bytes - calm_bytes
    print(
        f"slow readers, {scene.place.server.name}: p99 of the others {tell(calm)} ms without and"
        f" {tell(slow)} ms with them, {growth / 1e6:.0f} MB more"
    )
    assert growth <= ALLOWED_GROWTH_BYTES
    if SCALE == "full":
        usual = statistics.median(calm)
        assert statistics.median(slow) <= max(usual * ALLOWED_RATIO, usual + _FLOOR_MS)


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
        last = [await wait_for_the_end(scene, reader, frame_bytes) for reader in readers]
        figures = await scene.end_load()
    finally:
        for reader in readers:
            reader.close()
    for account, seq in zip(scene.sleepers, last, strict=True):
        await resume(scene, account, seq)
    return figures


async def wait_for_the_end(scene: Scene, reader: StalledReader, frame_bytes: float) -> int:
    """Until more waits for this reader than may: then it has been closed. Answers where it stood."""
    started: int = reader.frames[0]["data"]["state"][scene.scope]

    async def is_full() -> bool:
        sent = (await scene.seq() - started) * frame_bytes
        return sent > reader.waiting_bytes() + QUEUE_BYTES + _SLACK_BYTES

    await eventually(is_full, timeout_seconds=_PATIENCE_SECONDS, what="more than may wait")
    in_kernel = reader.waiting_bytes()
    assert await reader.drain() == _TOO_SLOW
    seqs = [frame["seq"] for frame in reader.frames if frame.get("scope") == scene.scope]
    assert seqs == list(range(started + 1, started + 1 + len(seqs)))
    assert len(seqs) * frame_bytes <= in_kernel + QUEUE_BYTES + _SLACK_BYTES
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
