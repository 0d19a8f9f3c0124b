"""An operator at the command line, beside a running server."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from tests.support.servers import Server


class Operator:
    """`python -m app.admin keys ...` with the settings of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def run(self, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
        """What it said; it must end with status 0."""
        status, said = self.try_to(*arguments, settings=settings)
        assert status == 0, said
        return said

    def try_to(self, *arguments: str, settings: Mapping[str, str] | None = None) -> tuple[int, str]:
        process = self._start(arguments, settings)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said.decode(errors="replace")

    def run_and_kill(
        self, *arguments: str, after_seconds: float, settings: Mapping[str, str] | None = None
    ) -> bool:
        """Answers whether it was still at work when it was killed."""
        process = self._start(arguments, settings)
        time.sleep(after_seconds)
        was_at_work = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return was_at_work

    def _start(
        self, arguments: tuple[str, ...], settings: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "app.admin", "keys", *arguments],
            cwd=self._server.directory,
            env=self._server.environment | {"COLUMNS": "200"} | dict(settings or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
