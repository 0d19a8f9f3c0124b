"""A proxy in front of PostgreSQL that finds COMMIT and holds it, loses its answer, or cuts before it arrives.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import asyncio
import struct
from enum import Enum

from tests.faults.tcp_proxy import Link, TcpProxy

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104
_EXECUTED_SECONDS = 0.15


class CommitFate(Enum):
    """What becomes of the next COMMIT: nothing special, executed but never answered, or never executed."""

    PASS = 0
    LOSE_ANSWER = 1
    CUT_BEFORE = 2


class PostgresProxy(TcpProxy):
    """`hold_commit_seconds`: each COMMIT waits a random time up to it.

    `lose_answers`, `cut_before`: how many of the next COMMITs meet that fate.
    """

    hold_commit_seconds = 0.0
    lose_answers = 0
    cut_before = 0
    commits = 0

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return _PostgresLink(self, client, server)

    def heal(self) -> None:
        super().heal()
        self.hold_commit_seconds = 0.0
        self.lose_answers = self.cut_before = 0

    def decide(self) -> CommitFate:
        """The fate of the COMMIT that has just come."""
        self.commits += 1
        if self.cut_before > 0:
            self.cut_before -= 1
            return CommitFate.CUT_BEFORE
        if self.lose_answers > 0:
            self.lose_answers -= 1
            return CommitFate.LOSE_ANSWER
        return CommitFate.PASS


class _PostgresLink(Link):
    def __init__(
        self, proxy: PostgresProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        super().__init__(client, server)
        self._proxy = proxy
        self._messages = bytearray()
        self._is_started = False
        self._is_deaf = False

    async def on_client_bytes(self, data: bytes) -> None:
        self._messages += data
        ready = bytearray()
        while message := self._take_message():
            if is_commit(message):
                await self.to_server(bytes(ready))
                ready.clear()
                await self._take_commit(message)
            else:
                ready += message
        await self.to_server(bytes(ready))

    async def on_server_bytes(self, data: bytes) -> None:
        if not self._is_deaf:
            await self.to_client(data)

    def _take_message(self) -> bytes:
        """The next whole message; empty: it is not all there yet."""
        head = 1 if self._is_started else 0
        if len(self._messages) < head + 4:
            return b""
        [length] = struct.unpack_from("!I", self._messages, head)
        if len(self._messages) < head + length:
            return b""
        message = bytes(self._messages[: head + length])
        del self._messages[: head + length]
        if not self._is_started:
            [code] = struct.unpack_from("!I", message, 4)
            self._is_started = code not in {_SSL_REQUEST, _GSS_REQUEST}
        return message

    async def _take_commit(self, message: bytes) -> None:
        proxy = self._proxy
        if proxy.hold_commit_seconds:
            await asyncio.sleep(proxy.random.uniform(0, proxy.hold_commit_seconds))
        match proxy.decide():
            case CommitFate.PASS:
                await self.to_server(message)
            case CommitFate.CUT_BEFORE:
                self.cut()
            case CommitFate.LOSE_ANSWER:
                self._is_deaf = True
                await self.to_server(message)
                # Long enough for it to be executed, and nobody hears of it.
                await asyncio.sleep(_EXECUTED_SECONDS)
                self.cut()


def is_commit(message: bytes) -> bool:
    """A simple query (`Q`) or the parsing of a statement (`P`) that commits."""
    if message[:1] == b"Q":
        query = message[5:]
    elif message[:1] == b"P":
        query = message[5:].partition(b"\0")[2]
    else:
        return False
    return query.lstrip()[:6].upper() == b"COMMIT"
