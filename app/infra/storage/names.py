"""What names of objects look like: one path part, so that no name leads out of the storage."""

import re

# Written and deleted at each start, to see whether the storage serves.
CHECK_PREFIX = "check-"
MARKER = "installation-of-this-storage"
"""The one object that is no file: it says whose storage this is."""

_NAME = re.compile(r"[A-Za-z0-9_-]{16,128}")


def require_name(name: str) -> str:
    """The name itself; raises ValueError for one that the server never makes."""
    if not _NAME.fullmatch(name):
        msg = "names of objects are 16 to 128 of the letters of base64url"
        raise ValueError(msg)
    return name


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None
