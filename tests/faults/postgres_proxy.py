"""A proxy in front of PostgreSQL that finds COMMIT and holds it, loses its answer, or cuts before it arrives.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import asyncio
import struct
from enum import Enum

from tests.faults.tcp_proxy import Link, TcpProxy

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104
# ReadyForQuery without its last byte: whatever came of the COMMIT is over.
_LOOK_SECONDS = 0.05
_READY = b"Z\x00\x00\x00\x05"


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
        super().__init__(proxy, client, server)
        self._database = proxy
        self._messages = bytearray()
        self._is_started = False
        self._finder = CommitFinder()
        # Once the answer of a COMMIT is to be lost: what the client is not told.
        self._unheard: bytearray | None = None

    async def on_client_bytes(self, data: bytes) -> None:
        self._messages += data
        ready = bytearray()
        while message := self._take_message():
            if self._finder.commits(message):
                await self.to_server(bytes(ready))
                ready.clear()
                await self._take_commit(message)
            else:
                ready += message
        await self.to_server(bytes(ready))

    async def on_server_bytes(self, data: bytes) -> None:
        if self._unheard is None:
            await self.to_client(data)
            return
        self._unheard += data
        if _READY in self._unheard:
            self.cut()

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
        database = self._database
        if database.hold_commit_seconds:
            await self._hold(database.random.uniform(0, database.hold_commit_seconds))
        fate = database.decide()
        if fate is CommitFate.CUT_BEFORE:
            self.cut()
            return
        if fate is CommitFate.LOSE_ANSWER:
            self._unheard = bytearray()
        await self.to_server(message)

    async def _hold(self, seconds: float) -> None:
        """So long, or until the proxy is healed: a transaction that hangs on keeps its locks."""
        end = asyncio.get_running_loop().time() + seconds
        while self._database.hold_commit_seconds:
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _LOOK_SECONDS))


class CommitFinder:
    """Follows the messages of one client: which of them makes PostgreSQL commit."""

    def __init__(self) -> None:
        self._statements: set[bytes] = set()
        self._portals: set[bytes] = set()

    def commits(self, message: bytes) -> bool:
        """A simple query, or the execution of a portal that was bound to such a statement."""
        kind, body = message[:1], message[5:]
        match kind:
            case b"Q":
                return _says_commit(body)
            case b"P":
                name, _, query = body.partition(b"\0")
                _keep(self._statements, name, is_in=_says_commit(query))
            case b"B":
                portal, name, *_ = body.split(b"\0", 2)
                _keep(self._portals, portal, is_in=name in self._statements)
            case b"E":
                return body.partition(b"\0")[0] in self._portals
            case _:
                return False
        return False


def _keep(names: set[bytes], name: bytes, *, is_in: bool) -> None:
    """A name may be given anew to something else."""
    if is_in:
        names.add(name)
    else:
        names.discard(name)


def _says_commit(query: bytes) -> bool:
    return query.lstrip()[:6].upper() == b"COMMIT"
