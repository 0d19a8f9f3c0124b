"""`python -m app`: the launcher for production, uvicorn with what a messenger needs and bare uvicorn lacks."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app.infra.supervisor import mark_launched
from app.settings import Settings
from app.start_checks import read_and_ask
from app.transport.http.protocol import HttpProtocol
from app.transport.stopping import GRACEFUL_SECONDS, end_by
from app.transport.websocket.frames import MAX_FRAME_BYTES
from app.transport.websocket.protocol import FrameProtocol

# The time for a pong is a heartbeat, within these. With the ten seconds of presence, a half-open line is
# offline within a minute.
_LEAST_PONG_SECONDS = 5
_MOST_PONG_SECONDS = 15

_ACCEPTED_A_TURN = 3

_log = logging.getLogger("uvicorn.error")


def main() -> int:
    """Check the settings before any process is forked, then serve until SIGTERM.

    Returns:
        The exit status: 1 if the settings refuse the start.
    """
    settings, faults = asyncio.run(read_and_ask())
    if faults:
        return refuse(faults)
    # uvicorn stops gracefully and then raises the signal again; a stop in order ends with status 0.
    signal.signal(signal.SIGTERM, _end_in_order)
    serve(settings)
    return 0


def refuse(faults: Sequence[str]) -> int:
    """Tell why, a line each."""
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1


def serve(settings: Settings) -> None:
    """Run uvicorn; returns after a graceful stop."""
    mark_launched()
    heartbeat_seconds = settings.websocket.heartbeat_seconds
    config = uvicorn.Config(
        "app.main:app",
        host=settings.server.host,
        port=settings.server.port,
        workers=settings.server.workers,
        loop="uvloop",
        http=HttpProtocol,  # httptools, with a deadline for the head
        ws=FrameProtocol,  # uvicorn's websockets-sansio: fans out best, a fifth of granian's memory a socket
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # 1.4 to 2 times the CPU and 2.3 times the memory
        ws_ping_interval=heartbeat_seconds,
        ws_ping_timeout=min(_MOST_PONG_SECONDS, max(_LEAST_PONG_SECONDS, heartbeat_seconds)),
        proxy_headers=False,  # TRUSTED_PROXIES decides, not the address 127.0.0.1
        server_header=False,
        access_log=False,  # our own lines name the route, never the path with its token
        log_config=None,
        limit_concurrency=settings.server.max_connections,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_keep_alive=75,
    )
    listeners = listen(config)
    if settings.server.workers > 1:
        Supervisor(config, listeners).run()
        return
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(listeners)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def listen(config: uvicorn.Config) -> list[socket.socket]:
    """One bound socket, several times: in a turn of its loop libuv accepts one connection of each.

    With one alone a crowd that comes back at once waits in the kernel until it gives up, and comes again.
    """
    listener = config.bind_socket()
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_A_TURN - 1))]


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens only if it has bound the socket itself."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        _log.info("Running on http://%s:%s (Press CTRL+C to quit)", host, self.config.port)


class Supervisor(Multiprocess):
    """uvicorn's, which would go on waiting for its workers whoever asks again."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._was_asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: object) -> None:
        if self._was_asked:
            for worker in self.processes:
                worker.process.kill()
            end_by(number)
        self._was_asked = True
        # From another thread: the loop that waits for the event may hold its lock at this moment.
        threading.Thread(target=self.should_exit.set).start()

    def terminate_all(self) -> None:
        """A copy left open here would go on taking connections that no worker ever accepts."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _end_in_order(_signal: int, _frame: object) -> None:
    """Everything is closed by now."""


if __name__ == "__main__":
    sys.exit(main())
