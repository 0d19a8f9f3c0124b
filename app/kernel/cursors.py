"""Opaque, signed list cursors: a client can neither read meaning into one nor make one up."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import cast

from app.kernel.problems import FieldError, Invalid, JsonScalar

_TAG_BYTES = 12
_MAX_LENGTH = 512


class CursorInvalid(Invalid):
    code = "cursor_invalid"
    title = "The cursor is not one of ours"

    def __init__(self) -> None:
        super().__init__(errors=[FieldError("cursor", self.title)])


class CursorCodec:
    """Encodes the sort key of the last item of a page; `secret` is at least 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def encode(self, purpose: str, position: Sequence[JsonScalar]) -> str:
        """`purpose` names the list, so that a cursor of one list is refused by every other."""
        body = json.dumps(list(position), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._tag(purpose, body) + body).decode().rstrip("=")

    def decode(self, purpose: str, cursor: str) -> list[JsonScalar]:
        """The position that `encode` was given.

        Raises:
            CursorInvalid: it was not made by us for this list.
        """
        try:
            if len(cursor) > _MAX_LENGTH:
                raise CursorInvalid
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (binascii.Error, ValueError) as error:
            raise CursorInvalid from error
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(purpose, body)):
            raise CursorInvalid
        return cast("list[JsonScalar]", json.loads(body))

    def _tag(self, purpose: str, body: bytes) -> bytes:
        message = purpose.encode() + b"\0" + body
        return hmac.digest(self._secret, message, hashlib.sha256)[:_TAG_BYTES]
