"""STORAGE_URL and its keys, read and judged: all that is wrong at once, and never a value that may be secret."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from app.infra.secrets import read_secret
from app.infra.storage.s3 import Bucket
from app.settings import FileSettings, SettingsError

_FORM: Final = "s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-central-1"
_DEFAULT_REGION: Final = "us-east-1"
_PARAMETERS: Final = frozenset({"endpoint", "region"})
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:/?[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,8}/?")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ENDPOINT: Final = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::[1-9][0-9]{0,4})?/?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The parts of STORAGE_URL, as they stand there."""

    bucket: str
    prefix: str
    endpoint: str
    region: str


def read_bucket(files: FileSettings) -> Bucket:
    """Where STORAGE_URL points to, and with which keys.

    Raises:
        SettingsError: lists all that is wrong
    """
    address, faults = read_address(files.storage_url or "")
    keys: list[str] = []
    sources = {
        "STORAGE_ACCESS_KEY": (files.storage_access_key, files.storage_access_key_file),
        "STORAGE_SECRET_KEY": (files.storage_secret_key, files.storage_secret_key_file),
    }
    for name, (value, path) in sources.items():
        try:
            key = read_secret(name, value=value, path=path)
        except SettingsError as error:
            faults += error.faults
            continue
        if key is None:
            faults.append(f"{name}: STORAGE_URL needs it, or {name}_FILE")
        else:
            keys.append(key.decode(errors="replace"))
    if faults:
        raise SettingsError(faults)
    return Bucket(
        name=address.bucket,
        prefix=address.prefix.strip("/"),
        endpoint=address.endpoint.rstrip("/"),
        region=address.region,
        access_key=keys[0],
        secret_key=keys[1],
    )


def read_address(text: str) -> tuple[Address, list[str]]:
    """Its parts, and a sentence for each that is wrong."""
    try:
        url = urlsplit(text)
    except ValueError:
        url = SplitResult("", "", "", "", "")
    named = dict(parse_qsl(url.query, keep_blank_values=True))
    region = named.get("region", _DEFAULT_REGION)
    address = Address(
        bucket=url.netloc,
        prefix=url.path,
        endpoint=named.get("endpoint", f"https://s3.{region}.amazonaws.com"),
        region=region,
    )
    if url.scheme != "s3":
        return address, [f"STORAGE_URL: write it as {_FORM}"]
    unknown = ", ".join(sorted(named.keys() - _PARAMETERS))
    checks = {
        "keys do not belong in it; set STORAGE_ACCESS_KEY and STORAGE_SECRET_KEY": "@"
        in url.netloc,
        "a bucket has 3 to 63 of a-z, 0-9, dot and dash": not _BUCKET.fullmatch(
            url.netloc.rpartition("@")[2]
        ),
        "its prefix may have letters, digits, dots, dashes and underscores between slashes": bool(
            url.fragment
        )
        or not _PREFIX.fullmatch(url.path),
        f"it takes endpoint and region, not {unknown}": bool(unknown),
        "its region must be like eu-central-1": not _REGION.fullmatch(region),
        "its endpoint must be like https://s3.example.org:9000, without a path": "endpoint" in named
        and not _ENDPOINT.fullmatch(address.endpoint),
    }
    return address, [f"STORAGE_URL: {fault}" for fault, holds in checks.items() if holds]
