"""Thousands of devices in one process: each keeps up with the log by the reference client's `Sync`.

    python -m benchmarks.swarm

Gaps, repeats and resets are counted: a server that works as it should causes none.

Reads commands as lines of JSON from standard input and answers each with one line, by its `id`; see
`Swarm` in benchmarks/storm.py. A message whose text begins with 20 digits was sent at that moment of the
monotonic clock, in nanoseconds, which all processes of a machine share.
"""

import asyncio
import json
import random
import resource
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
import uvloop
from messenger_client import (
    Action,
    Apply,
    Change,
    FetchDifference,
    Position,
    Reconnect,
    Reset,
    SendFrame,
    Signal,
    Sync,
    Update,
)
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

Frame = dict[str, Any]
API = "/api/v1"
# As the reference client waits before its attempts.
_BACKOFF_FIRST = 0.25
_BACKOFF_MOST = 15.0
_ATTEMPT_SECONDS = 15.0
_STAMP_DIGITS = 20
_LOOK_SECONDS = 0.05


@dataclass
class Tally:
    """What all devices of a process count together. Durations are in nanoseconds."""

    deliveries: list[int] = field(default_factory=list[int])
    answers: list[int] = field(default_factory=list[int])
    news: dict[int, int] = field(default_factory=dict[int, int])
    replayed: int = 0
    received_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[int] = field(default_factory=Counter[int])


class Device:
    """A signed-in client; `sync` knows what it has applied."""

    def __init__(self, tally: Tally, *, host: str, port: int, token: str) -> None:
        self.tally = tally
        self.host = host
        self.port = port
        self.token = token
        self.sync = Sync(Position())
        self.transport: WSTransport | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._free: list[Http] = []
        self.hello_at = 0
        self.whole_at = 0
        self.user_id = 0
        self.close_code: int | None = None

    async def come(self, *, jitter: float) -> None:
        """Connect and catch up, again and again until it works."""
        pause = _BACKOFF_FIRST
        await asyncio.sleep(random.uniform(0, jitter))
        while True:
            try:
                async with asyncio.timeout(_ATTEMPT_SECONDS):
                    await self._connect()
                assert self._arrival is not None
                await self._arrival
            except (OSError, TimeoutError, WSError, asyncio.IncompleteReadError) as error:
                self.tally.faults[type(error).__name__] += 1
            else:
                return
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _BACKOFF_MOST)

    def cut(self) -> None:
        """End all connections without a word."""
        while self._free:
            self._free.pop().close()
        if self.transport is not None:
            self.transport.underlying_transport.abort()
            self.transport = None

    async def call(self, method: str, path: str, body: object) -> Any:
        """A request over a kept connection that is free, else over a new one.

        Raises:
            OSError: no answer, or one that is a fault of the server.
        """
        http = self._free.pop() if self._free else await Http.open((self.host, self.port))
        try:
            status, answer = await http.ask(method, path, body, token=self.token)
        except BaseException:
            http.close()
            raise
        self._free.append(http)
        self.tally.statuses[status] += 1
        if status >= 300:
            raise ConnectionRefusedError(status)
        return answer

    async def _connect(self) -> None:
        ticket = (await self.call("POST", "/auth/ws-ticket", {}))["ticket"]
        self._arrival = asyncio.get_running_loop().create_future()
        self.close_code = None
        self.sync.connected()
        url = f"ws://{self.host}:{self.port}{API}/ws/{ticket}"
        self.transport, _ = await ws_connect(lambda: Wire(self), url)

    def lose(self) -> None:
        """The connection has ended."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(ConnectionResetError())

    def hear(self, payload: bytes) -> None:
        """One frame of the server."""
        tally = self.tally
        tally.received_bytes += len(payload)
        frame = orjson.loads(payload)
        if frame["type"] == "hello":
            self.user_id = frame["data"]["user_id"]
            self.hello_at = time.monotonic_ns()
        elif "seq" in frame and frame["seq"] <= self.sync.position.cursors.get(frame["scope"], 0):
            tally.faults["repeat"] += 1
        self._act(self.sync.receive(frame))
        if self.sync.is_whole and self._arrival is not None and not self._arrival.done():
            self.whole_at = time.monotonic_ns()
            self._arrival.set_result(None)

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Apply(changes):
                    for change in changes:
                        self._apply(change)
                case SendFrame(frame):
                    assert self.transport is not None
                    self.transport.send(WSMsgType.TEXT, orjson.dumps(frame))
                case FetchDifference():
                    self.tally.faults["gap"] += 1
                    self._fetching = asyncio.create_task(self._fetch(action))
                case Signal(frame):
                    self._hear_signal(frame)
                case Reconnect(reason):
                    self.tally.faults[reason] += 1
                    self.cut()

    def _hear_signal(self, frame: Frame) -> None:
        if frame["type"] == "user_online":
            self.tally.news.setdefault(frame["data"]["user_id"], time.monotonic_ns())

    async def _fetch(self, wanted: FetchDifference) -> None:
        try:
            body = {"epoch": wanted.epoch, "state": wanted.state}
            answer = await self.call("POST", "/updates/difference", body)
        except OSError:
            self._act(self.sync.difference_failed())
        else:
            self._act(self.sync.difference(answer))

    def _apply(self, change: Change) -> None:
        tally = self.tally
        if isinstance(change, Reset) and self.whole_at:
            tally.faults["scope_reset"] += 1
        if not isinstance(change, Update):
            return
        if self._arrival is not None and not self._arrival.done():
            tally.replayed += 1
        elif change.type == "new_message":
            stamp = change.data.get("text", "")[:_STAMP_DIGITS]
            if stamp.isdigit():
                tally.deliveries.append(time.monotonic_ns() - int(stamp))


class Wire(WSListener):
    """One connection of a device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.device.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.device.transport is transport:
            self.device.lose()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.device.hear(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.device.close_code = int(frame.get_close_code())
            self.device.tally.faults[f"closed {self.device.close_code}"] += 1
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()


class Http:
    """A kept-alive connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Self:
        return cls(*await asyncio.open_connection(*address))

    async def ask(
        self, method: str, path: str, body: object, *, token: str | None = None
    ) -> tuple[int, Any]:
        """Status and parsed body."""
        payload = orjson.dumps(body)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"{method} {API}{path} HTTP/1.1\r\nHost: swarm\r\n{authorization}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        self._writer.write(head.encode() + payload)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        sizes = [line for line in answer.split(b"\r\n") if line.startswith(b"content-length:")]
        content = await self._reader.readexactly(int(sizes[0].partition(b":")[2])) if sizes else b""
        return int(answer.split(b" ", 2)[1]), orjson.loads(content) if content else None

    def close(self) -> None:
        self._writer.close()


async def request(
    address: tuple[str, int], method: str, path: str, body: object, *, token: str | None = None
) -> tuple[int, Any]:
    """As `Http.ask`, on a connection of its own."""
    http = await Http.open(address)
    try:
        return await http.ask(method, path, body, token=token)
    finally:
        http.close()


class Swarm:
    """All devices of this process, and its commands."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.devices: list[Device] = []
        self._load: list[asyncio.Task[None]] = []
        self._sends: set[asyncio.Task[None]] = set()

    async def open(self, devices: Sequence[dict[str, Any]], at_once: int = 50) -> dict[str, Any]:
        """Connect them, so many at a time."""
        fresh = [Device(self.tally, **device) for device in devices]
        for start in range(0, len(fresh), at_once):
            await asyncio.gather(*(it.come(jitter=0) for it in fresh[start : start + at_once]))
        self.devices += fresh
        return {"open": len(self.devices), "user_ids": [device.user_id for device in fresh]}

    async def cut(self) -> dict[str, Any]:
        """All at once."""
        for device in self.devices:
            device.cut()
        return {"cut": len(self.devices)}

    async def storm(self, jitter: float = _BACKOFF_FIRST) -> dict[str, Any]:
        """All come back at once and catch up."""
        started = time.monotonic_ns()
        await asyncio.gather(*(device.come(jitter=jitter) for device in self.devices))
        took = sorted(device.whole_at - started for device in self.devices)
        hellos = {str(device.user_id): device.hello_at for device in self.devices}
        return {"seconds": [it / 1e9 for it in took], "hello_at": hellos}

    async def come_back(self, device: int) -> float:
        """One of them; answers the seconds from its `hello` to the end of its replay."""
        it = self.devices[device]
        await it.come(jitter=0)
        return (it.whole_at - it.hello_at) / 1e9

    async def begin_load(
        self,
        sends: Sequence[Sequence[int]],
        rate: float,
        size: int = 100,
        at_once: int | None = None,
    ) -> Any:
        """Messages by (device, chat) in turn, `rate` a second.

        Whether or not the server keeps up, unless only so many may wait for their answer `at_once`.
        """
        loop = asyncio.get_running_loop()

        async def repeat() -> None:
            due, number = loop.time(), 0
            while True:
                device, chat_id = sends[number % len(sends)]
                while len(self._sends) == at_once:
                    await asyncio.wait(self._sends, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(self._send(self.devices[device], chat_id, size))
                self._sends.add(task)
                task.add_done_callback(self._sends.discard)
                number, due = number + 1, due + 1 / rate
                await asyncio.sleep(max(0.0, due - loop.time()))

        self._load.append(asyncio.create_task(repeat()))
        return {}

    async def end_load(self) -> dict[str, Any]:
        """Wait for what is under way."""
        for task in self._load:
            task.cancel()
        self._load.clear()
        await asyncio.gather(*self._sends)
        return {}

    async def say(self, device: int, chat_id: int, count: int, at_once: int = 8) -> dict[str, Any]:
        """So many messages by one device."""
        remaining = iter(range(count))

        async def repeat() -> None:
            for _ in remaining:
                await self._send(self.devices[device], chat_id, 100)

        await asyncio.gather(*(repeat() for _ in range(at_once)))
        return {}

    async def reach(self, scope: str, seq: int) -> dict[str, Any]:
        """Wait until every device has applied so much of a scope."""
        positions = [device.sync.position for device in self.devices]
        while any(it.cursors.get(scope, 0) < seq for it in positions):  # noqa: ASYNC110 - thousands, which no event tells
            await asyncio.sleep(_LOOK_SECONDS)
        return {}

    async def figures(self) -> dict[str, Any]:
        """What was counted since the last time."""
        tally = self.tally
        fresh = Tally()
        for name in ("deliveries", "answers", "news", "replayed", "received_bytes"):
            fresh.__dict__[name], tally.__dict__[name] = tally.__dict__[name], fresh.__dict__[name]
        faults, statuses = dict(tally.faults), dict(tally.statuses)
        tally.faults.clear()
        tally.statuses.clear()
        return {
            "deliveries": quantiles(fresh.deliveries),
            "answers": quantiles(fresh.answers),
            "news": {str(user_id): at for user_id, at in fresh.news.items()},
            "replayed": fresh.replayed,
            "bytes": fresh.received_bytes,
            "faults": faults,
            "statuses": {str(status): count for status, count in statuses.items()},
        }

    async def _send(self, device: Device, chat_id: int, size: int) -> None:
        started = time.monotonic_ns()
        text = f"{started:0{_STAMP_DIGITS}d}".ljust(size, "x")
        body = {"chat_id": chat_id, "text": text, "client_message_id": str(uuid.uuid4())}
        try:
            await device.call("POST", "/messages/", body)
        except OSError as error:
            self.tally.faults[f"send {type(error).__name__}"] += 1
        self.tally.answers.append(time.monotonic_ns() - started)


def quantiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Milliseconds; empty where there are too few samples to speak of."""
    if len(nanoseconds) < 2:
        return {"count": len(nanoseconds)}
    cuts = statistics.quantiles(nanoseconds, n=100)
    return {
        "count": len(nanoseconds),
        "p50_ms": cuts[49] / 1e6,
        "p99_ms": cuts[98] / 1e6,
        "most_ms": max(nanoseconds) / 1e6,
    }


async def serve() -> None:
    """Until standard input ends."""
    swarm = Swarm()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        command = json.loads(line)
        work: Callable[..., Awaitable[Any]] = getattr(swarm, command["do"])
        task = asyncio.create_task(_answer(command["id"], work(**command.get("with", {}))))
        running.add(task)
        task.add_done_callback(running.discard)


async def _answer(number: int, work: Awaitable[Any]) -> None:
    try:
        answer = {"id": number, "answer": await work}
    except Exception as error:  # noqa: BLE001 - an edge: whoever commands hears of it
        answer = {"id": number, "error": repr(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def allow_many_files() -> None:
    """As many sockets as the system grants this process, and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    allow_many_files()
    uvloop.run(serve())
