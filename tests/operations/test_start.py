"""Every documented way to start, and every start that must be refused, with real processes."""

import asyncio
import os
import secrets
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.support import forks
from tests.support.people import Backend, Deployment
from tests.support.postgres import Postgres
from tests.support.servers import ROOT, Server

pytestmark = pytest.mark.anyio
UVICORN = (sys.executable, "-m", "uvicorn", "app.main:app", "--host", "127.0.0.1")


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


def on_postgresql(url: str, redis_url: str | None = None) -> dict[str, str]:
    environment = {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url}
    if redis_url:
        environment |= {"USE_REDIS": "true", "REDIS_URL": redis_url}
    return environment


def refusal(
    directory: Path, environment: dict[str, str], *command: str, forked: bool = False
) -> str:
    """What a server that must not start says; fails if it starts or does not end."""
    server = Server(directory, environment, forked=forked)
    address = ("--port", str(server.port))
    server.launch((*command, *address) if command else (sys.executable, "-m", "app"))
    status = server.wait_for_exit(120)
    assert status not in {0, None}, server.output()
    wait_until_closed(server.port)
    assert "Traceback" not in server.output()
    return server.output() + server.log()


def wait_until_closed(port: int) -> None:
    """Until no worker is left that listens."""

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_until(is_closed)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.05)


def test_the_launcher_serves_everything_without_configuration(directory: Path) -> None:
    with Server(directory, forked=False) as server:
        for path in ("/docs", "/redoc", "/openapi.json", "/health/live", "/health/ready"):
            answer = httpx.get(server.base_url + path)
            assert answer.status_code == 200, path
            assert "server" not in answer.headers
        for name in ("secret_key", "master_key", "index_key"):
            key = server.var_dir / f"{name}.txt"
            assert key.stat().st_mode & 0o777 == 0o600
        server.stop()
    assert "started_without_launcher" not in server.log()


def test_docs_can_be_switched_off(directory: Path) -> None:
    with Server(directory, {"ENABLE_DOCS": "false"}) as server:
        for path in ("/docs", "/redoc", "/openapi.json", "/asyncapi.json"):
            assert httpx.get(server.base_url + path).status_code == 404, path
        server.stop()


async def test_bare_uvicorn_serves_people(directory: Path) -> None:
    server = Server(directory, forked=False).start_uvicorn()
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server]), stack)
        anna, bruno = await backend.people(2)
        socket = await bruno.connect()
        chat = await anna.private_chat(bruno)
        await socket.follow(chat)
        await anna.say(chat, "hello")
        assert (await socket.expect("new_message"))["data"]["text"] == "hello"
    server.stop()
    assert server.log().count("started_without_launcher") == 1


async def test_four_uvicorn_workers_carry_messages_between_each_other(
    directory: Path, postgres_url: str, redis_url: str
) -> None:
    server = Server(directory, on_postgresql(postgres_url, redis_url), forked=False)
    server.start_uvicorn("--workers", "4")
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("postgresql", [server]), stack)
        anna, bruno = await backend.people(2)
        chat = await anna.private_chat(bruno)
        # The kernel deals connections out to the workers: some of twelve sockets are elsewhere.
        sockets = [await bruno.connect() for _ in range(12)]
        await anna.say(chat, "to all devices")
        for socket in sockets:
            assert (await socket.expect("new_message"))["data"]["text"] == "to all devices"
    server.stop()


def test_several_workers_on_sqlite_are_refused_by_the_launcher(directory: Path) -> None:
    said = refusal(directory, {"WORKERS": "2"})
    assert "WORKERS: SQLite serves one process" in said


def test_several_uvicorn_workers_on_sqlite_are_refused(directory: Path) -> None:
    said = refusal(directory, {}, *UVICORN, "--workers", "4")
    assert "SQLite serves one process" in said


def test_several_workers_without_redis_are_refused_by_the_launcher(
    directory: Path, postgres_url: str
) -> None:
    said = refusal(directory, on_postgresql(postgres_url) | {"WORKERS": "2"})
    assert "WORKERS: several workers need Redis" in said


def test_several_uvicorn_workers_without_redis_are_refused(
    directory: Path, postgres_url: str
) -> None:
    command = (*UVICORN, "--workers", "4")
    said = refusal(directory, on_postgresql(postgres_url), *command)
    assert "several workers need Redis" in said


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "many"}, "PORT: "),
        ({"DATABASE_TYPE": "oracle"}, "DATABASE_TYPE: "),
        ({"SMS_PROVIDER": "http"}, "SMS_HTTP_URL: "),
        ({"ENVIRONMENT": "production"}, "SMS_PROVIDER: "),
        (
            {"DATABASE_TYPE": "postgresql", "DATABASE_URL": "postgresql://u:p@127.0.0.1:9/none"},
            "DATABASE_URL: ",
        ),
    ],
)
@pytest.mark.parametrize("way", ["launcher", "uvicorn"])
def test_a_wrong_setting_stops_the_start_with_one_sentence(
    directory: Path, environment: dict[str, str], sentence: str, way: str
) -> None:
    command = UVICORN if way == "uvicorn" else ()
    said = refusal(directory, environment, *command, forked=True)
    assert sentence in said


def test_production_refuses_a_postgresql_that_may_lose_commits(
    directory: Path, postgres_url: str
) -> None:
    """The cluster of the tests runs without fsync; development takes it."""
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the given PostgreSQL may be a durable one")
    keys = {name: secrets.token_urlsafe(36) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
    production = {
        "ENVIRONMENT": "production",
        "SMS_PROVIDER": "http",
        "SMS_HTTP_URL": "http://127.0.0.1:9/",
        "PBKDF2_ROUNDS": "600000",
        "CODE_HASH_ROUNDS": "10",
        **keys,
    }
    said = refusal(directory, on_postgresql(postgres_url) | production)
    assert "DATABASE_URL: PostgreSQL runs with fsync=off, full_page_writes=off" in said


def test_a_wrong_password_of_the_database_is_named_and_not_repeated(
    directory: Path, postgres_url: str
) -> None:
    head, _, tail = postgres_url.partition("://")
    address = tail.rpartition("@")[2]
    wrong = f"{head}://tester:not-the-password@{address}"
    said = refusal(directory, on_postgresql(wrong))
    assert "DATABASE_URL: " in said
    assert "not-the-password" not in said


def test_a_wrong_master_key_refuses_and_touches_nothing(directory: Path) -> None:
    with Server(directory) as server:
        server.stop()
    key = server.var_dir / "master_key.txt"
    key.write_text("another key that is certainly long enough\n")
    before = (server.var_dir / "messenger.db").read_bytes()
    assert "MASTER_KEY" in refusal(directory, {})
    assert (server.var_dir / "messenger.db").read_bytes() == before


@pytest.mark.parametrize("command", [(), UVICORN])
def test_a_database_of_a_newer_version_is_left_alone(
    directory: Path, command: tuple[str, ...]
) -> None:
    with Server(directory) as server:
        file = server.var_dir / "messenger.db"
        server.stop()
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    said = refusal(directory, {}, *command)
    assert said.count("a newer version of this program has been here") >= 1
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_alembic_upgrades_and_the_tables_agree_with_the_code(
    directory: Path, database: str, request: pytest.FixtureRequest
) -> None:
    environment = {}
    if database == "postgresql":
        environment = on_postgresql(request.getfixturevalue("postgres_url"))
    server = Server(directory, environment)
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *arguments]
        ran = forks.run(command, directory=directory, environment=server.environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_graceful_stop_ends_with_status_zero(directory: Path) -> None:
    server = Server(directory, forked=False).start()
    server.stop()
    assert server.faults() == []


def test_workers_stop_when_their_supervisor_is_killed(
    directory: Path, postgres_url: str, redis_url: str
) -> None:
    server = Server(
        directory, on_postgresql(postgres_url, redis_url) | {"WORKERS": "2"}, forked=False
    ).start()
    os.kill(server.pid, signal.SIGKILL)
    wait_until_closed(server.port)
    wait_until(lambda: "Finished server process" in server.output())
    assert "started_without_launcher" not in server.log()


async def test_sigterm_closes_sockets_with_1012_and_ends_with_status_zero(directory: Path) -> None:
    server = Server(directory, forked=False).start()
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server]), stack)
        (anna,) = await backend.people(1)
        socket = await anna.connect()
        os.kill(server.pid, signal.SIGTERM)
        await socket.expect_close(1012)
    assert server.wait_for_exit(10) == 0


async def test_a_server_without_redis_stops_when_another_took_its_database(
    directory: Path, postgres_url: str
) -> None:
    """As when PostgreSQL was restarted, and another server was there first."""
    server = Server(directory, on_postgresql(postgres_url)).start()
    other, ender = [await asyncpg.connect(postgres_url) for _ in range(2)]
    try:
        held = await ender.fetchrow(
            "SELECT pid, classid, objid FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND datname = current_database()"
            " AND application_name LIKE '% lock %'"
        )
        waiting = asyncio.create_task(
            other.execute("SELECT pg_advisory_lock($1)", (held["classid"] << 32) + held["objid"])
        )
        await ender.execute("SELECT pg_terminate_backend($1)", held["pid"])
        await waiting
        assert await asyncio.to_thread(server.wait_for_exit, 20) == 0
        assert server.log().count("process_lock_lost") == 1
        assert "several need Redis" in server.log()
    finally:
        server.kill()
        await asyncio.gather(other.close(), ender.close())
