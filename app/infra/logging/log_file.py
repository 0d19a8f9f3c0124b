"""The log file that all workers share, rotated under a lock between processes."""

import logging
from pathlib import Path

from concurrent_log_handler import ConcurrentRotatingFileHandler

from app.infra.logging.grouped import GroupedHandler


def open_log_file(path: Path, *, max_bytes: int, backups: int) -> GroupedHandler:
    """A handler on `path`; the lock is taken once for a group of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = ConcurrentRotatingFileHandler(
        str(path), maxBytes=max_bytes, backupCount=backups, encoding="utf-8", chmod=0o600
    )
    file.setFormatter(logging.Formatter("%(message)s"))

    def write(text: str) -> None:
        file.emit(logging.makeLogRecord({"msg": text}))

    return GroupedHandler(write, finish=file.close)
