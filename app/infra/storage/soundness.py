"""Whether the storage may be relied on, asked at the start."""

from typing import Final

import structlog

from app.infra.storage.choose import choose_storage
from app.infra.storage.port import StorageFull, StorageUnavailable
from app.settings import Settings, SettingsError

_SILENT: Final = "the file storage does not answer"

log = structlog.stdlib.get_logger("app.start")


async def list_storage_faults(settings: Settings, *, must_answer: bool = False) -> list[str]:
    """What only the storage itself tells, one sentence each: that it is missing, or refuses us. Whether
    the settings can be read is told by others.

    One that does not answer, or is full, refuses no start unless it `must_answer`: people can talk
    without it, and it may come back.
    """
    storage = choose_storage(settings)
    variable = "STORAGE_URL" if settings.files.storage_url else "VAR_DIR"
    try:
        await storage.check()
    except SettingsError as error:
        return error.faults
    except StorageUnavailable:
        if must_answer:
            return [f"{variable}: {_SILENT}"]
        log.warning("storage_silent", variable=variable)
    except StorageFull:
        if must_answer:
            return [f"{variable}: the file storage is full"]
        log.warning("storage_full", variable=variable)
    finally:
        await storage.close()
    return []
