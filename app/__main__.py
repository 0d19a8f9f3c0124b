"""`python -m app`: the launcher for production, uvicorn with what a messenger needs and bare uvicorn lacks."""

import signal
import sys
from collections.abc import Sequence

import uvicorn

from app.bootstrap import list_start_faults
from app.infra.supervisor import mark_launched
from app.settings import Settings, SettingsError, load_settings
from app.transport.http.protocol import HeadDeadlineProtocol
from app.transport.websocket.frames import MAX_FRAME_BYTES
from app.transport.websocket.protocol import FrameProtocol

_GRACEFUL_SECONDS = 5
_MAX_CONNECTIONS = 20_000
# With the heartbeat and the ten seconds of presence, a half-open line is offline within a minute.
_PONG_SECONDS = 15


def main() -> int:
    """Check the settings before any process is forked, then serve until SIGTERM.

    Returns:
        The exit status: 1 if the settings refuse the start.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        return refuse(error.faults)
    faults = list_start_faults(settings)
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
    uvicorn.run(
        "app.main:app",
        host=settings.server.host,
        port=settings.server.port,
        workers=settings.server.workers,
        loop="uvloop",
        http=HeadDeadlineProtocol,  # httptools, with a deadline for the head
        ws=FrameProtocol,  # uvicorn's websockets-sansio: fans out best, a fifth of granian's memory a socket
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # 1.4 to 2 times the CPU and 2.3 times the memory
        ws_ping_interval=settings.websocket.heartbeat_seconds,
        ws_ping_timeout=_PONG_SECONDS,
        proxy_headers=False,  # TRUSTED_PROXIES decides, not the address 127.0.0.1
        server_header=False,
        access_log=False,  # our own lines name the route, never the path with its token
        log_config=None,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        timeout_keep_alive=75,
    )


def _end_in_order(_signal: int, _frame: object) -> None:
    """Everything is closed by now."""


if __name__ == "__main__":
    sys.exit(main())
