"""A small TCP proxy whose connections can be cut, silenced, slowed and refused; no bytes are read but by subclasses."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Self

Address = tuple[str, int]
ChooseTargets = Callable[[], Sequence[Address]]

_CHUNK = 65536
_CONNECT_SECONDS = 3.0
# Closing with it sends RST: the other end learns at once, and nothing that was queued still arrives.
_NO_LINGER = struct.pack("ii", 1, 0)


class Way(Enum):
    """The two directions of a connection."""

    TO_SERVER = 0
    TO_CLIENT = 1


class Link:
    """One connection through the proxy: the client's half and the server's half."""

    def __init__(
        self, proxy: "TcpProxy", client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self.proxy = proxy
        self._client = client
        self._server = server
        self._flowing = {way: asyncio.Event() for way in Way}
        self.flow()
        # What the server says next is the beginning of an answer.
        self._is_asked = False
        # A black hole: both ends stay open, every byte disappears.
        self.is_silent = False
        # The next bytes of the server cut the line instead of arriving.
        self.loses_next_answer = False

    async def on_client_bytes(self, data: bytes) -> None:
        """What the client has sent; a subclass may read it, change it or keep it."""
        self._is_asked = True
        await self.to_server(data)

    async def on_server_bytes(self, data: bytes) -> None:
        """What the server has sent."""
        if self._is_asked:
            self._is_asked = False
            self.loses_next_answer |= self.proxy.draws_loss()
        if self.loses_next_answer:
            self.proxy.answers_lost += 1
            self.cut()
        else:
            await self.to_client(data)

    async def to_server(self, data: bytes) -> None:
        await self._write(self._server, data)

    async def to_client(self, data: bytes) -> None:
        await self._write(self._client, data)

    def silence(self) -> None:
        """A line gone half-open: no FIN, no RST, and nothing gets through any more."""
        self.is_silent = True
        self.flow()

    def stall(self, *ways: Way) -> None:
        """Let nothing through and read nothing, until `flow`: the sender's buffers fill. Both ways if none is named."""
        for way in ways or Way:
            self._flowing[way].clear()

    def flow(self) -> None:
        for way in Way:
            self._flowing[way].set()

    def cut(self) -> None:
        """Reset both halves."""
        for writer in (self._client, self._server):
            reset(writer)
        self.flow()

    async def pump(self, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        """Until one end closes; then the other is closed too, unless the line is silent: it hears of nothing."""
        ways = [
            asyncio.create_task(self._pump(client, Way.TO_SERVER, self.on_client_bytes)),
            asyncio.create_task(self._pump(server, Way.TO_CLIENT, self.on_server_bytes)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if self.is_silent:
                await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (self._client, self._server):
                writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, way: Way, take: Callable[[bytes], Awaitable[None]]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing[way].wait()
                if self.proxy.lag_seconds:
                    await asyncio.sleep(self.proxy.lag_seconds)
                if not self.is_silent:
                    await take(data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.is_silent or not data:
            return
        writer.write(data)
        await writer.drain()


class TcpProxy:
    """Listens on `port`; each connection goes to the first of `choose()` that accepts it."""

    def __init__(self, choose: ChooseTargets, *, seed: int = 0) -> None:
        self._choose = choose
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.random = random.Random(seed)
        self.links: list[Link] = []
        self.port = 0
        # New connections are reset / accepted and never served.
        self.is_refusing = False
        self.is_mute = False
        # Each piece waits so long, either way.
        self.lag_seconds = 0.0
        # The share of answers that cut the line instead of arriving: the question was passed on.
        self.loss = 0.0
        self.answers_lost = 0

    @classmethod
    def to(cls, host: str, port: int, *, seed: int = 0) -> Self:
        """To one fixed address."""
        return cls(lambda: [(host, port)], seed=seed)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        """A subclass makes links that read the protocol."""
        return Link(self, client, server)

    def draws_loss(self) -> bool:
        """Whether chance takes the answer that has just begun."""
        return self.random.random() < self.loss

    def cut(self, links: Sequence[Link] | None = None) -> int:
        """Reset these connections, or all; answers how many."""
        chosen = list(self.links if links is None else links)
        for link in chosen:
            link.cut()
        return len(chosen)

    def silence(self, links: Sequence[Link] | None = None) -> int:
        """Make these connections half-open, or all."""
        chosen = list(self.links if links is None else links)
        for link in chosen:
            link.silence()
        return len(chosen)

    def sample(self, share: float) -> list[Link]:
        """Some of the open connections, at least one if there is any; half-open ones are no more to be hurt."""
        open_links = [link for link in self.links if not link.is_silent]
        count = max(1, round(len(open_links) * share))
        return self.random.sample(open_links, min(count, len(open_links)))

    def heal(self) -> None:
        """New connections are served again, and what hangs is cut, so that both ends come back."""
        self.is_refusing = self.is_mute = False
        self.lag_seconds = self.loss = 0.0
        self.cut([link for link in self.links if link.is_silent])
        for link in self.links:
            link.loses_next_answer = False
            link.flow()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_mute:
            await self._swallow(reader, writer)
            return
        upstream = None if self.is_refusing else await self._connect()
        if upstream is None:
            reset(writer)
            return
        server_reader, server_writer = upstream
        link = self.make_link(writer, server_writer)
        self.links.append(link)
        try:
            await link.pump(reader, server_reader)
        finally:
            self.links.remove(link)

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while self.is_mute and await _read_some(reader):
                continue
        reset(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in self._choose():
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(host, port)
        return None


async def _read_some(reader: asyncio.StreamReader) -> bool:
    """False when the client has gone; a look now and then whether the proxy is still mute."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            return bool(await reader.read(_CHUNK))
    return True


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        # uvloop has a ValueError for a socket that is closed already.
        with suppress(OSError, ValueError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
