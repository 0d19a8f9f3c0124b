"""An operator at the command line, beside a running server."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from tests.support import forks
from tests.support.servers import Server
from tests.support.waiting import eventually


class Killed(NamedTuple):
    """What became of a command that was to be killed. `said`: until then."""

    was_at_work: bool
    said: str


class Operator:
    """`python -m app.admin keys ...` with the settings of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def run(self, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
        """What it said; it must end with status 0."""
        status, said = await self.try_to(*arguments, settings=settings)
        assert status == 0, said
        return said

    async def try_to(
        self, *arguments: str, settings: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Its status, and what it said."""
        ran = await asyncio.to_thread(
            forks.run,
            self._command(arguments),
            directory=self._server.directory,
            environment=self._environment(settings),
        )
        return ran.returncode, ran.stdout + ran.stderr

    async def run_and_kill(
        self,
        *arguments: str,
        once: Callable[[], Awaitable[bool]],
        settings: Mapping[str, str] | None = None,
    ) -> Killed:
        """Kill it (SIGKILL) once that is so."""
        with tempfile.TemporaryFile() as output:
            process = forks.start(
                self._command(arguments),
                directory=self._server.directory,
                environment=self._environment(settings),
                output=output,
            )

            async def is_due() -> bool:
                return process.poll() is not None or await once()

            await eventually(is_due, timeout_seconds=60, what="the moment to kill it")
            was_at_work = process.poll() is None
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            output.seek(0)
            return Killed(was_at_work, output.read().decode(errors="replace"))

    def _command(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        return (sys.executable, "-m", "app.admin", "keys", *arguments)

    def _environment(self, settings: Mapping[str, str] | None) -> dict[str, str]:
        return self._server.environment | {"COLUMNS": "200"} | dict(settings or {})
