"""The other end of `tests/support/forks.py`: a process that has imported the program and forks itself on request.

It has no threads and no event loop, opens nothing but its own sockets, and ends with the tests' process.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

# `app.main` reads the settings as it is imported, so it is left to whoever is forked.
_IMPORTED = ("app.bootstrap", "app.__main__", "app.admin.__main__", "uvicorn.loops.uvloop")
_LONGEST_REQUEST = 200_000
_STANDARD_FILES = 3


@dataclass(frozen=True)
class Work:
    """What a forked process is to become. `files`: its standard input, output and error."""

    module: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    files: list[int]


def main() -> None:
    """Wait for work; from there on this is `python -m <module> <arguments>`."""
    for name in _IMPORTED:
        importlib.import_module(name)
    for name in ("app.__main__", "app.admin.__main__"):
        # `runpy` runs them anew, and would warn that they are here.
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    work = wait_for_work(socket.socket(fileno=int(sys.argv[1])))
    if work is None:
        return
    become(work)
    runpy.run_module(work.module, run_name="__main__", alter_sys=True)


def wait_for_work(requests: socket.socket) -> Work | None:
    """Returns in each forked process, and None in this one, when the tests are over."""
    woken, wake = socket.socketpair()
    with requests, woken, wake, selectors.DefaultSelector() as selector:
        for end in (woken, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        children: dict[int, socket.socket] = {}
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    report_ends(children)
                    continue
                work, line = take_request(requests)
                if work is None or line is None:
                    return None
                child = os.fork()
                if child == 0:
                    signal.set_wakeup_fd(-1)
                    return work
                for file in work.files:
                    os.close(file)
                tell(line, child)
                children[child] = line


def take_request(requests: socket.socket) -> tuple[Work | None, socket.socket | None]:
    """The work, and the line on which its process id and its end are told."""
    text, files, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, _STANDARD_FILES + 1)
    if not text:
        return None, None
    wanted: dict[str, Any] = json.loads(text)
    return Work(**wanted, files=files[:_STANDARD_FILES]), socket.socket(fileno=files[-1])


def report_ends(children: dict[int, socket.socket]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        with children.pop(child) as line:
            tell(line, os.waitstatus_to_exitcode(status))


def tell(line: socket.socket, number: int) -> None:
    """A test that failed has let go of its processes: then nobody listens."""
    with contextlib.suppress(OSError):
        line.send(str(number).encode())


def become(work: Work) -> None:
    """As a process that was started in its own session, with nothing of this one but what is imported."""
    os.setsid()
    for place, file in enumerate(work.files):
        os.dup2(file, place)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(work.directory)
    os.environ.clear()
    os.environ.update(work.environment)
    sys.argv = [work.module, *work.arguments]


if __name__ == "__main__":
    main()
