"""A deployment to be hurt: workers, PostgreSQL and Redis as processes, with a proxy on every line between them."""

import asyncio
import itertools
import os
import shutil
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from tests.faults.postgres_proxy import PostgresProxy
from tests.faults.promises.scale import FORKED
from tests.faults.redis_proxy import RedisProxy
from tests.faults.tcp_proxy import Address, TcpProxy
from tests.support.postgres import Postgres, PostgresProcess, run_postgres_process
from tests.support.redis_server import RedisProcess, redis_version, run_redis_process
from tests.support.servers import LAUNCHER, Server

WORKERS = 3
# Patience, not a promise: other runs may have the cores.
_READY_SECONDS = 60.0
_STEP_SECONDS = 0.05
# Without its database a worker refuses to start; whoever supervises it tries again.
_LAUNCHES = 6
_RELAUNCH_SECONDS = 2.0
# What uvicorn logs of such a refusal; a start that fails for a bug says more than this.
_REFUSALS = ("DATABASE_URL: the database does not answer", "Application startup failed. Exiting.")
# Made once: a context costs 20 ms of the loop that the proxies and clients share.
_NO_TLS = ssl.create_default_context()
# So that a half-open line is noticed within a schedule.
# Sessions are revoked late in a long run, by devices that nobody can ask to confirm.
_ENVIRONMENT = {"LOG_LEVEL": "WARNING", "WS_HEARTBEAT_SECONDS": "5", "FRESH_MINUTES": "1440"}


class Worker:
    """One process of the server behind a port of its own, with its own lines to PostgreSQL and Redis."""

    def __init__(self, server: Server, postgres: PostgresProxy | None, redis: RedisProxy | None):
        self.server = server
        self.command: Sequence[str] = LAUNCHER
        self.postgres = postgres
        self.redis = redis
        self.base_url = server.base_url
        self.is_up = False
        self.is_stopped = False
        # When it last became ready, and when it last ceased to run in order; of the monotonic clock.
        self.ready_at = 0.0
        self.disturbed_at = 0.0
        self._unexpected: list[str] = []

    @property
    def address(self) -> Address:
        return "127.0.0.1", self.server.port

    @property
    def can_serve(self) -> bool:
        return self.is_up and not self.is_stopped

    async def start(self) -> float:
        """Start, and wait until it serves; answers the seconds that took."""
        began = time.monotonic()
        self.server.launch(self.command)
        await self._wait_until_ready()
        self.is_up, self.ready_at = True, time.monotonic()
        return self.ready_at - began

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is said."""
        self.notice_end()
        self.is_up, self.disturbed_at = False, time.monotonic()
        self.server.kill()
        self.is_stopped = False

    async def terminate(self) -> None:
        """SIGTERM, and wait for the end in order."""
        self.notice_end()
        self.is_up, self.disturbed_at = False, time.monotonic()
        await asyncio.to_thread(self.server.stop)

    def take_unexpected_ends(self) -> list[str]:
        """A line each time that it ended although nobody had ended it, since the last call."""
        self.notice_end()
        taken, self._unexpected = self._unexpected, []
        return taken

    def stop(self) -> None:
        """SIGSTOP: it holds its sockets and does nothing."""
        self.is_stopped, self.disturbed_at = True, time.monotonic()
        os.kill(self.server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        if self.is_stopped:
            with suppress(ProcessLookupError):
                os.kill(self.server.pid, signal.SIGCONT)
        self.is_stopped, self.disturbed_at = False, time.monotonic()

    def notice_end(self) -> None:
        """Look whether it has ended although nobody had ended it."""
        if self.is_up and not self.server.is_running:
            self.is_up, self.disturbed_at = False, time.monotonic()
            status = self.server.wait_for_exit(0)
            self._unexpected.append(f"{self.server.name} ended by itself with status {status}")

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        launches, again_at = 1, time.monotonic() + _RELAUNCH_SECONDS
        async with httpx.AsyncClient(
            base_url=self.base_url, timeout=2, trust_env=False, verify=_NO_TLS
        ) as http:
            while time.monotonic() < deadline:
                is_due = launches < _LAUNCHES and time.monotonic() >= again_at
                if not self.server.is_running and is_due:
                    launches, again_at = launches + 1, time.monotonic() + _RELAUNCH_SECONDS
                    self.server.launch(self.command)
                with suppress(httpx.TransportError):
                    if (await http.get("/health/ready")).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(_STEP_SECONDS)
        story = self.server.output()[-3000:] + self.server.log()[-3000:]
        raise AssertionError(
            f"{self.server.name} was not ready in {_READY_SECONDS} s and {launches} starts:\n{story}"
        )


class Cluster:
    """`front`: where clients connect; each connection goes to a worker that is up, in turn."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = list(workers)
        self.front = TcpProxy(self.choose)
        self.postgres: PostgresProcess | None = None
        self.redis: RedisProcess | None = None
        # Past every proxy: for whoever judges.
        self.postgres_url = ""
        self.sqlite_file: Path | None = None
        self.versions: dict[str, str] = {}
        self._turn = itertools.count()
        self._seen_faults: dict[str, Counter[str]] = {}

    @property
    def front_url(self) -> str:
        return f"http://127.0.0.1:{self.front.port}"

    def codes(self, phone: str) -> list[str]:
        """The codes sent to this number so far."""
        return self.workers[0].server.codes(phone)

    def choose(self) -> list[Address]:
        """The addresses of the workers that are up, another one first each time."""
        up = [worker.address for worker in self.workers if worker.can_serve]
        turn = next(self._turn) % len(up) if up else 0
        return up[turn:] + up[:turn]

    def take_logged_errors(self) -> list[str]:
        """What tells of an unexpected error since the last call: lines of the workers' logs, and ends of workers."""
        fresh: list[str] = []
        for worker in self.workers:
            fresh += worker.take_unexpected_ends()
            name = worker.server.name
            faults = Counter(line for line in worker.server.faults() if not _is_refusal(line))
            fresh += (faults - self._seen_faults.get(name, Counter())).elements()
            self._seen_faults[name] = faults
        return fresh

    async def restart_postgres(self) -> None:
        """Kill it with all its backends, and let it recover."""
        assert self.postgres is not None
        self.postgres.kill()
        await asyncio.to_thread(self.postgres.start)

    async def restart_redis(self) -> None:
        """Kill it: what it held is lost."""
        assert self.redis is not None
        self.redis.kill()
        await asyncio.to_thread(self.redis.start)

    async def heal(self) -> None:
        """Everything runs, nothing is held, lost or silent any more."""
        self.front.heal()
        for process in (self.postgres, self.redis):
            if process is not None:
                process.signal(signal.SIGCONT)
        for worker in self.workers:
            worker.go_on()
            worker.notice_end()
            for proxy in (worker.postgres, worker.redis):
                if proxy is not None:
                    proxy.heal()
        await asyncio.gather(*(it.start() for it in self.workers if not it.is_up))


@asynccontextmanager
async def run_cluster(
    directory: Path,
    *,
    workers: int = WORKERS,
    environment: Mapping[str, str] | None = None,
    commands: Sequence[Sequence[str]] = (),
    forked: bool = FORKED,
) -> AsyncIterator[Cluster]:
    """PostgreSQL (with fsync), Redis and so many single-process nodes, all started.

    `environment`: of the workers, beside what is needed here. `commands`: how each is launched; the
    launcher where none is given. `forked`: see `Server`.
    """
    shutil.rmtree(directory, ignore_errors=True)
    async with AsyncExitStack() as stack:
        stack.enter_context(_sigterm_as_sigint())
        postgres = stack.enter_context(run_postgres_process(durable=True))
        redis = stack.enter_context(run_redis_process())
        admin = Postgres(postgres.url)
        url = admin.create_database()
        nodes: list[Worker] = []
        for number in range(workers):
            shared = {
                "DATABASE_TYPE": "postgresql",
                "USE_REDIS": "true",
                "VAR_DIR": str(directory / "var"),
                **_ENVIRONMENT,
                **(environment or {}),
            }
            seed = number + 1
            line = PostgresProxy.to("127.0.0.1", postgres.port, seed=seed)
            bus = RedisProxy.to("127.0.0.1", redis.port, seed=seed)
            await stack.enter_async_context(line)
            await stack.enter_async_context(bus)
            shared["DATABASE_URL"] = _with_port(url, line.port)
            shared["REDIS_URL"] = _with_port(redis.url, bus.port)
            server = Server(
                directory / f"worker-{number}", shared, name=f"worker {number}", forked=forked
            )
            server.var_dir = directory / "var"
            server.sms_file = server.var_dir / "sms.jsonl"
            stack.callback(server.kill)
            nodes.append(Worker(server, line, bus))
            if number < len(commands):
                nodes[-1].command = commands[number]
        cluster = Cluster(nodes)
        await stack.enter_async_context(cluster.front)
        cluster.postgres, cluster.redis, cluster.postgres_url = postgres, redis, url
        cluster.versions = {"PostgreSQL": admin.version, "Redis": redis_version(redis.url)}
        # The first one makes keys and tables; the others find them.
        await nodes[0].start()
        await asyncio.gather(*(node.start() for node in nodes[1:]))
        yield cluster
        await cluster.heal()
        await asyncio.gather(*(node.terminate() for node in nodes))


@asynccontextmanager
async def run_sqlite_cluster(
    directory: Path, *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Cluster]:
    """One process on SQLite, behind the same kind of front."""
    shutil.rmtree(directory, ignore_errors=True)
    async with AsyncExitStack() as stack:
        stack.enter_context(_sigterm_as_sigint())
        server = Server(
            directory / "worker",
            {**_ENVIRONMENT, **(environment or {})},
            name="node",
            forked=FORKED,
        )
        stack.callback(server.kill)
        worker = Worker(server, None, None)
        cluster = Cluster([worker])
        await stack.enter_async_context(cluster.front)
        cluster.sqlite_file = server.var_dir / "messenger.db"
        await worker.start()
        yield cluster
        await cluster.heal()
        await worker.terminate()


def _is_refusal(line: str) -> bool:
    return any(words in line for words in _REFUSALS)


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM unwind what Ctrl-C unwinds: the processes are sessions of their own and would live on."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.SIG_IGN:
        # A shell starts its background jobs so.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    host = f"127.0.0.1:{port}"
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))
