"""CLAMD_ADDRESS: what is understood, and what refuses the start."""

import pytest

from app.infra.scanner.address import TcpAddress, UnixAddress, read_clamd_address
from app.settings import SettingsError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://clamd:3310", TcpAddress("clamd", 3310)),
        ("tcp://clamd.internal", TcpAddress("clamd.internal", 3310)),
        ("tcp://10.0.0.7:65535/", TcpAddress("10.0.0.7", 65535)),
        ("tcp://[::1]:3311", TcpAddress("::1", 3311)),
        ("unix:///run/clamav/clamd.ctl", UnixAddress("/run/clamav/clamd.ctl")),
    ],
)
def test_both_kinds_are_understood(text: str, address: TcpAddress | UnixAddress) -> None:
    assert read_clamd_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "clamd:3310",
        "/run/clamav/clamd.ctl",
        "http://clamd:3310",
        "tcp://",
        "tcp://:3310",
        "tcp://clamd:0",
        "tcp://clamd:65536",
        "tcp://clamd:3310/path",
        "tcp://user:word@clamd:3310",
        "unix://run/clamd.ctl",
        "unix://" + "/x" * 60,
    ],
)
def test_anything_else_is_refused_by_one_sentence(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_clamd_address(text)
    [fault] = caught.value.faults
    assert fault == "CLAMD_ADDRESS: write it as tcp://host:3310 or unix:///run/clamav/clamd.ctl"
