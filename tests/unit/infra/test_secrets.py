"""Keys are chosen in production and made once elsewhere."""

import multiprocessing
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from app.infra.secrets import Secrets, load_data_keys, load_secrets
from app.settings import Environment, SecretSettings, ServerSettings, Settings, SettingsError
from tests.support.databases import settings_for

STRONG = {
    "SECRET_KEY": "kJ8vQ2xW7nR4tY1uZ6pL3mC9bD5fG0hS",
    "MASTER_KEY": "aT5yU8iO1pQ4wE7rR2zX6cV9bN3mL0kJ",
    "INDEX_KEY": "zM4nB7vC1xL5kJ8hG2fD6sA9pO3iU0yT",
}

OTHER = "mK2pQ9sV4wZ7bE1hJ6nR3tY8uC5xF0gD"


def production(directory: Path, **values: object) -> Settings:
    server = ServerSettings(_env_file=None, environment=Environment.PRODUCTION, var_dir=directory)
    secrets = SecretSettings(_env_file=None, **values)  # type: ignore[arg-type]
    return replace(settings_for(directory), server=server, secrets=secrets)


def test_missing_keys_are_made_once_for_the_owner_alone(directory: Path) -> None:
    settings = settings_for(directory / "var")
    first = load_secrets(settings)
    assert load_secrets(settings) == first
    assert len({first.secret_key, first.master_key, first.index_key}) == 3
    files = sorted((directory / "var").iterdir())
    assert [file.name for file in files] == ["index_key.txt", "master_key.txt", "secret_key.txt"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def _load(directory: Path) -> bytes:
    loaded = load_secrets(settings_for(directory))
    return loaded.secret_key + loaded.master_key + loaded.index_key


def test_processes_that_start_at_once_get_the_same_keys(directory: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_load, [directory / "var"] * 8))) == 1


def test_production_takes_strong_keys_from_the_environment_or_files(directory: Path) -> None:
    file = directory / "master"
    file.write_text(STRONG["MASTER_KEY"] + "\n")
    values = STRONG | {"MASTER_KEY": None, "MASTER_KEY_FILE": file}
    secrets = load_secrets(production(directory, **values))
    assert secrets.master_key == STRONG["MASTER_KEY"].encode()
    assert list(directory.iterdir()) == [file]


def test_production_makes_no_keys_up_and_lists_all_faults(directory: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_secrets(production(directory))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == list(STRONG)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("weak", ["short", "a" * 64, "change-me-" + STRONG["SECRET_KEY"]])
def test_production_refuses_weak_keys_without_showing_them(directory: Path, weak: str) -> None:
    with pytest.raises(SettingsError, match="SECRET_KEY: too weak") as caught:
        load_secrets(production(directory, **(STRONG | {"SECRET_KEY": weak})))
    assert weak not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("INDEX_KEY", "MASTER_KEY"),
        ("SECRET_KEY_PREVIOUS", "MASTER_KEY"),
        ("SECRET_KEY_PREVIOUS", "INDEX_KEY"),
        ("INDEX_KEY_NEW", "SECRET_KEY"),
    ],
)
def test_production_refuses_one_key_for_two_purposes(directory: Path, name: str, of: str) -> None:
    with pytest.raises(SettingsError, match="must differ"):
        load_secrets(production(directory, **(STRONG | {name: STRONG[of]})))


def test_keys_that_are_being_changed_are_taken(directory: Path) -> None:
    changing = STRONG | {"SECRET_KEY_PREVIOUS": STRONG["SECRET_KEY"], "INDEX_KEY_NEW": OTHER}
    assert load_secrets(production(directory, **changing)).index_key_new == OTHER.encode()


def test_the_keys_of_data_that_is_there_are_never_made_up(directory: Path) -> None:
    keys = load_data_keys(production(directory, **STRONG, INDEX_KEY_NEW=OTHER))
    assert keys.master_key == STRONG["MASTER_KEY"].encode()
    assert (keys.index_key, keys.index_key_new) == (STRONG["INDEX_KEY"].encode(), OTHER.encode())
    lost = SecretSettings(_env_file=None, INDEX_KEY_NEW_FILE=directory / "lost")
    with pytest.raises(SettingsError) as caught:
        load_data_keys(settings_for(directory, secrets=lost))
    said = [fault.partition(":")[0] for fault in caught.value.faults]
    assert said == ["MASTER_KEY", "INDEX_KEY", "INDEX_KEY_NEW_FILE"]
    assert list(directory.iterdir()) == []


def test_a_directory_that_takes_no_keys_is_named(directory: Path) -> None:
    (directory / "var").write_text("a file")
    with pytest.raises(SettingsError, match="VAR_DIR: cannot keep MASTER_KEY there"):
        load_secrets(settings_for(directory / "var"))


def test_an_empty_file_is_no_key(directory: Path) -> None:
    (directory / "key").write_text("")
    empty = SecretSettings(_env_file=None, SECRET_KEY_PREVIOUS_FILE=directory / "key")
    with pytest.raises(SettingsError, match="SECRET_KEY_PREVIOUS_FILE: the file is empty"):
        load_secrets(settings_for(directory, secrets=empty))
    both = SecretSettings(
        _env_file=None,
        SECRET_KEY_PREVIOUS="x",  # type: ignore[arg-type]
        SECRET_KEY_PREVIOUS_FILE=directory / "key",
    )
    with pytest.raises(SettingsError, match="SECRET_KEY_PREVIOUS: set it or"):
        load_secrets(settings_for(directory, secrets=both))


def test_a_key_from_two_places_or_from_no_file_is_refused(directory: Path) -> None:
    both = SecretSettings(
        _env_file=None,
        SECRET_KEY="x",  # type: ignore[arg-type]
        SECRET_KEY_FILE=directory / "key",
    )
    with pytest.raises(SettingsError, match="not both"):
        load_secrets(settings_for(directory, secrets=both))
    lost = SecretSettings(_env_file=None, INDEX_KEY_FILE=directory / "lost")
    with pytest.raises(SettingsError, match="INDEX_KEY_FILE: cannot be read"):
        load_secrets(settings_for(directory, secrets=lost))


def test_secrets_are_not_in_their_repr() -> None:
    assert "marker" not in repr(Secrets(b"marker1", b"marker2", b"marker3"))


def test_the_other_signing_keys_are_read_as_a_list(directory: Path) -> None:
    older = "qW3eR5tY7uI9oP1aS2dF4gH6jK8lZ0xC"
    values = STRONG | {"SECRET_KEY_PREVIOUS": f"{older}, {OTHER}"}
    keys = load_secrets(production(directory, **values)).previous_secret_keys
    assert keys == (older.encode(), OTHER.encode())
    file = directory / "previous"
    file.write_text(f"{older}\n")
    values = STRONG | {"SECRET_KEY_PREVIOUS_FILE": file}
    assert load_secrets(production(directory, **values)).previous_secret_keys == (older.encode(),)
    assert load_secrets(production(directory, **STRONG)).previous_secret_keys == ()
    with pytest.raises(SettingsError, match="SECRET_KEY_PREVIOUS"):
        load_secrets(production(directory, **STRONG, SECRET_KEY_PREVIOUS="weak"))
