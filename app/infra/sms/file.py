"""Codes in a file, one JSON line each, for tests and tools. Refused in production."""

import asyncio
import os
from pathlib import Path

import orjson

from app.infra.sms.port import SmsUnavailable
from app.kernel.clock import Clock, SystemClock, format_time


class FileSms:
    """Appends `{"phone","code","text","sent_at"}`, whole lines only, also from several processes at once."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()

    async def send(self, phone: str, code: str, text: str) -> None:
        """As `SmsSender.send`; the line is in the file on return."""
        line = orjson.dumps(
            {"phone": phone, "code": code, "text": text, "sent_at": format_time(self._clock.now())},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        try:
            await asyncio.to_thread(self._append, line)
        except OSError as error:
            raise SmsUnavailable from error

    async def close(self) -> None:
        """Nothing is held."""

    def _append(self, line: bytes) -> None:
        """One `write` with O_APPEND: the kernel keeps lines of several writers apart."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(descriptor, line) != len(line):
                msg = "the disk is full"
                raise OSError(msg)
        finally:
            os.close(descriptor)
