"""The scanner that the settings name."""

from app.infra.scanner.address import read_clamd_address
from app.infra.scanner.clamd import Clamd
from app.infra.scanner.port import Scanner
from app.settings import FileSettings


def choose_scanner(files: FileSettings) -> Scanner | None:
    """The clamd of CLAMD_ADDRESS; None: nobody is asked.

    Raises:
        SettingsError: CLAMD_ADDRESS is wrong
    """
    if files.clamd_address is None:
        return None
    address = read_clamd_address(files.clamd_address)
    return Clamd(address, answer_seconds=files.clamd_timeout_seconds)
