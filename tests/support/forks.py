"""Starts `python -m app` and `python -m app.admin` by forking a process that has imported the program.

Importing takes 1.3 s of a core, and a run of all tests starts some hundred processes. What runs is the
same program with its own environment, directory, files and signals; only its command line and
`/proc/<pid>/environ` are those of the fork server. Tests that look at these, or at starting itself, want
a real process. Where there is no fork server (on other systems) all of them are.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

ROOT = Path(__file__).resolve().parents[2]
_MODULES = frozenset({"alembic", "app", "app.admin", "uvicorn"})
_DATAGRAM = 200_000


class Process(Protocol):
    """What `subprocess.Popen` and `Forked` have in common."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...


class Forked:
    """A process of the fork server; as `subprocess.Popen` where the names are the same."""

    def __init__(self, line: socket.socket, pid: int) -> None:
        self._line = line
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self._hear(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not self._hear(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _hear(self, timeout: float | None) -> bool:
        """Whether it has ended."""
        self._line.settimeout(timeout)
        try:
            self.returncode = int(self._line.recv(64) or b"-1")
        except (BlockingIOError, TimeoutError):
            return False
        self._line.close()
        return True


class _ForkServer:
    """Started when it is first needed; ends when nobody holds its socket."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pid = 0

    def fork(self, request: Mapping[str, object], files: Sequence[int]) -> Forked:
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            text = json.dumps(request).encode()
            sent = [*files, theirs.fileno()]
            try:
                socket.send_fds(self._open(), [text], sent)
            except ConnectionError:  # somebody has ended it
                self._socket = None
                socket.send_fds(self._open(), [text], sent)
        return Forked(own, int(own.recv(64)))

    def _open(self) -> socket.socket:
        # A process that was forked off the tests has no business with their server.
        if self._socket is None or self._pid != os.getpid():
            own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _DATAGRAM)
            with theirs:
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._socket, self._pid = own, os.getpid()
            atexit.register(own.close)
        return self._socket


_SERVER = _ForkServer()


def may_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether this may come of the fork server, which has imported this very source and nothing else."""
    return (
        sys.platform == "linux"
        and tuple(command[:2]) == (sys.executable, "-m")
        and command[2] in _MODULES
        and environment.get("PYTHONPATH") == str(ROOT)
    )


def start(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    forked: bool = True,
) -> Process:
    """The command in a session of its own. `errors`: where they do not go to `output`."""
    errors = errors or output
    if forked and may_fork(command, environment):
        request = {
            "module": command[2],
            "arguments": command[3:],
            "directory": str(directory),
            "environment": dict(environment),
        }
        with Path(os.devnull).open("rb") as nothing:
            return _SERVER.fork(request, [it.fileno() for it in (nothing, output, errors)])
    return subprocess.Popen(
        list(command),
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )


def run(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    timeout_seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """As `start`, to the end; what it said is in the answer."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(
            command,
            directory=directory,
            environment=environment,
            output=output,
            errors=errors,
        )
        try:
            status = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        said = _read(output), _read(errors)
        return subprocess.CompletedProcess(list(command), status, *said)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
