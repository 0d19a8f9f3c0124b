"""The real server as a process of its own, in a directory of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from tests.support import forks
from tests.support.ports import free_port

ROOT = forks.ROOT
LAUNCHER: tuple[str, ...] = (sys.executable, "-m", "app")
# What suites need and production would refuse: cheap hashes, codes in a file, no sign-in limits.
TEST_ENVIRONMENT: Mapping[str, str] = {
    "ENVIRONMENT": "development",
    "LOG_LEVEL": "DEBUG",
    "PBKDF2_ROUNDS": "1000",
    "CODE_HASH_ROUNDS": "4",
    "TWO_STEP_HASH_ROUNDS": "4",
    "SMS_PROVIDER": "file",
    "SMS_LIMIT_PER_PHONE": "1000000",
    "SMS_LIMIT_PER_ADDRESS": "1000000",
    "SMS_LIMIT_PER_PREFIX": "1000000",
    "SMS_LIMIT_PER_PREFIX_DAY": "1000000",
    "SMS_LIMIT_PER_COUNTRY": "1000000",
    "SMS_LIMIT_IN_ALL": "1000000",
    "SMS_LIMIT_PER_DAY": "1000000",
    "RATE_LIMIT_REQUESTS": "1000000",
    "RATE_LIMIT_SIGN_IN": "1000000",
    "RATE_LIMIT_CODE_CHECKS": "1000000",
    "RATE_LIMIT_SEARCH": "1000000",
    "RATE_LIMIT_CONTACT_IMPORT": "1000000",
    "RATE_LIMIT_SENDS": "1000000",
    "RATE_LIMIT_SENDS_PER_CHAT": "1000000",
    "RATE_LIMIT_SENDS_BURST": "1000000",
    "RATE_LIMIT_TYPING": "1000000",
    "RATE_LIMIT_READS": "1000000",
    "RATE_LIMIT_CATCH_UP": "1000000",
    "RATE_LIMIT_CALLS": "1000000",
    "RATE_LIMIT_OUTREACH": "1000000",
    "RATE_LIMIT_OUTREACH_NEW": "1000000",
    "RATE_LIMIT_SOCKETS": "1000000",
    "RATE_LIMIT_UPLOADS": "1000000",
    "RATE_LIMIT_UPLOAD_PARTS": "1000000",
    "RATE_LIMIT_DOWNLOADS": "1000000",
}
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "SYSTEMROOT",
    "COVERAGE_PROCESS_START",
    "COVERAGE_FILE",
)
# Patience, not a promise: other runs may have the cores.
_READY_SECONDS = 120
_STOP_SECONDS = 15


class ServerFailed(Exception):  # noqa: N818 - says what happened
    """The server did not start or did not stop; holds the tail of what it said."""


class Server:
    """`python -m app` (or another command) with its own VAR_DIR, port and log."""

    def __init__(
        self,
        directory: Path,
        overrides: Mapping[str, str] | None = None,
        *,
        name: str = "server",
        forked: bool = True,
    ) -> None:
        """`forked`: by the fork server (see `forks.py`); else it is a process from its first line on."""
        self.directory = directory
        self.name = name
        self.forked = forked
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.port}"
        self.var_dir = directory / "var"
        self.log_file = directory / "app.log"
        self.output_file = directory / "output.txt"
        self.sms_file = self.var_dir / "sms.jsonl"
        self.environment = {
            **{key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ},
            **TEST_ENVIRONMENT,
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "VAR_DIR": str(self.var_dir),
            "LOG_FILE": str(self.log_file),
            **(overrides or {}),
        }
        self._process: forks.Process | None = None
        self._sms_offset = 0
        self._codes: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, command: Sequence[str] = LAUNCHER) -> Self:
        """Start and wait until `/health/ready` answers 200."""
        self.launch(command)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self, command: Sequence[str] = LAUNCHER) -> None:
        """Start without waiting; the working directory holds no `.env` and no code."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.output_file.open("ab") as output:
            self._process = forks.start(
                command,
                directory=self.directory,
                environment=self.environment,
                output=output,
                forked=self.forked,
            )

    def start_uvicorn(self, *options: str) -> Self:
        """The same app under bare `uvicorn app.main:app`."""
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        return self.start((sys.executable, "-m", "uvicorn", "app.main:app", *address, *options))

    def wait_for_exit(self, timeout_seconds: float = 30) -> int:
        """The exit status of a server that is expected to end by itself."""
        try:
            return self._running().wait(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(self._story(f"still ran after {timeout_seconds} s")) from None

    def stop(self) -> None:
        """SIGTERM, as an operator would; must end cleanly and in time."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        status = self.wait_for_exit(_STOP_SECONDS)
        self._process = None
        if status not in {0, -signal.SIGTERM}:
            raise ServerFailed(self._story(f"ended with status {status}"))

    def kill(self) -> None:
        """End the whole process group at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._running().pid

    def output(self) -> str:
        """All that was written to stdout and stderr."""
        return self.output_file.read_text(errors="replace") if self.output_file.exists() else ""

    def log(self) -> str:
        """All that was written to the log file and its rotated ones."""
        files = sorted(self.log_file.parent.glob(f"{self.log_file.name}*"))
        return "".join(file.read_text(errors="replace") for file in files if file.suffix != ".lock")

    def faults(self) -> list[str]:
        """Lines of output and log that tell of an unexpected error."""
        words = (
            "Traceback (most recent call last)",
            '"level":"error"',
            '"level": "error"',
            '"level":"critical"',
        )
        lines = (self.output() + self.log()).splitlines()
        return [line for line in lines if any(word in line for word in words)]

    def codes(self, phone: str) -> list[str]:
        """The codes sent to this E.164 number so far, oldest first."""
        if self.sms_file.exists():
            with self.sms_file.open("rb") as file:
                file.seek(self._sms_offset)
                for line in file:
                    message = json.loads(line)
                    self._codes.setdefault(message["phone"], []).append(message["code"])
                self._sms_offset = file.tell()
        return list(self._codes.get(phone, []))

    def _running(self) -> forks.Process:
        assert self._process is not None, "the server was not started"
        return self._process

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        with httpx.Client(base_url=self.base_url, timeout=2, trust_env=False) as client:
            while time.monotonic() < deadline:
                status = self._running().poll()
                if status is not None:
                    raise ServerFailed(self._story(f"ended with {status} before it was ready"))
                with suppress(httpx.TransportError):
                    if client.get("/health/ready").status_code == httpx.codes.OK:
                        return
                time.sleep(0.05)
        raise ServerFailed(self._story(f"was not ready after {_READY_SECONDS} s"))

    def _story(self, what: str) -> str:
        return f"{self.name} {what}\n--- output\n{self.output()[-4000:]}\n--- log\n{self.log()[-4000:]}"
