"""Whether the scanner may be relied on, asked at the start."""

import structlog

from app.infra.scanner.choose import choose_scanner
from app.infra.scanner.port import ScannerUnavailable
from app.settings import FileSettings

log = structlog.stdlib.get_logger("app.start")


async def list_scanner_faults(files: FileSettings, *, must_answer: bool = False) -> list[str]:
    """One that does not answer refuses no start unless it `must_answer`: people can talk without it, and it may come
    back.
    """
    scanner = choose_scanner(files)
    if scanner is None:
        return []
    try:
        await scanner.check()
    except ScannerUnavailable:
        if must_answer:
            return ["CLAMD_ADDRESS: clamd does not answer"]
        log.warning("scanner_silent", variable="CLAMD_ADDRESS")
    return []
