"""Free ports, and waiting until somebody listens."""

import socket
import subprocess
import time

_STEP_SECONDS = 0.02


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
