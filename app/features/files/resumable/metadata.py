"""`Upload-Metadata`: what a client says about the bytes. Kept as it was sent, for it asks for it again."""

import re
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers

from app.features.files.policy import Purpose
from app.features.files.resumable.protocol import decode_base64, invalid

# 10,000 letters of a name, as base64.
MAX_CHARACTERS: Final = 16_384
_MAX_KEYS: Final = 32
_KEY: Final = re.compile(r"[!-+\--~]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Metadata:
    """`raw` is the header. Its `filetype` decides nothing: the bytes do."""

    raw: str
    filename: str
    purpose: Purpose


def find_metadata(headers: Headers) -> Metadata:
    """Raises:
    UploadHeaderInvalid: upload_header_invalid
    """
    values = headers.getlist("upload-metadata")
    if len(values) > 1:
        raise invalid("Upload-Metadata is given twice")
    return parse_metadata(values[0] if values else "")


def parse_metadata(raw: str) -> Metadata:
    """As above."""
    if len(raw) > MAX_CHARACTERS:
        raise invalid("Upload-Metadata is too long")
    values = _parse_pairs(raw)
    name = values.get("filename", b"")
    try:
        filename = name.decode()
    except UnicodeDecodeError:
        raise invalid("The filename in Upload-Metadata is not UTF-8") from None
    return Metadata(raw, filename, _find_purpose(values.get("purpose", b"")))


def _parse_pairs(raw: str) -> dict[str, bytes]:
    """`key base64,key base64,key`: each key once; one without a value has an empty one."""
    values: dict[str, bytes] = {}
    pairs = raw.split(",") if raw.strip() else []
    if len(pairs) > _MAX_KEYS:
        raise invalid("Upload-Metadata has too many keys")
    for pair in pairs:
        key, _, encoded = pair.strip(" ").partition(" ")
        value = decode_base64(encoded)
        if not _KEY.fullmatch(key) or key in values or value is None:
            raise invalid("Upload-Metadata must be keys, each once, with values in base64")
        values[key] = value
    return values


def _find_purpose(value: bytes) -> Purpose:
    if not value:
        return Purpose.ATTACHMENT
    try:
        return Purpose(value.decode("ascii"))
    except ValueError:
        raise invalid("The purpose in Upload-Metadata is not known") from None
