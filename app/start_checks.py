"""Everything that refuses a start, told at once: one sentence each, which begins with its variable."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from app.features.files.installation import list_installation_faults
from app.features.files.objects import choose_chunk_size
from app.infra.cipher.chunks import TAG_BYTES, sealed_size
from app.infra.cipher.soundness import list_key_faults
from app.infra.database.soundness import list_database_faults
from app.infra.scanner.address import TcpAddress, read_clamd_address
from app.infra.scanner.soundness import list_scanner_faults
from app.infra.secrets import is_well_known, load_secrets
from app.infra.storage.address import read_address, read_bucket
from app.infra.storage.s3 import MAX_OBJECT_BYTES
from app.infra.storage.soundness import list_storage_faults
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
# With a fault of one of these there is no storage to ask.
_STORAGE: Final = frozenset(
    {"VAR_DIR", "STORAGE_URL", "STORAGE_ACCESS_KEY", "STORAGE_SECRET_KEY"}
    | {"STORAGE_ACCESS_KEY_FILE", "STORAGE_SECRET_KEY_FILE"}
)
# With a fault of one of these nothing is proved of the keys that the database was made with.
_OPENS_DATA: Final = frozenset(
    {"DATABASE_TYPE", "VAR_DIR"}
    | {f"{key}{end}" for key in ("MASTER_KEY", "INDEX_KEY") for end in ("", "_FILE")}
    | {"INDEX_KEY_NEW", "INDEX_KEY_NEW_FILE"}
)
# The largest networks that are anybody's own: 10.0.0.0/8 and fc00::/7.
_LEAST_PREFIX: Final = {4: 8, 6: 7}
_DATABASE: Final = frozenset({"DATABASE_TYPE", "DATABASE_URL"})
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


async def read_and_ask(*, must_answer: bool = False) -> tuple[Settings, list[str]]:
    """As `read_settings`, and what the database, its keys, the file storage and the scanner say.

    `must_answer`: a storage or scanner that does not answer is a fault as well, though it refuses no start.
    """
    settings, faults = read_settings()
    # The log has no place yet, and stdout is for the answer.
    with redirect_stdout(sys.stderr):
        return settings, await ask_around(settings, faults, must_answer=must_answer)


async def ask_around(
    settings: Settings, faults: Sequence[str], *, must_answer: bool = False
) -> list[str]:
    """These faults, and after them what those say whose settings can be read."""
    named = {_variable(fault) for fault in faults}
    told = list(faults)
    if not named & {"DATABASE_TYPE"}:
        told += await list_database_faults(settings)
    if not named & _STORAGE:
        told += await list_storage_faults(settings, must_answer=must_answer)
    if not named & {"CLAMD_ADDRESS"}:
        told += await list_scanner_faults(settings.files, must_answer=must_answer)
    if told == list(faults) and not named & (_STORAGE | _DATABASE):
        told += await list_installation_faults(settings)
    # Deriving the key takes a third of a second, and a start that has no fault so far does it anyway.
    if (told or must_answer) and not named & _OPENS_DATA:
        keys = await list_key_faults(settings, least_rounds=least_rounds(settings))
        told += [fault for fault in keys if _variable(fault) not in map(_variable, told)]
    return told


def least_rounds(settings: Settings) -> int:
    """How dear a guess of MASTER_KEY has to be."""
    return LEAST_ROUNDS if settings.is_production else 1


def list_setting_faults(settings: Settings) -> list[str]:
    """What is wrong with readable settings; empty: they may start."""
    checks: list[Callable[[Settings], Iterator[str]]] = [
        _workers,
        _sms,
        _directories,
        _storage,
        _scanner,
    ]
    if settings.is_production:
        checks += [
            _secrets,
            _test_settings,
            _protections,
            _origins,
            _proxies,
            _database_line,
            _redis_line,
            _storage_line,
            _keys_of_others,
            _scanner_line,
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


def _storage(settings: Settings) -> Iterator[str]:
    if settings.files.storage_url is None:
        return
    try:
        read_bucket(settings.files)
    except SettingsError as error:
        yield from error.faults
    chunk_size = choose_chunk_size(settings.files)
    if sealed_size(settings.files.max_upload_size, chunk_size) > MAX_OBJECT_BYTES:
        chunks = MAX_OBJECT_BYTES // (chunk_size + TAG_BYTES)
        most = chunks * chunk_size or MAX_OBJECT_BYTES
        yield f"MAX_UPLOAD_SIZE: what lies in a bucket goes up in 10,000 parts at most; set {most} or less"


def _scanner(settings: Settings) -> Iterator[str]:
    if settings.files.clamd_address is None:
        return
    try:
        read_clamd_address(settings.files.clamd_address)
    except SettingsError as error:
        yield from error.faults


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
    trusted = settings.server.trusted_proxies
    if any(network.prefixlen < _LEAST_PREFIX[network.version] for network in trusted):
        yield (
            "TRUSTED_PROXIES: this trusts much of the internet, so that anyone there may claim any address;"
            " name your proxies"
        )


def _keys_of_others(settings: Settings) -> Iterator[str]:
    """What somebody else has given us, or comes with the example of their software."""
    token = settings.sms.twilio_auth_token if settings.sms.provider == "twilio" else None
    if token and is_well_known(token.get_secret_value()):
        yield "TWILIO_AUTH_TOKEN: this is an example; set the one of your account"
    if settings.files.storage_url is not None:
        with suppress(SettingsError):  # told by `_storage`
            if is_well_known(read_bucket(settings.files).secret_key):
                yield "STORAGE_SECRET_KEY: this is an example; choose another"


def _database_line(settings: Settings) -> Iterator[str]:
    if settings.database.type == "sqlite" or settings.database.url is None:
        return
    url = _read_url(settings.database.url.get_secret_value())
    if url is None:
        yield "DATABASE_URL: cannot be read; write it as postgresql://user:password@host:5432/name"
        return
    query = parse_qs(url.query)
    if any(map(is_well_known, _passwords(url))):
        yield "DATABASE_URL: its password is an example; choose another"
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
    if any(map(is_well_known, _passwords(url))):
        yield "REDIS_URL: its password is an example; choose another"
    if not (settings.redis.allow_plaintext or _is_sound_redis(url)):
        yield (
            "REDIS_URL: the line to Redis needs TLS; use rediss:// with its certificate checked,"
            " or set REDIS_ALLOW_PLAINTEXT=true on a private network"
        )


def _storage_line(settings: Settings) -> Iterator[str]:
    files = settings.files
    address, faults = read_address(files.storage_url or "")
    if faults or files.storage_allow_plaintext:
        return
    endpoint = _read_url(address.endpoint)
    if endpoint and endpoint.scheme != "https" and not _is_local(endpoint.hostname):
        yield (
            "STORAGE_URL: files would be sent in the clear; use an https endpoint, or set"
            " STORAGE_ALLOW_PLAINTEXT=true on a private network"
        )


def _passwords(url: SplitResult) -> list[str]:
    """Before the host, or as a parameter."""
    return [
        *([unquote(url.password)] if url.password else []),
        *parse_qs(url.query).get("password", []),
    ]


def _scanner_line(settings: Settings) -> Iterator[str]:
    files = settings.files
    if files.clamd_address is None or files.clamd_allow_plaintext:
        return
    try:
        address = read_clamd_address(files.clamd_address)
    except SettingsError:
        return
    if isinstance(address, TcpAddress) and not _is_local(address.host):
        yield (
            "CLAMD_ADDRESS: files would be sent in the clear; use a clamd on this machine, or set"
            " CLAMD_ALLOW_PLAINTEXT=true on a private network"
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
