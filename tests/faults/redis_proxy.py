"""A proxy in front of Redis that reads RESP and loses, doubles, delays or betrays publishes, in the order of replies.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum

from tests.faults.tcp_proxy import Link, TcpProxy

BeforePublish = Callable[[], Awaitable[bool]]
# Nobody was subscribed, as far as the publisher can tell.
_NO_RECEIVERS = b":0\r\n"


class Reply(Enum):
    """What the client is to get for a command: the server's reply, ours instead, or none at all."""

    PASS = 0
    MAKE = 1
    SWALLOW = 2


class RedisProxy(TcpProxy):
    """`lost`, `doubled`: probabilities of a publish; `delay_seconds`: at most.

    `before_publish` is awaited with each publish in hand; True: it is lost.
    """

    lost = 0.0
    doubled = 0.0
    delay_seconds = 0.0
    before_publish: BeforePublish | None = None
    publishes = 0
    losses = 0
    doubles = 0

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return _RedisLink(self, client, server)

    def heal(self) -> None:
        super().heal()
        self.lost = self.doubled = self.delay_seconds = 0.0
        self.before_publish = None


class _RedisLink(Link):
    def __init__(
        self, proxy: RedisProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        super().__init__(proxy, client, server)
        self._bus = proxy
        self._commands = bytearray()
        self._replies = bytearray()
        self._expected: deque[Reply] = deque()
        # A connection that subscribes gets pushes; it is passed through from then on.
        self._is_raw = False

    async def on_client_bytes(self, data: bytes) -> None:
        if self._is_raw:
            await self.to_server(data)
            return
        self._commands += data
        while not self._is_raw and (size := measure(self._commands)):
            command = bytes(self._commands[:size])
            del self._commands[:size]
            await self._take_command(command)
        if self._is_raw and self._commands:
            await self.to_server(bytes(self._commands))
            self._commands.clear()

    async def on_server_bytes(self, data: bytes) -> None:
        if self._is_raw:
            await self.to_client(bytes(self._replies) + data)
            self._replies.clear()
            return
        self._replies += data
        while size := measure(self._replies):
            reply = bytes(self._replies[:size])
            del self._replies[:size]
            await self._take_reply(reply)

    async def _take_command(self, command: bytes) -> None:
        name = _name_of(command)
        if name in {b"SUBSCRIBE", b"PSUBSCRIBE", b"MONITOR"}:
            self._is_raw = True
        if name != b"PUBLISH":
            self._expected.append(Reply.PASS)
            await self.to_server(command)
            return
        await self._take_publish(command)

    async def _take_publish(self, command: bytes) -> None:
        bus = self._bus
        bus.publishes += 1
        is_kept = bus.before_publish is not None and await bus.before_publish()
        if bus.delay_seconds:
            await asyncio.sleep(bus.random.uniform(0, bus.delay_seconds))
        if is_kept or bus.random.random() < bus.lost:
            bus.losses += 1
            self._expected.append(Reply.MAKE)
            await self._make_replies()
            return
        self._expected.append(Reply.PASS)
        await self.to_server(command)
        if bus.random.random() < bus.doubled:
            bus.doubles += 1
            self._expected.append(Reply.SWALLOW)
            await self.to_server(command)

    async def _take_reply(self, reply: bytes) -> None:
        if reply.startswith(b">") or not self._expected:
            await self.to_client(reply)
            return
        if self._expected.popleft() is Reply.PASS:
            await self.to_client(reply)
        await self._make_replies()

    async def _make_replies(self) -> None:
        while self._expected and self._expected[0] is Reply.MAKE:
            self._expected.popleft()
            await self.to_client(_NO_RECEIVERS)


def measure(buffer: bytearray | bytes, start: int = 0) -> int:
    """The length of the RESP value that begins at `start`; 0: it is not all there yet."""
    end = buffer.find(b"\r\n", start)
    if end < 0:
        return 0
    kind, position = bytes(buffer[start : start + 1]), end + 2
    if kind in {b"$", b"!", b"="}:
        length = int(buffer[start + 1 : end])
        position += length + 2 if length >= 0 else 0
        return position - start if position <= len(buffer) else 0
    if kind in {b"*", b"%", b"~", b">"}:
        count = int(buffer[start + 1 : end]) * (2 if kind == b"%" else 1)
        for _ in range(max(count, 0)):
            size = measure(buffer, position)
            if not size:
                return 0
            position += size
    return position - start


def _name_of(command: bytes) -> bytes:
    r"""The word of `*n\\r\\n$m\\r\\nWORD\\r\\n...`, in capitals."""
    parts = command.split(b"\r\n", 3)
    return parts[2].upper() if command.startswith(b"*") and len(parts) > 2 else b""
