"""Free ports, and waiting until somebody listens."""

import contextlib
import itertools
import os
import random
import socket
import subprocess
import time

_STEP_SECONDS = 0.02
_FIRST = 12_000
_PORTS_EACH = 2_500
_WORKERS = 8
# Another run on this machine begins elsewhere.
_turns = itertools.count(random.randrange(_PORTS_EACH))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at this moment.

    Below those that the system gives out, each process of a test run among its own: the port of a server that was
    killed must be free when it starts again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _WORKERS * _PORTS_EACH
    while True:
        port = first + next(_turns) % _PORTS_EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_seconds: float = 20) -> None:
    """Return when something listens.

    Raises:
        RuntimeError: the process ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            msg = f"the process ended with {process.returncode} before it listened on {port}"
            raise RuntimeError(msg)
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(_STEP_SECONDS)
    msg = f"nobody listened on {port} after {timeout_seconds} s"
    raise RuntimeError(msg)
