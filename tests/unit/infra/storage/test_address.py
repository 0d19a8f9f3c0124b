"""STORAGE_URL: what it says, what is wrong with it, and when downloads are sent on to it."""

from pathlib import Path

import pytest

from app.infra.storage.address import read_bucket
from app.infra.storage.choose import choose_storage, find_redirect_seconds
from app.infra.storage.local import LocalStorage
from app.infra.storage.s3 import S3Storage
from app.settings import FileSettings, SettingsError
from tests.support.databases import settings_for
from tests.unit.infra.storage.stores import files_at

KEYS = {"storage_access_key": "key", "storage_secret_key": "fJ3kq9"}


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (
            "s3://chat-files",
            ("chat-files", "", "https://s3.us-east-1.amazonaws.com", "us-east-1"),
        ),
        (
            "s3://b.c/?region=eu-central-1",
            ("b.c", "", "https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ),
        (
            "s3://files/one/two_2/?endpoint=https://s3.example.org:9000/&region=garage",
            ("files", "one/two_2", "https://s3.example.org:9000", "garage"),
        ),
        (
            "s3://files?endpoint=http%3A%2F%2F%5B%3A%3A1%5D%3A9000",
            ("files", "", "http://[::1]:9000", "us-east-1"),
        ),
    ],
)
def test_it_names_a_bucket(url: str, parts: tuple[str, ...]) -> None:
    bucket = read_bucket(files_at(url))
    assert (bucket.name, bucket.prefix, bucket.endpoint, bucket.region) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files",
        "https://s3.example.org/files",
        "s3://",
        "s3://ab",
        "s3://UPPER",
        "s3://[",
        "s3://files:9000",
        "s3://key:fJ3kq9@files",
        "s3://files/a//b",
        "s3://files/../b",
        "s3://files/a b",
        "s3://files/a#b",
        "s3://files?endpoint=",
        "s3://files?endpoint=s3.example.org",
        "s3://files?endpoint=ftp://s3.example.org",
        "s3://files?endpoint=https://s3.example.org/path",
        "s3://files?endpoint=https://key:fJ3kq9@s3.example.org",
        "s3://files?endpoint=https://s3.example.org%3Fa=b",
        "s3://files?endpoint=https://s3.example.org:0",
        "s3://files?region=",
        "s3://files?region=EU%2F",
        "s3://files?regoin=eu",
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_without_what_is_secret(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_bucket(files_at(url))
    [fault] = caught.value.faults
    assert fault.startswith("STORAGE_URL: ")
    assert "fJ3kq9" not in fault


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    files = FileSettings(
        _env_file=None,
        storage_url="s3://UPPER/a b?endpoint=x&region=Y&other=1",
        storage_secret_key="a",
        storage_secret_key_file=tmp_path / "key",
    )
    with pytest.raises(SettingsError) as caught:
        read_bucket(files)
    named = [fault.partition(":")[0] for fault in caught.value.faults]
    assert named == ["STORAGE_URL"] * 5 + ["STORAGE_ACCESS_KEY", "STORAGE_SECRET_KEY"]


def test_keys_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "access").write_text("from-a-file\n")
    (tmp_path / "secret").write_text("fJ3kq9\n")
    files = FileSettings(
        _env_file=None,
        storage_url="s3://files",
        storage_access_key_file=tmp_path / "access",
        storage_secret_key_file=tmp_path / "secret",
    )
    bucket = read_bucket(files)
    assert (bucket.access_key, bucket.secret_key) == ("from-a-file", "fJ3kq9")
    assert "fJ3kq9" not in repr(bucket)
    (tmp_path / "secret").unlink()
    with pytest.raises(SettingsError, match="STORAGE_SECRET_KEY_FILE: cannot be read"):
        read_bucket(files)


async def test_the_settings_choose_the_storage(tmp_path: Path) -> None:
    local = choose_storage(settings_for(tmp_path))
    assert isinstance(local, LocalStorage)
    await local.check()
    assert (tmp_path / "files").is_dir()
    distant = choose_storage(settings_for(tmp_path, files=files_at("s3://files")))
    assert isinstance(distant, S3Storage)
    assert await distant.open_local("x" * 20) is None
    await local.close()
    await distant.close()


@pytest.mark.parametrize(
    ("changes", "chunk_size", "seconds"),
    [
        ({}, 0, 30),
        # Sealed at that time, whatever is set now.
        ({}, 262_144, 0),
        ({"encrypt": True}, 0, 0),
        ({"redirect_seconds": 0}, 0, 0),
        ({"storage_url": None}, 0, 0),
    ],
)
def test_only_plain_objects_of_a_bucket_are_read_without_us(
    changes: dict[str, object], chunk_size: int, seconds: int
) -> None:
    files = files_at("s3://files", encrypt=False, redirect_seconds=30)
    changed = files.model_copy(update=changes)
    assert find_redirect_seconds(changed, chunk_size=chunk_size) == seconds
