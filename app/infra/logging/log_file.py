"""The log file that all workers share: rotation under a lock between processes, writes in groups.

Taking that lock for every line would cost each request more than the line itself; a thread takes
it once for all lines that wait.
"""

import logging
import os
import queue
import threading
from pathlib import Path
from typing import Final

from concurrent_log_handler import ConcurrentRotatingFileHandler

_MAX_WAITING: Final = 20_000
_MAX_GROUP: Final = 200
_CLOSE_SECONDS: Final = 10
_DRAIN_SECONDS: Final = 2


class LogFileHandler(logging.Handler):
    """Formats where the record is made (its context is there), writes elsewhere, in order."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = ConcurrentRotatingFileHandler(
            str(path), maxBytes=max_bytes, backupCount=backups, encoding="utf-8", chmod=0o600
        )
        self._file.setFormatter(logging.Formatter("%(message)s"))
        self._start_guard = threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._writer: threading.Thread | None = None
        self._writer_pid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the line over. Waits only when 20,000 lines are ahead: slow beats lost."""
        try:
            line = self.format(record)
            if self._writer_pid != os.getpid():
                self._start()
            self._lines.put(line)
        except Exception:  # noqa: BLE001 - logging's own way: a broken record breaks no caller
            self.handleError(record)

    def flush(self) -> None:
        """Until every line handed over so far is in the file, or two seconds."""
        if self._writer_pid != os.getpid() or self._writer is threading.current_thread():
            return
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks, _DRAIN_SECONDS
            )

    def close(self) -> None:
        """Write what waits, then let go of the file."""
        if self._writer is not None and self._writer_pid == os.getpid():
            self._lines.put(None)
            self._writer.join(_CLOSE_SECONDS)
            self._writer = None
            self._writer_pid = 0
        self._file.close()
        super().close()

    def _start(self) -> None:
        """In this process: threads do not survive a fork, and the parent writes its lines itself."""
        with self._start_guard:
            if self._writer_pid == os.getpid():
                return
            self._lines = queue.Queue(_MAX_WAITING)
            self._writer = threading.Thread(
                target=self._write_lines, name="log-writer", daemon=True
            )
            self._writer.start()
            self._writer_pid = os.getpid()

    def _write_lines(self) -> None:
        lines = self._lines
        while True:
            group = [lines.get()]
            while len(group) < _MAX_GROUP and group[-1] is not None:
                try:
                    group.append(lines.get_nowait())
                except queue.Empty:
                    break
            text = "\n".join(line for line in group if line is not None)
            if text:
                self._file.emit(logging.makeLogRecord({"msg": text}))
            for _ in group:
                lines.task_done()
            if group[-1] is None:
                return
