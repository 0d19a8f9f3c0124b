"""Files straight from the page cache into the socket: the ASGI extension `http.response.zerocopysend`.

uvloop has no `sendfile` of its own, so it is done on a duplicate of the connection's socket while the
transport has nothing to write. Measured, see docs/benchmarks.md.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.transport.http.stored import ABORT, STALLED_SECONDS, ZERO_COPY

# More than the socket takes at once is of no use.
_AT_ONCE: Final = 4_194_304
# Of their own: a hanging disk shall not hold up what else runs in threads.
_THREADS: Final = ThreadPoolExecutor(8, thread_name_prefix="zero-copy")


class FileShorter(Exception):  # noqa: N818 - says what is found
    """A file ends before the answer that was promised of it."""


class ZeroCopyApp:
    """The application of one request, which may send files. `cycle` is uvicorn's, told before it begins.

    `before_end` is called when the last piece of the answer is about to be written.
    """

    def __init__(self, app: ASGIApp, before_end: Callable[[RequestResponseCycle], None]) -> None:
        self.cycle: RequestResponseCycle | None = None
        self._app = app
        self._before_end = before_end
        self._socket: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.cycle is not None and self.cycle.transport.get_extra_info("sslcontext") is None:
            extensions = cast("dict[str, object]", scope.setdefault("extensions", {}))
            extensions[ZERO_COPY] = {}
            extensions[ABORT] = {}
        try:
            await self._app(scope, receive, self._send)
        finally:
            if self._socket is not None:
                os.close(self._socket)

    async def _send(self, message: Message) -> None:
        cycle = cast("RequestResponseCycle", self.cycle)
        if cycle.transport.is_closing():
            # uvicorn tells only the newest of several requests that wait for their answers.
            cycle.disconnected = True
        if message["type"] == ZERO_COPY:
            await self._send_file(
                cycle,
                message["file"],
                message["offset"],
                message["count"],
                may_go_on=message.get("may_go_on", lambda: True),
            )
            if not message.get("more_body", False):
                self._before_end(cycle)
                await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})
        elif message["type"] == ABORT:
            cycle.transport.abort()
        else:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._before_end(cycle)
            await cycle.send(message)  # pyright: ignore[reportArgumentType] - Starlette's type of the same

    async def _send_file(
        self,
        cycle: RequestResponseCycle,
        file: int,
        offset: int,
        count: int,
        *,
        may_go_on: Callable[[], bool],
    ) -> None:
        """Raises:
        TimeoutError: the client takes nothing.
        """
        if count > cycle.expected_content_length:
            msg = "more than the Content-Length"
            raise ValueError(msg)
        await _empty(cycle)
        if self._socket is None and not cycle.disconnected:
            self._socket = os.dup(cycle.transport.get_extra_info("socket").fileno())
        while count and not cycle.disconnected and may_go_on():
            sent = await self._send_some(cast("int", self._socket), file, offset, count)
            offset += sent
            count -= sent
            cycle.expected_content_length -= sent

    async def _send_some(self, out: int, file: int, offset: int, count: int) -> int:
        """In a thread: what is not in the page cache has to be read from the disk.

        Raises:
            TimeoutError: the client takes nothing, or the disk gives nothing.
        """
        loop = asyncio.get_running_loop()
        count = min(count, _AT_ONCE)
        while True:
            try:
                # One that waits for a thread is called off in time; one that hangs in the kernel holds the
                # files themselves, whatever becomes of their numbers.
                async with asyncio.timeout(STALLED_SECONDS):
                    sent = await loop.run_in_executor(
                        _THREADS, os.sendfile, out, file, offset, count
                    )
            except BlockingIOError:
                await _wait_writable(out)
                continue
            except (BrokenPipeError, ConnectionResetError):
                return count  # the transport notices by itself
            if sent == 0:
                msg = "a stored file is shorter than its row says"
                raise FileShorter(msg)
            return sent


async def _empty(cycle: RequestResponseCycle) -> None:
    """Wait until the transport has written what it holds: two must not write at once."""
    transport = cycle.transport
    transport.set_write_buffer_limits(high=0)
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            while transport.get_write_buffer_size() and not cycle.disconnected:
                if cycle.flow.write_paused:
                    await cycle.flow.drain()
                else:
                    await asyncio.sleep(0)
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits()


async def _wait_writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, _set, ready)
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await ready
    finally:
        loop.remove_writer(descriptor)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
