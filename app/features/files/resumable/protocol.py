"""What the headers of tus 1.0 mean (https://tus.io/protocols/resumable-upload), read strictly."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers

from app.features.files.resumable.errors import TusVersionUnsupported, UploadHeaderInvalid
from app.kernel.ids import MAX_ID
from app.kernel.problems import UnsupportedMediaType
from app.transport.http.routing import CLOSE

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "termination",
    "checksum",
    "expiration",
)
BODY_TYPE: Final = "application/offset+octet-stream"

_ALGORITHMS: Final[Mapping[str, Callable[[], Any]]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}
ALGORITHMS: Final = tuple(_ALGORITHMS)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_CHECKSUM: Final = re.compile(r"([a-z0-9]{1,16}) ([A-Za-z0-9+/]{1,128}={0,2})", re.ASCII)


class Checksum:
    """What a body is announced to be; it is fed with the bytes as they were sent."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._digest = _ALGORITHMS[algorithm]()
        self._expected = expected

    def update(self, piece: bytes) -> None:
        self._digest.update(piece)

    def is_met(self) -> bool:
        return hmac.compare_digest(self._digest.digest(), self._expected)


def require_version(headers: Headers) -> None:
    """Raises:
    TusVersionUnsupported: tus_version_unsupported
    """
    if headers.getlist("tus-resumable") != [VERSION]:
        raise TusVersionUnsupported(headers={"Tus-Version": VERSION, **CLOSE})


def has_body(headers: Headers) -> bool:
    """Whether one is offered, were it empty in the end."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def require_body_type(headers: Headers) -> None:
    """Raises:
    UnsupportedMediaType: unsupported_media_type
    """
    declared = [value.strip().lower() for value in headers.getlist("content-type")]
    if declared != [BODY_TYPE]:
        raise UnsupportedMediaType(f"The body must be {BODY_TYPE}", headers=CLOSE)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed", headers=CLOSE)


def find_number(headers: Headers, name: str) -> int | None:
    """A number of bytes.

    Raises:
        UploadHeaderInvalid: upload_header_invalid
    """
    values = headers.getlist(name)
    if not values:
        return None
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]) or int(values[0]) > MAX_ID:
        raise invalid(f"{name} must be one number of bytes")
    return int(values[0])


def find_length(headers: Headers) -> int | None:
    """Of a new upload; None: it will be told later.

    Raises:
        UploadHeaderInvalid: upload_header_invalid
    """
    length = find_number(headers, "Upload-Length")
    deferred = headers.getlist("upload-defer-length")
    if deferred not in ([], ["1"]) or (length is None) != bool(deferred):
        raise invalid("Either Upload-Length or Upload-Defer-Length: 1 is needed")
    if "upload-concat" in headers:
        raise invalid("Upload-Concat is not known here")
    return length


def find_checksum(headers: Headers) -> Checksum | None:
    """Raises:
    UploadHeaderInvalid: upload_header_invalid
    """
    values = headers.getlist("upload-checksum")
    if not values:
        return None
    match = _CHECKSUM.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match[1] not in _ALGORITHMS:
        raise invalid(f"Upload-Checksum must be one of {', '.join(ALGORITHMS)} and a digest")
    digest = decode_base64(match[2])
    if digest is None or len(digest) != _ALGORITHMS[match[1]]().digest_size:
        raise invalid("Upload-Checksum holds no digest of this algorithm")
    return Checksum(match[1], digest)


def decode_base64(text: str) -> bytes | None:
    """What it stands for, if it is padded base64 (RFC 4648 section 4) and nothing else."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def invalid(detail: str) -> UploadHeaderInvalid:
    return UploadHeaderInvalid(detail, headers=CLOSE)
