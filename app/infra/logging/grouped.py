"""Lines written in groups by a thread of their own, so that a request pays for making its line and no more.

Measured: a lock between processes, a write and a thread switch for each line took a fifth of a
small request. Nothing is lost for it: when writing falls behind, whoever logs waits.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_MAX_WAITING: Final = 20_000
_MAX_GROUP: Final = 500
_GATHER_SECONDS: Final = 0.02
_BEHIND_SECONDS: Final = 0.005
_DRAIN_SECONDS: Final = 5.0


class GroupedHandler(logging.Handler):
    """Formats where the record is made (its context is there), writes elsewhere, in order."""

    def __init__(self, write: Callable[[str], None], *, finish: Callable[[], None]) -> None:
        """`write` gets whole lines without the last line break; `finish` comes after the last."""
        super().__init__()
        self._write = write
        self._finish = finish
        self._lines: deque[str] = deque()
        self._has_lines = threading.Event()
        self._hurry = threading.Event()
        self._is_idle = threading.Event()
        self._start_guard = threading.Lock()
        self._writer_pid = 0
        self._is_closed = False
        self._is_ending = False

    def write_at_once(self) -> None:
        """From now on every line is written before `emit` returns: the process may end by a signal any moment."""
        self._is_ending = True
        self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the line over; an error leaves at once, anything else with its neighbours."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - logging's own way: a broken record breaks no caller
            self.handleError(record)
            return
        if self._writer_pid != os.getpid():
            self._start()
        while len(self._lines) >= _MAX_WAITING and not self._is_closed:
            time.sleep(_BEHIND_SECONDS)
        self._lines.append(line)
        if not self._has_lines.is_set():
            self._is_idle.clear()
            self._has_lines.set()
        if self._is_ending:
            self.flush()
        elif record.levelno >= logging.ERROR:
            self._hurry.set()

    def flush(self) -> None:
        """Until every line handed over so far is written, or five seconds."""
        if self._writer_pid != os.getpid() or (not self._lines and self._is_idle.is_set()):
            return
        self._hurry.set()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while (self._lines or not self._is_idle.is_set()) and time.monotonic() < deadline:
            time.sleep(0.001)

    def close(self) -> None:
        """Write what waits, then let go."""
        if self._is_closed:
            return
        self.flush()
        self._is_closed = True
        self._has_lines.set()
        self._finish()
        super().close()

    def _start(self) -> None:
        """In this process: threads do not survive a fork, and the parent writes its lines itself."""
        with self._start_guard:
            if self._writer_pid == os.getpid():
                return
            self._lines = deque()
            self._has_lines, self._hurry, self._is_idle = (threading.Event() for _ in range(3))
            threading.Thread(target=self._write_for_ever, name="log-writer", daemon=True).start()
            self._writer_pid = os.getpid()

    def _write_for_ever(self) -> None:
        while not self._is_closed:
            self._has_lines.wait()
            self._hurry.wait(_GATHER_SECONDS)
            self._hurry.clear()
            self._is_idle.clear()
            self._has_lines.clear()
            while self._lines:
                count = min(len(self._lines), _MAX_GROUP)
                self._write("\n".join(self._lines.popleft() for _ in range(count)))
            if not self._has_lines.is_set():
                self._is_idle.set()
