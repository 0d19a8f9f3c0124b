"""What `obstore` says in words, as what our callers can act on. Its words stay here: they hold addresses."""

import re
from typing import Final

import structlog

from app.infra.storage.port import RETRY_SECONDS, StorageFull, StorageUnavailable

# As MinIO, Ceph, Garage and others say that nothing more fits.
_FULL: Final = re.compile(
    r"<Code>(?:\w*StorageFull|\w*QuotaExceeded|InsufficientCapacity|InsufficientStorage)</Code>"
    r"|status(?: code)?:? 507"
)
_STATUS: Final = re.compile(r"status(?: code)?:? ([1-5][0-9]{2})\b")
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
# Refusals that pass by themselves.
_PASSING: Final = frozenset({"408", "425", "429"})

log = structlog.stdlib.get_logger("app.storage")


def translate(
    error: BaseException, *, is_writing: bool = False
) -> StorageFull | StorageUnavailable:
    """The problem of a request that failed, logged."""
    text = str(error)
    reason = _find(_CODE, text) or _find(_STATUS, text) or type(error).__name__
    if is_writing and _FULL.search(text):
        log.warning("storage_full", reason=reason)
        return StorageFull()
    log.warning("storage_failed", reason=reason)
    return StorageUnavailable(retry_after=RETRY_SECONDS)


def is_without_bucket(error: BaseException) -> bool:
    """Whether a 404 is about the bucket: then nothing is known of the object."""
    return "<Code>NoSuchBucket</Code>" in str(error)


def is_past_end(error: BaseException | None) -> bool:
    """Whether a range begins where the object has ended; an empty one has no ranges at all."""
    return _find(_STATUS, str(error)) == "416"


def find_refusal(error: BaseException | None) -> str | None:
    """Why the store will go on refusing us, in its own word: its S3 code, else the status."""
    text = str(error)
    status = _find(_STATUS, text)
    if status is None or not status.startswith("4") or status in _PASSING:
        return None
    return _find(_CODE, text) or status


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None
