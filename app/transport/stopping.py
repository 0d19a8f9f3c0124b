"""A stop in order: bounded in time whatever hangs, and at once for whoever asks twice.

uvicorn ends by SIGTERM and SIGINT. This hears them first, under `python -m app` and bare uvicorn alike:
bare uvicorn would wait for ever for a client that reads nothing.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType

from uvicorn import Server

from app.transport.newcomers import take_newcomers

# Requests in flight have this long; then the adapters are closed; and ten seconds are promised in all.
GRACEFUL_SECONDS = 5
CLOSING_SECONDS = 3.5
_LAST_RESORT_SECONDS = 9.3


class Stop:
    """`has_begun`: the server has been told to stop and takes nothing new."""

    def __init__(self) -> None:
        self.has_begun = False
        self._ending: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Listen in front of uvicorn; call it while the server starts. Another server is left alone."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            server = find_server(number)
            if server is not None:
                if server.config.timeout_graceful_shutdown is None:
                    server.config.timeout_graceful_shutdown = GRACEFUL_SECONDS
                self._listen(number, server)

    def _listen(self, number: signal.Signals, server: Server) -> None:
        loop = asyncio.get_running_loop()

        def hear(heard: int, frame: FrameType | None) -> None:
            if not self.has_begun:
                self.has_begun = True
                last_resort = threading.Timer(_LAST_RESORT_SECONDS, _end_now)
                last_resort.daemon = True
                last_resort.start()
                loop.call_soon_threadsafe(self._begin, server, heard)
                return
            if multiprocessing.parent_process() is None:
                # A worker hears the same stop from its supervisor and from the terminal: there the
                # supervisor counts.
                end_by(heard)
            server.handle_exit(heard, frame)

        signal.signal(number, hear)

    def _begin(self, server: Server, heard: int) -> None:
        async def end() -> None:
            try:
                if server.started:
                    await take_newcomers(server)
            finally:
                server.handle_exit(heard, None)

        self._ending = asyncio.create_task(end())


def find_server(number: signal.Signals = signal.SIGTERM) -> Server | None:
    """The uvicorn that runs us: it is what hears this signal."""
    server = getattr(signal.getsignal(number), "__self__", None)
    return server if isinstance(server, Server) else None


def end_by(number: int) -> None:
    """End this process at once, as if nobody had listened to the signal."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _end_now() -> None:
    sys.stderr.write("The stop took too long: ended without closing everything\n")
    os._exit(1)
