"""A production that is not safe does not start, however it is started, and is told all of it at once."""

import json
import os
import secrets
import sys
from pathlib import Path

import pytest

from tests.support import forks
from tests.support.postgres import Postgres
from tests.support.servers import LAUNCHER, Server

KEYS = {name: secrets.token_urlsafe(36) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
SOUND = {
    "ENVIRONMENT": "production",
    "LOG_LEVEL": "INFO",
    "PBKDF2_ROUNDS": "600000",
    "CODE_HASH_ROUNDS": "10",
    "TWO_STEP_HASH_ROUNDS": "12",
    "SMS_PROVIDER": "http",
    "SMS_HTTP_URL": "https://gateway.invalid/",
    **KEYS,
}
UNSAFE = {
    **SOUND,
    "SECRET_KEY": "change-me",
    "SMS_PROVIDER": "console",
    "LOG_LEVEL": "DEBUG",
    "CORS_ORIGINS": "*",
    "ENABLE_CSRF_PROTECTION": "false",
    "ENABLE_RATE_LIMITS": "false",
    "ENABLE_SECURITY_HEADERS": "false",
    "USE_REDIS": "true",
    "REDIS_URL": "redis://redis.invalid/0",
}
WRONG = (
    "SECRET_KEY",
    "SMS_PROVIDER",
    "LOG_LEVEL",
    "CORS_ORIGINS",
    "ENABLE_CSRF_PROTECTION",
    "ENABLE_RATE_LIMITS",
    "ENABLE_SECURITY_HEADERS",
    "REDIS_URL",
    "DATABASE_URL",
)
UVICORN = (sys.executable, "-m", "uvicorn", "app.main:app", "--host", "127.0.0.1")


def check(server: Server, *options: str) -> tuple[int, str]:
    """`python -m app.admin check` with the settings of this server."""
    server.directory.mkdir(exist_ok=True)
    ran = forks.run(
        (sys.executable, "-m", "app.admin", "check", *options),
        directory=server.directory,
        environment=server.environment,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout


@pytest.mark.parametrize("way", ["launcher", "uvicorn", "uvicorn workers"])
def test_every_fault_is_told_at_once_and_check_tells_the_same(
    directory: Path, postgres: Postgres, way: str
) -> None:
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the given PostgreSQL may be a durable one")
    url = postgres.create_database()
    database = {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url}
    server = Server(directory, UNSAFE | database, forked=False)
    commands = {
        "launcher": LAUNCHER,
        "uvicorn": (*UVICORN, "--port", str(server.port)),
        "uvicorn workers": (*UVICORN, "--port", str(server.port), "--workers", "2"),
    }
    try:
        server.launch(commands[way])
        assert server.wait_for_exit(60) not in {0, None}
        said = server.output()
        assert "Traceback" not in said
        status, listed = check(server)
        assert status == 1
        faults = listed.splitlines()
        assert [fault.partition(":")[0] for fault in faults] == sorted(
            WRONG, key=lambda name: listed.index(f"{name}:")
        )
        # Those of the settings and the one that PostgreSQL itself tells (it runs without fsync).
        assert [fault for fault in faults if fault not in said] == []
        status, as_json = check(server, "--json")
        told = json.loads(as_json)
        assert (status, told["ok"]) == (1, False)
        assert [f"{it['variable']}: {it['fault']}" for it in told["faults"]] == faults
        assert not {"change-me", *KEYS.values()} & set(said.split())
    finally:
        server.kill()
        postgres.drop_database(url)


def test_a_sound_production_passes_and_starts(directory: Path) -> None:
    server = Server(directory, SOUND)
    assert check(server) == (0, "ok\n")
    assert check(server, "--json") == (0, '{"ok": true, "faults": []}\n')
    with server:
        # Beside the running server too: it takes nothing away.
        assert check(server) == (0, "ok\n")
        server.stop()
    assert server.faults() == []


def refusal(server: Server, **settings: str) -> list[str]:
    """What a start with these settings says, fault by fault, and `check` as well."""
    before = dict(server.environment)
    server.environment.update(settings)
    server.output_file.unlink(missing_ok=True)
    try:
        status, listed = check(server)
        assert status == 1
        server.launch()
        assert server.wait_for_exit(60) not in {0, None}
    finally:
        server.kill()
        server.environment.clear()
        server.environment.update(before)
    faults = listed.splitlines()
    assert [fault for fault in faults if fault not in server.output()] == []
    return faults


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_keys_of_another_database_are_told_with_all_the_rest(
    request: pytest.FixtureRequest, directory: Path, name: str
) -> None:
    environment = {**SOUND, "ENVIRONMENT": "development", "PBKDF2_ROUNDS": "1000"}
    url: str | None = None
    if name == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        url = cluster.create_database()
        environment |= {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url}
    server = Server(directory, environment)
    other = {key: secrets.token_urlsafe(36) for key in KEYS}
    try:
        with server:
            assert check(server) == (0, "ok\n")
        master = "MASTER_KEY: this is not the key"
        index = "INDEX_KEY: this is not the key"
        [fault] = refusal(server, MASTER_KEY=other["MASTER_KEY"])
        assert fault.startswith(master)
        [fault] = refusal(server, INDEX_KEY=other["INDEX_KEY"])
        assert fault.startswith(index)
        both = {"MASTER_KEY": other["MASTER_KEY"], "INDEX_KEY": other["INDEX_KEY"]}
        assert [fault[:30] for fault in refusal(server, **both)] == [master[:30], index[:30]]
        faults = refusal(server, **both, SMS_PROVIDER="twilio")
        assert [fault.partition(":")[0] for fault in faults] == [
            "TWILIO_ACCOUNT_SID",
            "TWILIO_AUTH_TOKEN",
            "TWILIO_FROM",
            "MASTER_KEY",
            "INDEX_KEY",
        ]
        # Keys that were made with few rounds are told too, beside what the settings say.
        few = refusal(server, ENVIRONMENT="production", PBKDF2_ROUNDS="600000", LOG_LEVEL="DEBUG")
        assert [fault for fault in few if "made with PBKDF2_ROUNDS=1000" in fault]
        assert [fault for fault in few if fault.startswith("LOG_LEVEL")]
        with server:
            assert check(server) == (0, "ok\n")
    finally:
        server.kill()
        if url is not None:
            cluster = request.getfixturevalue("postgres")
            cluster.drop_database(url)


def test_a_check_makes_no_database_and_no_keys(directory: Path) -> None:
    server = Server(directory, {"SMS_PROVIDER": "file"})
    assert check(server) == (0, "ok\n")
    assert [path.name for path in server.var_dir.glob("*") if path.suffix in {".db", ".txt"}] == []


def test_an_unwritable_log_is_told_and_not_tried_for_ever(directory: Path) -> None:
    server = Server(directory, {"LOG_FILE": "/proc/nowhere/app.log"})
    server.launch((*UVICORN, "--port", str(server.port)))
    assert server.wait_for_exit(60) not in {0, None}
    assert "LOG_FILE: cannot be written to" in server.output()
    assert "Traceback" not in server.output()
