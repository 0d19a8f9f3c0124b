"""Searching what was uploaded for malware, where the settings name a scanner: all its bytes, as they came.

They are read again from where they were stored, and nothing else is: what is kept is what was searched, and nobody's
slow line holds a place at the scanner.
"""

from contextlib import aclosing

import structlog

from app.features.files.bodies import Bodies
from app.features.files.errors import FileInfected
from app.features.files.objects import StoredObject
from app.infra.services import Services
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.problems import FieldError

log = structlog.stdlib.get_logger("app.files")


async def require_scanner(services: Services) -> None:
    """Before anything is taken in, or copied, that could not be searched then.

    Raises:
        ScannerUnavailable: scanner_unavailable
    """
    if services.scanner is not None:
        await services.scanner.check()


async def require_clean(services: Services, owner_id: UserId, stored: StoredObject) -> None:
    """Raises:
    FileInfected: file_infected; recorded
    ScannerUnavailable: scanner_unavailable; also where too many wait for it
    ObjectMissing, ChunkInvalid
    StorageUnavailable: storage_unavailable
    """
    if services.scanner is None:
        return
    if stored.size > services.settings.files.clamd_max_size:
        # CLAMD_ALLOW_LARGER: it would not have been taken else.
        log.info("file_not_searched", size=stored.size)
        return
    bodies = services.rules.one(Bodies)
    async with (
        bodies.scans.take(owner_id),
        aclosing(stored.open(0, stored.size)) as pieces,
    ):
        signature = await services.scanner.find_malware(pieces)
    if signature is None:
        return
    log.warning("file_infected", signature=signature, size=stored.size)
    # As the subject too: a row of several says of its details only what they have in common.
    details = {"signature": signature}
    event = SecurityEvent("malware_found", owner_id, details=details, subject=signature)
    services.events.record(event)
    fault = FieldError("file", "holds something that is known as harmful")
    raise FileInfected(errors=[fault])
