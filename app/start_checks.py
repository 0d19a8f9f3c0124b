"""Everything that refuses a start, told at once: one sentence each, which begins with its variable."""

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from app.infra.database.soundness import list_database_faults
from app.infra.secrets import is_well_known, load_secrets
from app.settings import GROUPS, Settings, SettingsError, load_settings

LEAST_ROUNDS: Final = 600_000
_LEAST_CODE_ROUNDS: Final = 10
_LEAST_PASSWORD_ROUNDS: Final = 12
# Switches of protections. Each is on by default and off for tests and experiments alone.
_PROTECTIONS: Final = (
    "ENABLE_CSRF_PROTECTION",
    "ENABLE_RATE_LIMITS",
    "ENABLE_SECURITY_HEADERS",
)
# PostgreSQL's own modes: `require` takes any certificate, so whoever sits in between may hold it.
_VERIFIED_MODES: Final = frozenset({"verify-full", "verify-ca"})


def read_settings() -> tuple[Settings, list[str]]:
    """The settings, and what is wrong with them as far as it can be told without asking anybody.

    A value that cannot be read stands there as its default, so that the others are judged as well.
    """
    try:
        settings = load_settings()
        unreadable = list[str]()
    except SettingsError as error:
        if error.rest is None:
            raise
        settings, unreadable = error.rest, error.faults
    named = {_variable(fault) for fault in unreadable}
    others = [fault for fault in list_setting_faults(settings) if _variable(fault) not in named]
    return settings, [*unreadable, *others]


async def read_and_ask() -> tuple[Settings, list[str]]:
    """As `read_settings`, and what the database says."""
    settings, faults = read_settings()
    named = {_variable(fault) for fault in faults}
    if not named & {"DATABASE_TYPE"}:
        faults += await list_database_faults(settings)
    return settings, faults


def list_setting_faults(settings: Settings) -> list[str]:
    """What is wrong with readable settings; empty: they may start."""
    checks: list[Callable[[Settings], Iterator[str]]] = [_workers, _sms, _directories]
    if settings.is_production:
        checks += [
            _secrets,
            _test_settings,
            _protections,
            _origins,
            _proxies,
            _database_line,
            _redis_line,
        ]
    return [fault for check in checks for fault in check(settings)]


def _variable(fault: str) -> str:
    return fault.partition(":")[0]


def _workers(settings: Settings) -> Iterator[str]:
    """Of the launcher. Those of a bare uvicorn meet at the lock of `infra/database/process_lock.py`."""
    if settings.server.workers == 1:
        return
    if settings.database.type == "sqlite":
        yield "WORKERS: SQLite serves one process; set DATABASE_TYPE=postgresql and USE_REDIS=true"
    elif not settings.redis.use:
        yield "WORKERS: several workers need Redis; set USE_REDIS=true and REDIS_URL"


def _sms(settings: Settings) -> Iterator[str]:
    sms = settings.sms
    needed: dict[str, object] = {}
    if sms.provider == "twilio":
        needed = {
            "TWILIO_ACCOUNT_SID": sms.twilio_account_sid,
            "TWILIO_AUTH_TOKEN": sms.twilio_auth_token,
            "TWILIO_FROM": sms.twilio_from,
        }
    elif sms.provider == "http":
        needed = {"SMS_HTTP_URL": sms.http_url}
    for name, value in needed.items():
        if not value:
            yield f"{name}: SMS_PROVIDER={sms.provider} needs it"


def _directories(settings: Settings) -> Iterator[str]:
    places = {"VAR_DIR": settings.server.var_dir, "LOG_FILE": settings.log.file.parent}
    if settings.database.type == "sqlite" and settings.database.url:
        places["DATABASE_URL"] = settings.sqlite_path.parent
    for name, directory in places.items():
        if not _is_writable(directory):
            yield f"{name}: cannot be written to; give this user the directory, or name another"
    file = settings.log.file
    if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        yield "LOG_FILE: is there and cannot be written to"


def _is_writable(directory: Path) -> bool:
    """It, or where it would have to be made. Tried, since root is told that it may write anywhere."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    try:
        with TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _secrets(settings: Settings) -> Iterator[str]:
    try:
        load_secrets(settings)
    except SettingsError as error:
        yield from error.faults
    if settings.secrets.pbkdf2_rounds < LEAST_ROUNDS:
        yield f"PBKDF2_ROUNDS: production needs {LEAST_ROUNDS} or more"
    if settings.sms.code_hash_rounds < _LEAST_CODE_ROUNDS:
        yield f"CODE_HASH_ROUNDS: production needs {_LEAST_CODE_ROUNDS} or more"
    if settings.two_step.hash_rounds < _LEAST_PASSWORD_ROUNDS:
        yield f"TWO_STEP_HASH_ROUNDS: production needs {_LEAST_PASSWORD_ROUNDS} or more"


def _test_settings(settings: Settings) -> Iterator[str]:
    sms = settings.sms
    if sms.provider in {"console", "file"}:
        yield f"SMS_PROVIDER: {sms.provider} is for development; use twilio or http in production"
    if sms.provider == "http" and sms.http_url:
        gateway = _read_url(sms.http_url)
        if gateway is None or not (gateway.scheme == "https" or _is_local(gateway.hostname)):
            yield "SMS_HTTP_URL: codes would be sent in the clear; use https"
    if settings.log.level == "DEBUG":
        yield "LOG_LEVEL: DEBUG is for development; use INFO"


def _protections(settings: Settings) -> Iterator[str]:
    for name, group in GROUPS.items():
        for field, info in group.model_fields.items():
            if info.alias in _PROTECTIONS and getattr(getattr(settings, name), field) is False:
                yield f"{info.alias}: production needs it on"


def _origins(settings: Settings) -> Iterator[str]:
    """`*` and `null` do not even get here."""
    lists = {
        "CORS_ORIGINS": settings.browser.cors_origins,
        "ALLOWED_ORIGINS": settings.websocket.allowed_origins,
    }
    for name, origins in lists.items():
        plain = [origin for origin in map(urlsplit, origins) if origin.scheme != "https"]
        if not all(_is_local(origin.hostname) for origin in plain):
            yield f"{name}: whoever is on the way can change a page over http; list https origins only"


def _proxies(settings: Settings) -> Iterator[str]:
    if any(network.prefixlen == 0 for network in settings.server.trusted_proxies):
        yield "TRUSTED_PROXIES: this trusts everybody, so anyone may claim any address; name your proxies"


def _database_line(settings: Settings) -> Iterator[str]:
    if settings.database.type == "sqlite" or settings.database.url is None:
        return
    url = _read_url(settings.database.url.get_secret_value())
    if url is None:
        yield "DATABASE_URL: cannot be read; write it as postgresql://user:password@host:5432/name"
        return
    if url.password and is_well_known(unquote(url.password)):
        yield "DATABASE_URL: its password is an example; choose another"
    query = parse_qs(url.query)
    hosts = query.get("host") or [url.hostname or ""]
    modes = query.get("sslmode") or query.get("ssl") or [""]
    is_private = settings.database.allow_plaintext or all(map(_is_local, hosts))
    if not is_private and modes[-1] not in _VERIFIED_MODES:
        yield (
            "DATABASE_URL: the line to PostgreSQL needs TLS that checks whose it is; add"
            " ?sslmode=verify-full, or set DATABASE_ALLOW_PLAINTEXT=true on a private network"
        )


def _redis_line(settings: Settings) -> Iterator[str]:
    if not settings.redis.use:
        return
    url = _read_url(settings.redis.url.get_secret_value())
    if url is None:
        yield "REDIS_URL: cannot be read; write it as rediss://user:password@host:6379/0"
        return
    if url.password and is_well_known(unquote(url.password)):
        yield "REDIS_URL: its password is an example; choose another"
    if not (settings.redis.allow_plaintext or _is_sound_redis(url)):
        yield (
            "REDIS_URL: the line to Redis needs TLS; use rediss:// with its certificate checked,"
            " or set REDIS_ALLOW_PLAINTEXT=true on a private network"
        )


def _read_url(text: str) -> SplitResult | None:
    try:
        return urlsplit(text)
    except ValueError:
        return None


def _is_sound_redis(url: SplitResult) -> bool:
    if url.scheme == "unix" or _is_local(url.hostname):
        return True
    checked = parse_qs(url.query).get("ssl_cert_reqs", ["required"])[-1]
    return url.scheme == "rediss" and checked == "required"


def _is_local(host: str | None) -> bool:
    """This machine: loopback, a Unix socket (a path), or PostgreSQL's default, which is one."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
