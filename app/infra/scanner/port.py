"""Who is asked whether the bytes of a file are known as malware. Nothing that was not answered counts as clean."""

from collections.abc import AsyncIterable
from typing import Final, Protocol

from app.kernel.problems import Unavailable

# Asking again sooner finds it as it was.
RETRY_SECONDS: Final = 5


class ScannerUnavailable(Unavailable):
    """The scanner does not answer, not in time, or not whether the file is clean. Nothing was kept unsearched."""

    code = "scanner_unavailable"
    title = "Files cannot be searched for malware at the moment, try again later"


class Scanner(Protocol):
    """Adapter: `clamd.py`."""

    async def check(self) -> None:
        """Whether it answers, within a few seconds.

        Raises:
            ScannerUnavailable: scanner_unavailable
        """
        ...

    async def find_malware(self, pieces: AsyncIterable[bytes]) -> str | None:
        """The name of what is found in all of these bytes; None: nothing is. In constant memory. May leave off reading
        them.

        Raises:
            ScannerUnavailable: scanner_unavailable
        """
        ...
