"""How many bodies of files a worker has under way: each of them holds memory, or somebody else's attention, for as long
as it takes.
"""

from dataclasses import dataclass

from app.features.files.errors import DownloadsBusy, TooManyDownloads
from app.infra.scanner.port import RETRY_SECONDS as SCAN_RETRY_SECONDS
from app.infra.scanner.port import ScannerUnavailable
from app.kernel.places import Places
from app.kernel.rules import Rules
from app.settings import FileSettings

_RETRY_SECONDS = 5
# Of one account so few that its archives, which take clamd minutes, leave places to the others.
_SCANS_EACH = 3
# clamd works on 10 at a time by itself.
_SCANS_IN_ALL = 8
# An album of large films is sent at once.
_SCAN_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bodies:
    """The places of this worker."""

    downloads: Places
    scans: Places


def register_bodies(rules: Rules, files: FileSettings) -> None:
    downloads = Places(
        per_owner=files.max_downloads,
        in_all=files.worker_downloads,
        refuse_owner=lambda: TooManyDownloads(retry_after=_RETRY_SECONDS),
        refuse_all=lambda: DownloadsBusy(retry_after=_RETRY_SECONDS),
    )
    scans = Places(
        per_owner=_SCANS_EACH,
        in_all=_SCANS_IN_ALL,
        refuse_owner=lambda: ScannerUnavailable(retry_after=SCAN_RETRY_SECONDS),
        refuse_all=lambda: ScannerUnavailable(retry_after=SCAN_RETRY_SECONDS),
        patience_seconds=_SCAN_PATIENCE_SECONDS,
    )
    rules.register(Bodies, Bodies(downloads, scans))
