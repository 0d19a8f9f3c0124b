"""What refuses a start: everything that is wrong, at once, and nothing that is right."""

import os
from pathlib import Path

import pytest

from app.settings import GROUPS
from app.start_checks import read_settings

STRONG = {
    "SECRET_KEY": "lO5XLUxcT5dfzzqPOxruywNuQL9isiYcfwtTRZrXGJX6c_TD",
    "MASTER_KEY": "RBwji5xSCLaJaJKJGtZDftOklmTT9ijBwETjmuJq5wdvPC3a",
    "INDEX_KEY": "NwIaXuyqcUqgdJivF349qK4odhCL_KcERy8lV6H4Z4zwnAKx",
}
SOUND = {
    **STRONG,
    "ENVIRONMENT": "production",
    "SMS_PROVIDER": "http",
    "SMS_HTTP_URL": "https://gateway.invalid/send",
}
DISTANT = {
    "DATABASE_TYPE": "postgresql",
    "DATABASE_URL": "postgresql://u:fJ3kq9@db.internal/n?sslmode=verify-full",
    "USE_REDIS": "true",
    "REDIS_URL": "rediss://:fJ3kq9@redis.internal:6379/0",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for group in GROUPS.values():
        for field in group.model_fields.values():
            monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)


def faults_of(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_settings()[1]


def names(faults: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in faults]


BUCKET = {
    "STORAGE_URL": "s3://files?endpoint=https://s3.internal",
    "STORAGE_ACCESS_KEY": "key",
    "STORAGE_SECRET_KEY": "fJ3kq9",
}


TWILIO = {
    "SMS_PROVIDER": "twilio",
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "9f0c63b1",
    "TWILIO_FROM": "+15550001111",
}


@pytest.mark.parametrize("more", [{}, DISTANT, BUCKET, TWILIO])
def test_a_sound_production_starts(monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    assert faults_of(monkeypatch, SOUND | more) == []


def test_everything_that_is_wrong_is_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "ENVIRONMENT": "production",
        "SECRET_KEY": "short",
        "WORKERS": "4",
        "PBKDF2_ROUNDS": "1000",
        "CODE_HASH_ROUNDS": "4",
        "LOG_LEVEL": "DEBUG",
        "ENABLE_CSRF_PROTECTION": "false",
        "TRUSTED_PROXIES": "0.0.0.0/0",
        "USE_REDIS": "true",
        "REDIS_URL": "redis://redis.internal:6379/0",
        "ALLOWED_ORIGINS": "http://app.example.org",
        # What cannot even be read does not hide the rest.
        "PORT": "eighty",
        "CORS_ORIGINS": "*",
    }
    found = names(faults_of(monkeypatch, wrong))
    assert sorted(found) == sorted(
        [*(wrong.keys() - {"ENVIRONMENT", "USE_REDIS"}), "MASTER_KEY", "INDEX_KEY", "SMS_PROVIDER"]
    )


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"SMS_PROVIDER": "console"}, "SMS_PROVIDER"),
        ({"SMS_PROVIDER": "file"}, "SMS_PROVIDER"),
        ({"SMS_PROVIDER": "twilio"}, "TWILIO_ACCOUNT_SID"),
        ({"SMS_HTTP_URL": "http://gateway.invalid/"}, "SMS_HTTP_URL"),
        ({"SMS_HTTP_URL": "https://[gateway"}, "SMS_HTTP_URL"),
        ({"LOG_LEVEL": "DEBUG"}, "LOG_LEVEL"),
        ({"WORKERS": "2"}, "WORKERS"),
        ({"ENABLE_CSRF_PROTECTION": "false"}, "ENABLE_CSRF_PROTECTION"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "null"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "http://app.example.org"}, "CORS_ORIGINS"),
        ({"ALLOWED_ORIGINS": "http://app.example.org"}, "ALLOWED_ORIGINS"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8,::/0"}, "TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": "0.0.0.0/1,128.0.0.0/1"}, "TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": "2000::/3"}, "TRUSTED_PROXIES"),
        ({"PBKDF2_ROUNDS": "599999"}, "PBKDF2_ROUNDS"),
        ({"CODE_HASH_ROUNDS": "9"}, "CODE_HASH_ROUNDS"),
        ({"TWO_STEP_HASH_ROUNDS": "11"}, "TWO_STEP_HASH_ROUNDS"),
        ({**DISTANT, "DATABASE_URL": "postgresql://u:fJ3kq9@db.internal/n"}, "DATABASE_URL"),
        (
            {**DISTANT, "DATABASE_URL": "postgresql://u:fJ3kq9@10.0.0.7/n?sslmode=require"},
            "DATABASE_URL",
        ),
        (
            {**DISTANT, "DATABASE_URL": "postgresql://u:fJ3kq9@/n?host=db.internal"},
            "DATABASE_URL",
        ),
        ({**DISTANT, "DATABASE_URL": "postgresql://u:postgres@127.0.0.1/n"}, "DATABASE_URL"),
        ({**DISTANT, "DATABASE_URL": "postgresql://u:pass%77ord1@/n"}, "DATABASE_URL"),
        ({**DISTANT, "DATABASE_URL": "postgresql://u@/n?password=postgres"}, "DATABASE_URL"),
        ({**DISTANT, "REDIS_URL": "rediss://r.internal/0?password=redis"}, "REDIS_URL"),
        ({**BUCKET, "STORAGE_SECRET_KEY": "minioadmin"}, "STORAGE_SECRET_KEY"),
        ({**TWILIO, "TWILIO_AUTH_TOKEN": "your_token_example"}, "TWILIO_AUTH_TOKEN"),
        ({**DISTANT, "REDIS_URL": "redis://redis.internal:6379/0"}, "REDIS_URL"),
        ({**DISTANT, "REDIS_URL": "rediss://r.internal/0?ssl_cert_reqs=none"}, "REDIS_URL"),
        ({**DISTANT, "REDIS_URL": "rediss://:changeme@r.internal/0"}, "REDIS_URL"),
        ({**BUCKET, "STORAGE_URL": "s3://files?endpoint=http://s3.internal"}, "STORAGE_URL"),
        ({**BUCKET, "STORAGE_URL": "https://s3.internal/files"}, "STORAGE_URL"),
        ({**BUCKET, "STORAGE_ACCESS_KEY": ""}, "STORAGE_ACCESS_KEY"),
        ({**BUCKET, "STORAGE_SECRET_KEY_FILE": "/proc/nowhere"}, "STORAGE_SECRET_KEY"),
        ({"CLAMD_ADDRESS": "clamd:3310"}, "CLAMD_ADDRESS"),
        ({"CLAMD_ADDRESS": "tcp://clamd:3310"}, "CLAMD_ADDRESS"),
        ({"CLAMD_ADDRESS": "tcp://[::1]", "CLAMD_MAX_SIZE": "none"}, "CLAMD_MAX_SIZE"),
        ({"VAR_DIR": "/proc/nowhere"}, "VAR_DIR"),
        ({"LOG_FILE": "/proc/nowhere/app.log"}, "LOG_FILE"),
        ({"DATABASE_URL": "sqlite:////proc/nowhere/messenger.db"}, "DATABASE_URL"),
    ],
)
def test_each_fault_is_named(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], variable: str
) -> None:
    faults = faults_of(monkeypatch, SOUND | change)
    unsaid = {"TWILIO_AUTH_TOKEN", "TWILIO_FROM"} if change == {"SMS_PROVIDER": "twilio"} else set()
    assert set(names(faults)) - unsaid == {variable}
    assert "fJ3kq9" not in str(faults)


@pytest.mark.parametrize(
    "change",
    [
        {"DATABASE_URL": "postgresql://u:fJ3kq9@db.internal/n", "DATABASE_ALLOW_PLAINTEXT": "true"},
        {"DATABASE_URL": "postgresql://u:fJ3kq9@localhost/n"},
        {"DATABASE_URL": "postgresql://u:fJ3kq9@[::1]:5432/n"},
        {"DATABASE_URL": "postgresql://u@/n?host=/run/postgresql"},
        {"REDIS_URL": "redis://redis.internal:6379/0", "REDIS_ALLOW_PLAINTEXT": "true"},
        {"REDIS_URL": "redis://127.0.0.1:6379/0"},
        {"REDIS_URL": "unix:///run/redis.sock"},
        {"CORS_ORIGINS": "https://app.example.org", "ALLOWED_ORIGINS": "http://localhost:3000"},
        {"SMS_HTTP_URL": "http://127.0.0.1:8080/"},
        {"TRUSTED_PROXIES": "10.0.0.0/8,172.16.0.0/12,fc00::/7,127.0.0.1/32"},
        {"CLAMD_ADDRESS": "tcp://localhost:3310"},
        {"CLAMD_ADDRESS": "unix:///run/clamav/clamd.ctl"},
        {"CLAMD_ADDRESS": "tcp://clamd:3310", "CLAMD_ALLOW_PLAINTEXT": "true"},
        {**BUCKET, "STORAGE_URL": "s3://files?endpoint=http://[::1]:9000"},
        {
            **BUCKET,
            "STORAGE_URL": "s3://files?endpoint=http://s3.internal",
            "STORAGE_ALLOW_PLAINTEXT": "true",
        },
    ],
)
def test_what_is_safe_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    assert faults_of(monkeypatch, SOUND | DISTANT | change) == []


@pytest.mark.parametrize(
    ("is_sealed", "most"), [("true", 52_425_392_128), ("false", 52_428_800_000)]
)
def test_no_file_may_be_larger_than_a_bucket_takes(
    monkeypatch: pytest.MonkeyPatch, is_sealed: str, most: int
) -> None:
    """10,000 parts of 5 MiB, with what sealing adds. A directory takes whatever its disk does."""
    settings = SOUND | {"ENCRYPT_FILES": is_sealed, "MAX_UPLOAD_SIZE": "52428800001"}
    assert faults_of(monkeypatch, settings) == []
    [fault] = faults_of(monkeypatch, BUCKET)
    assert fault.startswith("MAX_UPLOAD_SIZE: what lies in a bucket")
    assert str(most) in fault
    assert faults_of(monkeypatch, {"MAX_UPLOAD_SIZE": str(most)}) == []


@pytest.mark.parametrize(
    "weak",
    [
        "",
        "x" * 31,
        "a" * 64,
        "abcdefghij" * 7,
        "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF",
        "0123456789abcdef0123456789abcdef",
        "qwertyuiopqwertyuiopqwertyuiopqwertyuiop",
        f"change-me-{STRONG['MASTER_KEY']}",
        f"My{'Secret'}{STRONG['MASTER_KEY']}",
        STRONG["INDEX_KEY"],
    ],
)
def test_a_key_that_nobody_drew_at_random_is_refused(
    monkeypatch: pytest.MonkeyPatch, weak: str
) -> None:
    faults = faults_of(monkeypatch, SOUND | {"SECRET_KEY": weak})
    assert len(faults) == 1
    assert faults[0].startswith("SECRET_KEY")
    assert not weak or weak not in faults[0]


def test_random_keys_of_every_spelling_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for spell in (
        lambda: os.urandom(16).hex(),
        lambda: os.urandom(32).hex(),
        lambda: os.urandom(40).hex().upper(),
    ):
        for _ in range(200):
            drawn = {name: spell() for name in STRONG}
            assert faults_of(monkeypatch, SOUND | drawn) == []


def test_development_starts_with_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults_of(monkeypatch, {}) == []
