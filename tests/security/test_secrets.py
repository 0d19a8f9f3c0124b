"""Secrets are in files or the environment and nowhere else: no argument, no log, no dump of a crash."""

import secrets
from pathlib import Path

from app.infra.cipher.blind_index import BlindIndex
from app.infra.secrets import load_secrets
from app.settings import load_settings
from tests.support.servers import Server

NAMES = ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")


def test_a_server_that_crashes_leaves_no_memory_on_the_disk(directory: Path) -> None:
    with Server(directory, forked=False) as server:
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4] == "0"


def test_keys_from_files_are_in_no_argument_environment_or_log(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    keys = {name: secrets.token_urlsafe(40) for name in NAMES}
    environment: dict[str, str] = {}
    for name, key in keys.items():
        file = directory / name
        file.write_text(key)
        file.chmod(0o600)
        environment[f"{name}_FILE"] = str(file)
    with Server(directory, environment, forked=False) as server:
        process = Path(f"/proc/{server.pid}")
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        server.stop()
    seen += (server.output() + server.log()).encode()
    for name, key in keys.items():
        assert key.encode() not in seen, name


def test_no_representation_shows_a_key(directory: Path, monkeypatch) -> None:
    keys = {name: secrets.token_urlsafe(40) for name in (*NAMES, "MASTER_KEY_NEW", "INDEX_KEY_NEW")}
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    monkeypatch.chdir(directory)
    settings = load_settings(None)
    shown = repr(settings) + str(settings) + repr(load_secrets(settings))
    assert not [name for name, key in keys.items() if key in shown]


def test_two_installations_index_one_phone_differently() -> None:
    one, other = BlindIndex(b"a" * 32), BlindIndex(b"b" * 32)
    assert one.phone("+4915112345678") == BlindIndex(b"a" * 32).phone("+4915112345678")
    assert one.phone("+4915112345678") != other.phone("+4915112345678")
    assert len(one.phone("+4915112345678")) == 16
