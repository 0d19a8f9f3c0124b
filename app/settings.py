"""Configuration: typed groups read once from the environment and `.env`, all faults listed at once.

Every field is one environment variable, named by its alias; `env.example` is generated from here.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.kernel.addresses import AddressForm


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class SettingsError(Exception):
    """The configuration is wrong; one sentence for each fault, each naming its variable."""

    def __init__(self, faults: list[str], *, rest: "Settings | None" = None) -> None:
        """`rest`: the settings with defaults in the place of what cannot be read."""
        super().__init__("\n".join(faults))
        self.faults = faults
        self.rest = rest


class Group(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        case_sensitive=False,
        hide_input_in_errors=True,
    )


def _split_list(value: str) -> list[str]:
    """`a, b` -> `["a", "b"]`: lists are written with commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


_ORIGIN = re.compile(
    r"https?://(?:[a-z0-9](?:[a-z0-9.-]{0,253}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?"
)


def require_origins(origins: list[str]) -> list[str]:
    """Exact origins, written as browsers write them; whatever else stands there would never match, or match all."""
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        msg = "each must be like https://app.example.org: no *, no null, no path, lower case"
        raise ValueError(msg)
    return origins


class ServerSettings(Group):
    """The process and its address."""

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        alias="ENVIRONMENT",
        description="development, or production: then weak secrets and test providers refuse to start.",
    )
    host: str = Field(
        "127.0.0.1",
        alias="HOST",
        description="Address on which `python -m app` listens.",
    )
    port: int = Field(8000, alias="PORT", ge=0, le=65535, description="Port on which it listens.")
    workers: int = Field(
        1,
        alias="WORKERS",
        ge=1,
        le=64,
        description="Processes of `python -m app`; more than 1 needs PostgreSQL and Redis.",
    )
    var_dir: Path = Field(
        Path("var"),
        alias="VAR_DIR",
        description="Directory of the SQLite database and of generated keys.",
    )
    enable_docs: bool = Field(
        default=True,
        alias="ENABLE_DOCS",
        description="Serve /docs, /redoc, /openapi.json and /asyncapi.json.",
    )
    trusted_proxies: Annotated[list[IPv4Network | IPv6Network], NoDecode] = Field(
        default_factory=list[IPv4Network | IPv6Network],
        alias="TRUSTED_PROXIES",
        description="Networks of our own proxies, with commas; only they may name the client by X-Forwarded-For.",
    )
    enable_security_headers: bool = Field(
        default=True,
        alias="ENABLE_SECURITY_HEADERS",
        description="Send Content-Security-Policy and the like with every answer, and HSTS over HTTPS.",
    )
    max_connections: int = Field(
        20_000,
        alias="MAX_CONNECTIONS",
        ge=1,
        description="Connections of one worker of `python -m app`; with more, requests are answered 503.",
    )
    max_body_size: int = Field(
        1_048_576,
        alias="MAX_BODY_SIZE",
        ge=1024,
        description="Largest JSON body, in bytes.",
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [ip_network(part, strict=False) for part in _split_list(value)]


class DatabaseSettings(Group):
    """Where rows live."""

    type: Literal["sqlite", "postgresql"] = Field(
        "sqlite",
        alias="DATABASE_TYPE",
        description="sqlite (one process) or postgresql (12 or newer).",
    )
    url: SecretStr | None = Field(
        None,
        alias="DATABASE_URL",
        description="postgresql://user:password@host:5432/name, or sqlite:///path; empty: SQLite in VAR_DIR.",
    )
    pool_size: int = Field(
        10,
        alias="DATABASE_POOL_SIZE",
        ge=2,
        le=200,
        description="Connections of one worker to PostgreSQL.",
    )
    allow_plaintext: bool = Field(
        default=False,
        alias="DATABASE_ALLOW_PLAINTEXT",
        description="Production takes a line to PostgreSQL on another machine without TLS: only where the"
        " network is private.",
    )

    @model_validator(mode="after")
    def _url_fits_type(self) -> "DatabaseSettings":
        scheme = self.url.get_secret_value().partition("://")[0] if self.url else ""
        if self.type == "postgresql" and scheme not in {
            "postgresql",
            "postgres",
            "postgresql+asyncpg",
        }:
            msg = "DATABASE_URL must be postgresql://user:password@host:5432/name when DATABASE_TYPE is postgresql"
            raise ValueError(msg)
        if self.type == "sqlite" and scheme not in {"", "sqlite"}:
            msg = "DATABASE_URL must be empty or sqlite:///path when DATABASE_TYPE is sqlite"
            raise ValueError(msg)
        return self


class RedisSettings(Group):
    """The bus between workers and the shared cache."""

    use: bool = Field(
        default=False,
        alias="USE_REDIS",
        description="Use Redis (6 or newer); needed for several workers.",
    )
    url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        alias="REDIS_URL",
        description="Address of Redis.",
    )
    allow_plaintext: bool = Field(
        default=False,
        alias="REDIS_ALLOW_PLAINTEXT",
        description="Production takes a line to Redis on another machine without TLS: only where the network"
        " is private.",
    )


class SecretSettings(Group):
    """Keys, and what is encrypted under them."""

    secret_key: SecretStr | None = Field(
        None,
        alias="SECRET_KEY",
        description="Signs tokens. Empty outside production: generated into VAR_DIR.",
    )
    secret_key_file: Path | None = Field(
        None, alias="SECRET_KEY_FILE", description="File that holds SECRET_KEY instead."
    )
    previous_secret_key: SecretStr | None = Field(
        None,
        alias="SECRET_KEY_PREVIOUS",
        description="While SECRET_KEY is changed: the other key, whose tokens are accepted too; several with commas.",
    )
    previous_secret_key_file: Path | None = Field(
        None,
        alias="SECRET_KEY_PREVIOUS_FILE",
        description="File that holds SECRET_KEY_PREVIOUS instead, one key a line.",
    )
    master_key: SecretStr | None = Field(
        None,
        alias="MASTER_KEY",
        description="Encrypts the data keys: without it nothing can be read again. Empty as above.",
    )
    master_key_file: Path | None = Field(
        None, alias="MASTER_KEY_FILE", description="File that holds MASTER_KEY instead."
    )
    index_key: SecretStr | None = Field(
        None,
        alias="INDEX_KEY",
        description="Key of the blind indexes of phones and names. Empty as above.",
    )
    index_key_file: Path | None = Field(
        None, alias="INDEX_KEY_FILE", description="File that holds INDEX_KEY instead."
    )
    master_key_new: SecretStr | None = Field(
        None,
        alias="MASTER_KEY_NEW",
        description="The next MASTER_KEY, for `python -m app.admin keys rotate` alone.",
    )
    master_key_new_file: Path | None = Field(
        None, alias="MASTER_KEY_NEW_FILE", description="File that holds MASTER_KEY_NEW instead."
    )
    index_key_new: SecretStr | None = Field(
        None,
        alias="INDEX_KEY_NEW",
        description="The next INDEX_KEY, for servers and `python -m app.admin keys rebuild-index`.",
    )
    index_key_new_file: Path | None = Field(
        None, alias="INDEX_KEY_NEW_FILE", description="File that holds INDEX_KEY_NEW instead."
    )
    pbkdf2_rounds: int = Field(
        600_000,
        alias="PBKDF2_ROUNDS",
        ge=1,
        description="PBKDF2-HMAC-SHA256 rounds over MASTER_KEY at start; production refuses fewer than 600000.",
    )
    encrypt_personal_data: bool = Field(
        default=True,
        alias="ENCRYPT_PERSONAL_DATA",
        description="Store phones, names, bios, devices as AES-256-GCM.",
    )
    encrypt_messages: bool = Field(
        default=True,
        alias="ENCRYPT_MESSAGES",
        description="Store texts and their entities as AES-256-GCM.",
    )


class SmsSettings(Group):
    """Sign-in codes and what may be spent on them."""

    provider: Literal["console", "file", "twilio", "http"] = Field(
        "console",
        alias="SMS_PROVIDER",
        description="console (prints it), file (VAR_DIR/sms.jsonl), twilio or http (production: one of these).",
    )
    timeout_seconds: float = Field(
        4.0,
        alias="SMS_TIMEOUT",
        gt=0,
        le=30,
        description="Seconds after which a silent provider counts as failed; with more than 4, asking for a code may"
        " take longer than the 5 seconds of every other call.",
    )
    twilio_account_sid: str | None = Field(
        None, alias="TWILIO_ACCOUNT_SID", description="Twilio: account SID."
    )
    twilio_auth_token: SecretStr | None = Field(
        None, alias="TWILIO_AUTH_TOKEN", description="Twilio: token."
    )
    twilio_from: str | None = Field(
        None,
        alias="TWILIO_FROM",
        description="Twilio: sending number (+1...) or messaging service SID (MG...).",
    )
    http_url: str | None = Field(
        None, alias="SMS_HTTP_URL", description="http: address of the gateway."
    )
    http_method: Literal["POST", "PUT"] = Field(
        "POST", alias="SMS_HTTP_METHOD", description="http: method."
    )
    http_authorization: SecretStr | None = Field(
        None,
        alias="SMS_HTTP_AUTHORIZATION",
        description="http: value of the Authorization header.",
    )
    http_body: str = Field(
        '{"to": "{phone}", "text": "{text}"}',
        alias="SMS_HTTP_BODY",
        description="http: JSON body with {phone}, {code} and {text} filled in.",
    )
    limit_per_phone: int = Field(
        3,
        alias="SMS_LIMIT_PER_PHONE",
        ge=1,
        description="Codes to one phone from one address in 10 minutes.",
    )
    limit_per_address: int = Field(
        10,
        alias="SMS_LIMIT_PER_ADDRESS",
        ge=1,
        description="Codes asked for by one address (IPv6: /64) in an hour.",
    )
    limit_per_prefix: int = Field(
        200,
        alias="SMS_LIMIT_PER_PREFIX",
        ge=1,
        description="Codes to one number prefix (country and area) in an hour.",
    )
    limit_per_prefix_day: int = Field(
        1000,
        alias="SMS_LIMIT_PER_PREFIX_DAY",
        ge=1,
        description="Codes to one number prefix in 24 hours.",
    )
    limit_per_country: int = Field(
        5000,
        alias="SMS_LIMIT_PER_COUNTRY",
        ge=1,
        description="Codes to one country in 24 hours.",
    )
    limit_in_all: int = Field(
        20_000,
        alias="SMS_LIMIT_IN_ALL",
        ge=1,
        description="Codes in 24 hours, whoever asks and wherever to: what a day may cost at most.",
    )
    limit_per_day: int = Field(
        20,
        alias="SMS_LIMIT_PER_DAY",
        ge=1,
        description="Codes to one phone in 24 hours, whoever asks.",
    )
    code_hash_rounds: int = Field(
        10,
        alias="CODE_HASH_ROUNDS",
        ge=4,
        le=16,
        description="bcrypt cost of stored codes; production needs 10.",
    )


class TokenSettings(Group):
    """Life of tokens and sessions."""

    access_minutes: int = Field(
        15,
        alias="ACCESS_TOKEN_MINUTES",
        ge=1,
        le=1440,
        description="Minutes an access token lives.",
    )
    refresh_idle_days: int = Field(
        30,
        alias="REFRESH_TOKEN_IDLE_DAYS",
        ge=1,
        le=365,
        description="Days after which an unused session ends.",
    )
    refresh_total_days: int = Field(
        180,
        alias="REFRESH_TOKEN_TOTAL_DAYS",
        ge=1,
        le=3650,
        description="Days after which every session ends.",
    )


class TwoStepSettings(Group):
    """The second factor, and how long a proof of identity counts."""

    hash_rounds: int = Field(
        12,
        alias="TWO_STEP_HASH_ROUNDS",
        ge=4,
        le=16,
        description="bcrypt cost of second passwords; production refuses less than 12.",
    )
    reset_days: int = Field(
        7,
        alias="TWO_STEP_RESET_DAYS",
        ge=1,
        le=90,
        description="Days that an owner who lost the second factor waits for its removal; all devices are told.",
    )
    fresh_minutes: int = Field(
        15,
        alias="FRESH_MINUTES",
        ge=1,
        le=1440,
        description="Minutes after a sign-in or confirmation in which a session may make sensitive changes.",
    )


class WebSocketSettings(Group):
    """Limits of live connections."""

    heartbeat_seconds: int = Field(
        25,
        alias="WS_HEARTBEAT_SECONDS",
        ge=1,
        le=30,
        description="Seconds between pings to a client.",
    )
    queue_bytes: int = Field(
        1_048_576,
        alias="WS_QUEUE_BYTES",
        ge=65_536,
        description="Bytes waiting for a slow reader before 4409.",
    )
    idle_seconds: int = Field(
        300,
        alias="WS_IDLE_SECONDS",
        ge=2,
        description="Seconds without any frame of the client before 4408.",
    )
    frames_per_second: int = Field(
        50,
        alias="WS_FRAMES_PER_SECOND",
        ge=1,
        description="Frames a socket may send in the long run; six times as many in a burst, then 4429.",
    )
    max_sockets: int = Field(
        100,
        alias="WS_MAX_SOCKETS",
        ge=1,
        description="Open sockets of one user on one worker; one more is refused with 4429.",
    )
    allowed_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list[str],
        alias="ALLOWED_ORIGINS",
        description="Origins, with commas, whose pages may open WebSockets beside our own.",
    )

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _parse_origins(cls, value: object) -> object:
        return _split_list(value) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        return require_origins(value)


class BrowserSettings(Group):
    """Pages in browsers that use the API."""

    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list[str],
        alias="CORS_ORIGINS",
        description="Origins, with commas, whose pages may use the API and open sockets beside our own;"
        " empty: none. Never *.",
    )
    csrf_protection: bool = Field(
        default=True,
        alias="ENABLE_CSRF_PROTECTION",
        description="Ask calls that a cookie signs in for the page's origin and a CSRF token.",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_origins(cls, value: object) -> object:
        return _split_list(value) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        return require_origins(value)


class PeopleSettings(Group):
    """Who finds whom, and how large a chat grows."""

    user_directory: Literal["known", "open"] = Field(
        "known",
        alias="USER_DIRECTORY",
        description="Search by name: among people you know, or everyone (open).",
    )
    lookups_per_day: int = Field(
        2000,
        alias="CONTACT_LOOKUPS_PER_DAY",
        ge=1,
        description="Distinct new numbers one account may look up a day by import and search together.",
    )
    max_group_members: int = Field(
        200_000,
        alias="MAX_GROUP_MEMBERS",
        ge=2,
        description="Members of one group or channel at most.",
    )


class LimitSettings(Group):
    """How often one account, or one address before sign-in, may call. Each class counts by itself."""

    enabled: bool = Field(
        default=True,
        alias="ENABLE_RATE_LIMITS",
        description="Count calls and refuse those over a limit; off only for tests and benchmarks.",
    )
    requests: int = Field(
        600,
        alias="RATE_LIMIT_REQUESTS",
        ge=1,
        description="API calls of one account, or of one address before sign-in, in RATE_LIMIT_WINDOW.",
    )
    window_seconds: int = Field(
        60,
        alias="RATE_LIMIT_WINDOW",
        ge=1,
        le=86_400,
        description="Seconds in which RATE_LIMIT_REQUESTS are counted.",
    )
    sign_in: int = Field(
        30,
        alias="RATE_LIMIT_SIGN_IN",
        ge=1,
        description="Requests for sign-in codes from one address in 10 minutes; see also SMS_LIMIT_....",
    )
    code_checks: int = Field(
        60,
        alias="RATE_LIMIT_CODE_CHECKS",
        ge=1,
        description="Tries of codes and passwords from one address in 10 minutes.",
    )
    search: int = Field(
        100,
        alias="RATE_LIMIT_SEARCH",
        ge=1,
        description="Searches for people by one account in a minute.",
    )
    contact_import: int = Field(
        60,
        alias="RATE_LIMIT_CONTACT_IMPORT",
        ge=1,
        description="Imports of contacts (up to 500 each) by one account in an hour.",
    )
    sends: int = Field(
        120,
        alias="RATE_LIMIT_SENDS",
        ge=1,
        description="Messages sent by one account in a minute; ten forwarded ones count as one.",
    )
    sends_per_chat: int = Field(
        60,
        alias="RATE_LIMIT_SENDS_PER_CHAT",
        ge=1,
        description="Messages sent by one account to one chat in a minute.",
    )
    sends_burst: int = Field(
        30,
        alias="RATE_LIMIT_SENDS_BURST",
        ge=1,
        description="Messages sent by one account in 10 seconds.",
    )
    typing: int = Field(
        120,
        alias="RATE_LIMIT_TYPING",
        ge=1,
        description="Typing signals of one account in a minute.",
    )
    reads: int = Field(
        600,
        alias="RATE_LIMIT_READS",
        ge=1,
        description="Read marks moved by one account in a minute.",
    )
    catch_up: int = Field(
        600,
        alias="RATE_LIMIT_CATCH_UP",
        ge=1,
        description="Differences and resumes of one account in a minute.",
    )
    calls: int = Field(
        600,
        alias="RATE_LIMIT_CALLS",
        ge=1,
        description="Call signals of one account in a minute.",
    )
    outreach: int = Field(
        300,
        alias="RATE_LIMIT_OUTREACH",
        ge=1,
        description="New private chats, groups, channels, invites and additions of members by one account in 24 hours.",
    )
    outreach_new: int = Field(
        50,
        alias="RATE_LIMIT_OUTREACH_NEW",
        ge=1,
        description="The same for an account younger than seven days.",
    )
    sockets: int = Field(
        120,
        alias="RATE_LIMIT_SOCKETS",
        ge=1,
        description="Sockets that one account opens, or tries to, in a minute; one more is closed with 4429.",
    )
    uploads: int = Field(
        120,
        alias="RATE_LIMIT_UPLOADS",
        ge=1,
        description="Uploads begun by one account in a minute.",
    )
    upload_parts: int = Field(
        1_200,
        alias="RATE_LIMIT_UPLOAD_PARTS",
        ge=1,
        description="Requests that send or ask for parts of resumable uploads, by one account in a minute.",
    )
    downloads: int = Field(
        3_000,
        alias="RATE_LIMIT_DOWNLOADS",
        ge=1,
        description="Downloads of files and thumbnails, ranges included, by one account in a minute.",
    )


class FileSettings(Group):
    """Where files lie, and how much of them."""

    storage_url: str | None = Field(
        None,
        alias="STORAGE_URL",
        description="s3://bucket/prefix?endpoint=https://...&region=...; empty: the directory VAR_DIR/files.",
    )
    storage_access_key: SecretStr | None = Field(
        None, alias="STORAGE_ACCESS_KEY", description="Access key of the S3 store."
    )
    storage_access_key_file: Path | None = Field(
        None,
        alias="STORAGE_ACCESS_KEY_FILE",
        description="File that holds STORAGE_ACCESS_KEY instead.",
    )
    storage_secret_key: SecretStr | None = Field(
        None, alias="STORAGE_SECRET_KEY", description="Secret key of the S3 store."
    )
    storage_secret_key_file: Path | None = Field(
        None,
        alias="STORAGE_SECRET_KEY_FILE",
        description="File that holds STORAGE_SECRET_KEY instead.",
    )
    storage_allow_plaintext: bool = Field(
        default=False,
        alias="STORAGE_ALLOW_PLAINTEXT",
        description="Production takes a line to an S3 store on another machine without TLS: only where the"
        " network is private.",
    )
    encrypt: bool = Field(
        default=True,
        alias="ENCRYPT_FILES",
        description="Keep new files as AES-256-GCM, each under a key of its own.",
    )
    redirect_seconds: int = Field(
        0,
        alias="FILES_REDIRECT_SECONDS",
        ge=0,
        le=60,
        description="With S3 and ENCRYPT_FILES=false: send downloads on to a signed URL of this life; 0: never.",
    )
    max_upload_size: int = Field(
        2_147_483_648,
        alias="MAX_UPLOAD_SIZE",
        ge=1024,
        description="Largest file, in bytes; with S3 52425392128 at most.",
    )
    quota: int = Field(
        10_737_418_240,
        alias="FILES_QUOTA",
        ge=1024,
        description="Bytes that the files of one account may take, uploads under way and files that ended less than"
        " FILES_GRACE_MINUTES ago included.",
    )
    max_uploads: int = Field(
        20,
        alias="MAX_PARALLEL_UPLOADS",
        ge=1,
        description="Uploads that one account may have under way, resumable ones that wait included.",
    )
    max_downloads: int = Field(
        64,
        alias="MAX_PARALLEL_DOWNLOADS",
        ge=1,
        description="Downloads of one account that a worker has under way at once.",
    )
    worker_downloads: int = Field(
        512,
        alias="WORKER_DOWNLOADS",
        ge=1,
        description="Downloads that a worker has under way at once, of all accounts.",
    )
    upload_hours: int = Field(
        24,
        alias="UPLOAD_HOURS",
        ge=1,
        le=720,
        description="Hours for which a resumable upload waits for its next part.",
    )
    upload_min_rate: int = Field(
        16_384,
        alias="UPLOAD_MIN_RATE",
        ge=1,
        description="Bytes a second that an upload has to bring on the average: of the default, 2 GiB in 36 hours.",
    )
    upload_grace_seconds: int = Field(
        600,
        alias="UPLOAD_GRACE_SECONDS",
        ge=1,
        description="Seconds that an upload may take beside what UPLOAD_MIN_RATE asks for.",
    )
    unused_hours: int = Field(
        24,
        alias="FILES_UNUSED_HOURS",
        ge=1,
        le=8760,
        description="Hours for which an uploaded file waits for its first use before it is deleted.",
    )
    grace_minutes: int = Field(
        60,
        alias="FILES_GRACE_MINUTES",
        ge=0,
        le=43_200,
        description="Minutes between the last use of a file, when nobody reads it any more, and the end of its bytes.",
    )
    media_processes: int = Field(
        1,
        alias="MEDIA_PROCESSES",
        ge=1,
        le=64,
        description="Processes of each worker that look into photos, video and sound.",
    )
    clamd_address: str | None = Field(
        None,
        alias="CLAMD_ADDRESS",
        description="Ask this clamd about every upload: tcp://host:3310 or unix:///run/clamav/clamd.ctl; empty: ask"
        " nobody.",
    )
    clamd_max_size: int = Field(
        26_214_400,
        alias="CLAMD_MAX_SIZE",
        ge=1024,
        description="Largest file that clamd is asked about, in bytes; at most its StreamMaxLength and MaxFileSize.",
    )
    clamd_allow_larger: bool = Field(
        default=False,
        alias="CLAMD_ALLOW_LARGER",
        description="Keep what is larger than CLAMD_MAX_SIZE, unsearched; false: with CLAMD_ADDRESS it is refused.",
    )
    clamd_timeout_seconds: float = Field(
        130.0,
        alias="CLAMD_TIMEOUT",
        gt=0,
        le=600,
        description="Seconds after which a clamd that has all of a file counts as silent; more than its MaxScanTime.",
    )
    clamd_allow_plaintext: bool = Field(
        default=False,
        alias="CLAMD_ALLOW_PLAINTEXT",
        description="Production sends files to a clamd on another machine, which speaks no TLS: only where the network"
        " is private.",
    )

    @property
    def largest_file(self) -> int:
        """In bytes: MAX_UPLOAD_SIZE, or less where what cannot be searched is not kept."""
        if self.clamd_address is None or self.clamd_allow_larger:
            return self.max_upload_size
        return min(self.max_upload_size, self.clamd_max_size)


class UpdateSettings(Group):
    """How far back devices catch up."""

    retention_days: int = Field(
        30,
        alias="UPDATE_RETENTION_DAYS",
        ge=1,
        le=3650,
        description="Days that updates are kept for devices that were away; later they read everything again.",
    )


class AuditSettings(Group):
    """The record of security events, and who may read the metrics."""

    retention_days: int = Field(
        365,
        alias="AUDIT_RETENTION_DAYS",
        ge=1,
        le=36_500,
        description="Days that security events are kept.",
    )
    metrics_allowed: Annotated[list[IPv4Network | IPv6Network], NoDecode] = Field(
        default_factory=list[IPv4Network | IPv6Network],
        alias="METRICS_ALLOWED",
        description="Networks, with commas, that may read /metrics directly, never through a proxy; empty: nobody.",
    )

    @field_validator("metrics_allowed", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [ip_network(part, strict=False) for part in _split_list(value)]


class LogSettings(Group):
    """Where the log goes."""

    file: Path = Field(
        Path("app.log"),
        alias="LOG_FILE",
        description="Log file of all workers, JSON lines.",
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="LOG_LEVEL", description="DEBUG, INFO, WARNING or ERROR."
    )
    addresses: AddressForm = Field(
        "network",
        alias="LOG_ADDRESSES",
        description="What of a client's address its lines tell: full (what fail2ban needs), network (/24, IPv6 /48)"
        " or none.",
    )
    max_bytes: int = Field(
        50_000_000,
        alias="LOG_MAX_BYTES",
        ge=10_000,
        description="Size at which the log file is rotated.",
    )
    backups: int = Field(
        5,
        alias="LOG_BACKUPS",
        ge=0,
        le=1000,
        description="Rotated files that are kept.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All groups; passed down, never global."""

    server: ServerSettings
    database: DatabaseSettings
    redis: RedisSettings
    secrets: SecretSettings
    sms: SmsSettings
    tokens: TokenSettings
    two_step: TwoStepSettings
    websocket: WebSocketSettings
    browser: BrowserSettings
    people: PeopleSettings
    limits: LimitSettings
    files: FileSettings
    updates: UpdateSettings
    audit: AuditSettings
    log: LogSettings

    @property
    def is_production(self) -> bool:
        return self.server.environment is Environment.PRODUCTION

    @property
    def sqlite_path(self) -> Path:
        """The file of the SQLite database."""
        url = self.database.url.get_secret_value() if self.database.url else ""
        return Path(url.removeprefix("sqlite:///")) if url else self.server.var_dir / "messenger.db"

    @property
    def files_dir(self) -> Path:
        """The directory of the local storage."""
        return self.server.var_dir / "files"

    @property
    def database_url(self) -> str:
        """As SQLAlchemy wants it; holds the password."""
        if self.database.type == "sqlite":
            return f"sqlite:///{quote(str(self.sqlite_path))}"
        url = self.database.url.get_secret_value() if self.database.url else ""
        # asyncpg's word for what everybody else calls sslmode.
        rest = re.sub(r"(?<=[?&])sslmode=", "ssl=", url.partition("://")[2])
        return "postgresql+asyncpg://" + rest


GROUPS: dict[str, type[Group]] = {
    "server": ServerSettings,
    "database": DatabaseSettings,
    "redis": RedisSettings,
    "secrets": SecretSettings,
    "sms": SmsSettings,
    "tokens": TokenSettings,
    "two_step": TwoStepSettings,
    "websocket": WebSocketSettings,
    "browser": BrowserSettings,
    "people": PeopleSettings,
    "limits": LimitSettings,
    "files": FileSettings,
    "updates": UpdateSettings,
    "audit": AuditSettings,
    "log": LogSettings,
}

G = TypeVar("G", bound=Group)


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read every group.

    Raises:
        SettingsError: one or more values are wrong; lists all of them.
    """
    faults: list[str] = []
    groups: dict[str, Any] = {}
    for name, group in GROUPS.items():
        try:
            groups[name] = group(_env_file=env_file)  # pyright: ignore[reportCallIssue] - pydantic-settings takes it
        except ValidationError as error:
            faults.extend(_sentences(group, error))
            groups[name] = _readable_rest(group, error, env_file)
    settings = Settings(**groups)
    if faults:
        raise SettingsError(faults, rest=settings)
    return settings


def _readable_rest(group: type[Group], error: ValidationError, env_file: Path | None) -> Group:
    """The group with the defaults of the fields that are wrong; all of them, if none is named."""
    named = {str(fault["loc"][0]) for fault in error.errors(include_input=False) if fault["loc"]}
    defaults: dict[str, Any] = {
        str(field.alias): field.get_default(call_default_factory=True)
        for name, field in group.model_fields.items()
        if field.alias in named or name in named
    }
    try:
        return group(_env_file=env_file, **defaults)  # pyright: ignore[reportCallIssue] - see above
    except ValidationError:
        return group.model_construct()


def _sentences(group: type[Group], error: ValidationError) -> list[str]:
    """One sentence a fault; never the value, which may be a secret."""
    sentences: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        message = fault["msg"].removeprefix("Value error, ")
        name = str(fault["loc"][0]) if fault["loc"] else ""
        field = group.model_fields.get(name)
        variable = field.alias if field and field.alias else name
        sentences.append(f"{variable}: {message}" if variable else message)
    return sentences
