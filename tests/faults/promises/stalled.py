"""A client that opens a WebSocket, takes its `hello`, and then reads nothing any more."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any, Self

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

# The least that a kernel grants; what the server has sent waits on its side.
_RECEIVE_BUFFER = 4096
_PATIENCE_SECONDS = 10.0


class StalledReader:
    """`frames`: all that it has read, the `hello` first."""

    def __init__(self, url: str) -> None:
        self._protocol = ClientProtocol(parse_uri(url))
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setblocking(False)
        self.frames: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, url: str) -> Self:
        reader = cls(url)
        uri = parse_uri(url)
        await asyncio.get_running_loop().sock_connect(reader._socket, (uri.host, uri.port))
        reader._protocol.send_request(reader._protocol.connect())
        await reader._send()
        while not reader.frames:
            assert await reader._read(), "the server closed before its hello"
        assert reader.frames[0]["type"] == "hello", reader.frames[0]
        return reader

    async def say(self, frame_type: str, data: object) -> None:
        """Send a frame; what it leads to is not read."""
        self._protocol.send_text(json.dumps({"type": frame_type, "data": data}).encode())
        await self._send()

    def waiting_bytes(self) -> int:
        """What the server's kernel holds for this reader; it grows until the kernel takes no more."""
        server, own = self._socket.getpeername()[1], self._socket.getsockname()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            if (int(local[-4:], 16), int(remote[-4:], 16)) == (server, own):
                return int(queues.partition(":")[0], 16)
        return 0

    async def drain(self) -> int | None:
        """Read what waits, to the end; the code with which the server closed, None if it cut the line."""
        try:
            while await self._read():
                if self._protocol.close_rcvd is not None:
                    break
        except ConnectionError:
            return None
        finally:
            self.close()
        closed = self._protocol.close_rcvd
        return None if closed is None else int(closed.code)

    def close(self) -> None:
        self._socket.close()

    async def _read(self) -> bool:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.frames.append(json.loads(event.data))
        await self._send()
        return bool(data)

    async def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
