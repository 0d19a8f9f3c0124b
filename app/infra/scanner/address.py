"""CLAMD_ADDRESS, read and judged."""

import re
from dataclasses import dataclass
from typing import Final

from app.settings import SettingsError

_USUAL_PORT: Final = 3310
_LAST_PORT: Final = 65_535
_TCP: Final = re.compile(
    r"tcp://(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?/?"
)
# The kernel takes paths of 107 bytes.
_UNIX: Final = re.compile(r"unix://(?P<path>/[!-~]{1,106})")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str


def read_clamd_address(text: str) -> TcpAddress | UnixAddress:
    """Raises:
    SettingsError: it is neither
    """
    unix, tcp = _UNIX.fullmatch(text), _TCP.fullmatch(text)
    if unix is not None:
        return UnixAddress(unix["path"])
    port = _USUAL_PORT if tcp is None else int(tcp["port"] or _USUAL_PORT)
    if tcp is None or port > _LAST_PORT:
        raise SettingsError(
            ["CLAMD_ADDRESS: write it as tcp://host:3310 or unix:///run/clamav/clamd.ctl"]
        )
    return TcpAddress(tcp["ipv6"] or tcp["host"], port)
