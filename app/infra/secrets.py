"""The three keys of an installation: from the environment, from files, or made once into VAR_DIR.

Production makes none up: a key that nobody chose is a key that nobody backed up.
"""

import hmac
import os
import resource
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from app.settings import Settings, SettingsError

_LEAST_BYTES = 32
# Of 16 random bytes in hexadecimal, fewer than 7 different digits come once in ten million keys (10: once in 8,000).
_LEAST_DISTINCT = 7
# A text that only counts up, or walks along a keyboard, has few different steps between its letters.
_LEAST_STEPS = 8
_EXAMPLES = ("change", "example", "secret", "password", "replace", "default", "insecure")
_WELL_KNOWN = frozenset(
    {"admin", "changeme", "messenger", "minioadmin", "postgres", "postgresql", "redis", "root"}
    | {"rustfsadmin", "test", "token", "user"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeys:
    """What a database was made with. Never shown: not even by `repr` in a traceback."""

    master_key: bytes = field(repr=False)
    index_key: bytes = field(repr=False)
    index_key_new: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Never shown, as `DataKeys`."""

    secret_key: bytes = field(repr=False)
    master_key: bytes = field(repr=False)
    index_key: bytes = field(repr=False)
    previous_secret_keys: tuple[bytes, ...] = field(default=(), repr=False)
    index_key_new: bytes | None = field(default=None, repr=False)

    @property
    def data_keys(self) -> DataKeys:
        return DataKeys(
            master_key=self.master_key,
            index_key=self.index_key,
            index_key_new=self.index_key_new,
        )


def disable_core_dumps() -> None:
    """A process that crashes shall not leave its keys on a disk."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def load_secrets(settings: Settings, *, may_generate: bool = True) -> Secrets:
    """Read the keys; outside production make those that are missing, 0600, once for all processes.

    `may_generate`: False for a database that was set up before: a new MASTER_KEY or INDEX_KEY cannot
    be its own.

    Raises:
        SettingsError: production lacks one or has a weak one, or a file cannot be read; lists all.
    """
    group = settings.secrets
    sources = {
        "SECRET_KEY": (group.secret_key, group.secret_key_file),
        "MASTER_KEY": (group.master_key, group.master_key_file),
        "INDEX_KEY": (group.index_key, group.index_key_file),
    }
    faults: list[str] = []
    values: dict[str, bytes] = {}
    for name, (value, path) in sources.items():
        try:
            values[name] = _load(
                settings,
                name,
                value=value,
                path=path,
                may_generate=may_generate or name == "SECRET_KEY",
            )
        except SettingsError as error:
            faults.extend(error.faults)
    previous: tuple[bytes, ...] = ()
    try:
        previous = _load_previous(settings)
    except SettingsError as error:
        faults.extend(error.faults)
    newer: bytes | None = None
    try:
        newer = load_new_key(settings, "INDEX_KEY")
    except SettingsError as error:
        faults.extend(fault for fault in error.faults if fault not in faults)
    # A key that was changed from or is changed to counts as one of its purpose.
    purposes = [
        {values.get("SECRET_KEY"), *previous},
        {values.get("MASTER_KEY")},
        {values.get("INDEX_KEY"), newer},
    ]
    if settings.is_production and _share_a_key(purposes):
        faults.append("SECRET_KEY, MASTER_KEY and INDEX_KEY must differ from each other")
    if faults:
        raise SettingsError(faults)
    return Secrets(values["SECRET_KEY"], values["MASTER_KEY"], values["INDEX_KEY"], previous, newer)


def _share_a_key(purposes: Sequence[set[bytes | None]]) -> bool:
    keys = [key for purpose in purposes for key in purpose if key is not None]
    return len(set(keys)) < len(keys)


def load_data_keys(settings: Settings) -> DataKeys:
    """The keys of a database that was set up before; makes none.

    Raises:
        SettingsError: one is missing, too weak for production, or cannot be read; lists all.
    """
    group = settings.secrets
    sources = {
        "MASTER_KEY": (group.master_key, group.master_key_file),
        "INDEX_KEY": (group.index_key, group.index_key_file),
    }
    faults: list[str] = []
    values: dict[str, bytes] = {}
    newer: bytes | None = None
    for name, (value, path) in sources.items():
        try:
            values[name] = _load(settings, name, value=value, path=path, may_generate=False)
        except SettingsError as error:
            faults.extend(error.faults)
    try:
        newer = load_new_key(settings, "INDEX_KEY")
    except SettingsError as error:
        faults.extend(error.faults)
    if faults:
        raise SettingsError(faults)
    return DataKeys(
        master_key=values["MASTER_KEY"], index_key=values["INDEX_KEY"], index_key_new=newer
    )


def _load_previous(settings: Settings) -> tuple[bytes, ...]:
    """The keys beside SECRET_KEY whose tokens still count: none, if none is named."""
    name = "SECRET_KEY_PREVIOUS"
    value, path = settings.secrets.previous_secret_key, settings.secrets.previous_secret_key_file
    if value is not None and path is not None:
        raise SettingsError([f"{name}: set it or {name}_FILE, not both"])
    if value is not None:
        parts = value.get_secret_value().encode().split(b",")
    elif path is not None:
        parts = _read_file(name, path).splitlines()
    else:
        return ()
    keys = tuple(part.strip() for part in parts if part.strip())
    if settings.is_production and any(_is_weak(key) for key in keys):
        raise SettingsError([f"{name}: holds a key that is too weak for production"])
    return keys


def load_new_key(settings: Settings, name: Literal["MASTER_KEY", "INDEX_KEY"]) -> bytes | None:
    """The key that `name` is being changed to; None: it is not.

    Raises:
        SettingsError: it is the present one, too weak for production, or cannot be read.
    """
    group = settings.secrets
    sources = {
        "MASTER_KEY": (
            (group.master_key_new, group.master_key_new_file),
            (group.master_key, group.master_key_file),
        ),
        "INDEX_KEY": (
            (group.index_key_new, group.index_key_new_file),
            (group.index_key, group.index_key_file),
        ),
    }
    (value, path), (present_value, present_path) = sources[name]
    if value is None and path is None:
        return None
    key = _load(settings, f"{name}_NEW", value=value, path=path, may_generate=False)
    present = _load(settings, name, value=present_value, path=present_path, may_generate=False)
    if hmac.compare_digest(present, key):
        raise SettingsError([f"{name}_NEW: this is the present {name}"])
    return key


def _load(
    settings: Settings,
    name: str,
    *,
    value: SecretStr | None,
    path: Path | None,
    may_generate: bool,
) -> bytes:
    key = read_secret(name, value=value, path=path)
    if key is None:
        if settings.is_production:
            fault = (
                f"{name}: production needs it, or {name}_FILE; at least {_LEAST_BYTES} random bytes"
            )
            raise SettingsError([fault])
        return _load_generated(settings.server.var_dir, name, may_generate=may_generate)
    if settings.is_production and _is_weak(key):
        fault = f"{name}: too weak for production; use `openssl rand -base64 48` and keep it safe"
        raise SettingsError([fault])
    return key


def read_secret(name: str, *, value: SecretStr | None, path: Path | None) -> bytes | None:
    """What the setting `name` or the file of `name`_FILE holds; None: neither is set.

    Raises:
        SettingsError: both are, or the file cannot be read.
    """
    if value is not None and path is not None:
        raise SettingsError([f"{name}: set it or {name}_FILE, not both"])
    if value is None and path is None:
        return None
    return value.get_secret_value().encode() if value is not None else _read_file(name, path)


def _read_file(name: str, path: Path | None) -> bytes:
    try:
        key = path.read_bytes().strip() if path else b""
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError([f"{name}_FILE: cannot be read: {reason}"]) from error
    if not key:
        raise SettingsError([f"{name}_FILE: the file is empty"])
    return key


def _load_generated(directory: Path, name: str, *, may_generate: bool) -> bytes:
    path = directory / f"{name.lower()}.txt"
    if not may_generate and not path.exists():
        fault = (
            f"{name}: {path.name} is missing from VAR_DIR, and this database was made with it; "
            "nothing was changed, put the file back"
        )
        raise SettingsError([fault])
    try:
        if not path.exists():
            _generate(path)
        return _read_file(name, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError([f"VAR_DIR: cannot keep {name} there: {reason}"]) from error


def _generate(path: Path) -> None:
    """Write a whole file under a name of its own, then link it: readers see all of one key or no
    file, and of several processes that start at once the first wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_well_known(password: str) -> bool:
    """One that stands in examples and in every list of passwords to try."""
    text = password.lower()
    return text in _WELL_KNOWN or any(word in text for word in _EXAMPLES) or text.isdecimal()


def _is_weak(key: bytes) -> bool:
    """Short, an example, or so regular that nobody drew it at random."""
    text = key.decode(errors="replace").lower()
    if len(key) < _LEAST_BYTES or any(word in text for word in _EXAMPLES):
        return True
    steps = {second - first for first, second in pairwise(key)}
    return len(set(key)) < _LEAST_DISTINCT or len(steps) < _LEAST_STEPS or _is_periodic(key)


def _is_periodic(key: bytes) -> bool:
    """The same few letters over and over: its first half says all."""
    return any(key[period:] == key[:-period] for period in range(1, len(key) // 2 + 1))
