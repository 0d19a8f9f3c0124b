"""The load: a process of its own that drives any server speaking our frames, and prints what it saw as JSON.

Reads one JSON job from standard input:
    {"kind": "sockets", "urls": [...], "sends": [[socket, chat_id], ...], "seconds": 8, "receivers": n}
    {"kind": "idle", "urls": [...]}            keeps the sockets open until standard input closes
    {"kind": "http", "host", "port", "path", "token", "seconds", "connections"}
Each sender has one message under way: it sends the next when the last is acknowledged.
"""

import asyncio
import json
import statistics
import sys
import time
import uuid

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

_BODY = 100
_WARM_UP_SECONDS = 2.0


class Client(WSListener):
    """One socket. Latency is read from the message: its text begins with the time of sending."""

    def __init__(self, load: "Load", chat_id: int | None) -> None:
        self.load = load
        self.chat_id = chat_id
        self.ready = asyncio.get_running_loop().create_future()
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            transport.send(WSMsgType.PONG, frame.get_payload_as_bytes())
            return
        payload = frame.get_payload_as_bytes()
        if frame.msg_type == WSMsgType.CLOSE:
            self.load.closed += 1
        elif b'"new_message"' in payload[:60]:
            self.load.delivered(payload)
        elif b'"ack"' in payload[:40]:
            self.load.acknowledged += self.load.is_counting
            self.send()
        elif b'"error"' in payload[:40]:
            self.load.errors.append(payload.decode()[:300])
        elif not self.ready.done() and b'"hello"' in payload[:60]:
            self.ready.set_result(None)

    def send(self) -> None:
        """Send the next message, unless the time is over."""
        if self.chat_id is None or self.load.is_over or self.transport is None:
            return
        text = f"{time.monotonic_ns():020d}".ljust(_BODY, "x")
        data = {"chat_id": self.chat_id, "text": text, "client_message_id": str(uuid.uuid4())}
        frame = {"type": "send_message", "request_id": "1", "data": data}
        self.transport.send(WSMsgType.TEXT, orjson.dumps(frame))


class Load:
    """What all sockets count together, after the warm-up."""

    def __init__(self) -> None:
        self.is_counting = False
        self.is_over = False
        self.acknowledged = 0
        self.deliveries = 0
        self.closed = 0
        self.latencies: list[int] = []
        self.errors: list[str] = []

    def delivered(self, payload: bytes) -> None:
        if not self.is_counting:
            return
        self.deliveries += 1
        start = payload.find(b'"text":"') + 8
        self.latencies.append(time.monotonic_ns() - int(payload[start : start + 20]))


async def drive_sockets(job: dict) -> dict:
    """Every sender keeps one message under way for `seconds`."""
    load = Load()
    senders = dict(job["sends"])
    clients = await open_clients(load, job["urls"], senders)
    for client in clients:
        client.send()
    await asyncio.sleep(_WARM_UP_SECONDS)
    load.is_counting, started = True, time.monotonic()
    await asyncio.sleep(job["seconds"])
    load.is_counting, load.is_over, elapsed = False, True, time.monotonic() - started
    if load.errors or load.closed:
        sys.exit(f"{load.closed} sockets were closed, errors: {load.errors[:3]}")
    return {
        "acknowledged_per_second": load.acknowledged / elapsed,
        "deliveries_per_second": load.deliveries / elapsed,
        **quantiles(load.latencies),
    }


async def open_clients(load: Load, urls: list[str], senders: dict[int, int]) -> list[Client]:
    """Connect 50 at a time and wait for every hello."""
    clients: list[Client] = []
    for start in range(0, len(urls), 50):
        batch = [Client(load, senders.get(start + i)) for i in range(len(urls[start : start + 50]))]
        await asyncio.gather(
            *(
                ws_connect(lambda c=c: c, url)
                for c, url in zip(batch, urls[start : start + 50], strict=True)
            )
        )
        async with asyncio.timeout(60):
            await asyncio.gather(*(client.ready for client in batch))
        clients += batch
    return clients


async def drive_idle(job: dict) -> dict:
    """Hold the sockets open until the other side has measured."""
    clients = await open_clients(Load(), job["urls"], {})
    sys.stdout.write(json.dumps({"open": len(clients)}) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return {}


async def drive_http(job: dict) -> dict:
    """The same GET over and over on a few kept-alive connections."""
    deadline = time.monotonic() + _WARM_UP_SECONDS + job["seconds"]
    begin = deadline - job["seconds"]
    latencies: list[int] = []
    headers = f"Host: {job['host']}\r\nAuthorization: Bearer {job['token']}\r\n"
    request = f"GET {job['path']} HTTP/1.1\r\n{headers}\r\n".encode()

    async def repeat() -> None:
        reader, writer = await asyncio.open_connection(job["host"], job["port"], limit=1 << 20)
        while time.monotonic() < deadline:
            sent = time.monotonic_ns()
            writer.write(request)
            await read_answer(reader)
            if time.monotonic() > begin:
                latencies.append(time.monotonic_ns() - sent)
        writer.close()

    await asyncio.gather(*(repeat() for _ in range(job["connections"])))
    return {"requests_per_second": len(latencies) / job["seconds"], **quantiles(latencies)}


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer; anything but 200 ends the run."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit(head.decode())
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    return await reader.readexactly(int(lower[start : lower.index(b"\r", start)]))


def quantiles(latencies_ns: list[int]) -> dict[str, float]:
    if len(latencies_ns) < 100:
        sys.exit(f"only {len(latencies_ns)} samples")
    cuts = statistics.quantiles(latencies_ns, n=100)
    return {"p50_ms": cuts[49] / 1e6, "p99_ms": cuts[98] / 1e6}


if __name__ == "__main__":
    work = json.loads(sys.stdin.readline())
    drive = {"sockets": drive_sockets, "idle": drive_idle, "http": drive_http}[work["kind"]]
    print(json.dumps(uvloop.run(drive(work))))
