"""The format of every stored ciphertext, and the data keys that seal it.

A value is `0x01 | key version (u32, big-endian) | nonce (12) | ciphertext | tag (16)` under
AES-256-GCM. The associated data is `v1|table|column|row id|key version`, and behind it `|revision` once
the row was changed: a value moved to another place does not open, nor does an older one of the same
place. Where encryption is switched off for a class of data the value is `0x00 | plain bytes`, so that
one column holds both while rows are converted.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Protocol, overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.infra.cipher.chunks import ObjectCipher

KEY_BYTES = 32

_PLAIN = 0x00
_SEALED = 0x01
_VERSION_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FINGERPRINT_BYTES = 16
_HEADER_BYTES = 1 + _VERSION_BYTES
_NONCE_END = _HEADER_BYTES + _NONCE_BYTES
_SEALED_BYTES = _NONCE_END + _TAG_BYTES


class CiphertextInvalid(Exception):  # noqa: N818 - says what is found, not what was done
    """A stored value was moved, changed, cut, or belongs to another key. Holds no part of it."""


class Guard(Protocol):
    """What stands behind the keys of an installation."""

    def accepts_plain(self, table: str, column: str) -> bool:
        """Whether values of this column may lie there without a cipher."""
        ...

    def report(self, table: str, column: str, row: int | str) -> None:
        """Hear that a value does not open. Never blocks and never raises."""
        ...


class DataKey:
    """All versions of one owner's key; seals with the newest, opens with the one that the value
    names.
    """

    __slots__ = ("_ciphers", "_fingerprint_keys", "_guard", "_object_secret", "_version", "owner")

    def __init__(
        self,
        owner: str,
        secrets: Mapping[int, bytes],
        *,
        guard: Guard | None = None,
        retired: Mapping[int, bytes] | None = None,
    ) -> None:
        """`secrets`: 32 bytes a version, at least one. The cipher objects are made once: setting
        one up costs more than sealing a message with it. `retired`: the fingerprint keys of
        versions that open nothing any more.
        """
        self.owner = owner
        self._guard = guard
        self._ciphers = {version: AESGCM(secret) for version, secret in secrets.items()}
        self._fingerprint_keys = dict(retired or {}) | {
            version: fingerprint_key(secret) for version, secret in secrets.items()
        }
        self._version = max(self._ciphers)
        # Objects are never written anew, so that what seals them is the first version.
        self._object_secret = secrets[min(secrets)]

    def __repr__(self) -> str:
        return f"DataKey({self.owner!r}, version={self._version})"

    def seal(
        self,
        plaintext: bytes,
        *,
        table: str,
        column: str,
        row_id: int,
        revision: int = 0,
        encrypt: bool = True,
    ) -> bytes:
        """`revision`: see `cipher/revisions.py`."""
        if not encrypt:
            return bytes((_PLAIN,)) + plaintext
        version = self._version
        # A random nonce: below 2^32 values a key the chance of a repeat stays under 2^-32 (NIST SP
        # 800-38D, 8.3).
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[version].encrypt(
            nonce, plaintext, _place(table, column, row_id, version, revision)
        )
        return bytes((_SEALED,)) + version.to_bytes(_VERSION_BYTES, "big") + nonce + sealed

    def open(
        self, value: bytes, *, table: str, column: str, row_id: int, revision: int = 0
    ) -> bytes:
        """What `seal` was given.

        Raises:
            CiphertextInvalid: the value is not the one that this key sealed last for this place.
        """
        try:
            return self._open(value, table, column, row_id, revision)
        except CiphertextInvalid:
            if self._guard is not None:
                self._guard.report(table, column, row_id)
            raise

    def _open(self, value: bytes, table: str, column: str, row_id: int, revision: int) -> bytes:
        form = value[0] if value else None
        if form == _PLAIN and (self._guard is None or self._guard.accepts_plain(table, column)):
            return value[1:]
        if len(value) < _SEALED_BYTES or form != _SEALED:
            raise _invalid(table, column)
        version = int.from_bytes(value[1:_HEADER_BYTES], "big")
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise _invalid(table, column)
        try:
            return cipher.decrypt(
                value[_HEADER_BYTES:_NONCE_END],
                value[_NONCE_END:],
                _place(table, column, row_id, version, revision),
            )
        except InvalidTag:
            raise _invalid(table, column) from None

    @overload
    def seal_text(
        self,
        text: str,
        *,
        table: str,
        column: str,
        row_id: int,
        revision: int = 0,
        encrypt: bool = True,
    ) -> bytes: ...
    @overload
    def seal_text(
        self,
        text: str | None,
        *,
        table: str,
        column: str,
        row_id: int,
        revision: int = 0,
        encrypt: bool = True,
    ) -> bytes | None: ...
    def seal_text(
        self,
        text: str | None,
        *,
        table: str,
        column: str,
        row_id: int,
        revision: int = 0,
        encrypt: bool = True,
    ) -> bytes | None:
        """As `seal`; None stays None."""
        if text is None:
            return None
        return self.seal(
            text.encode(),
            table=table,
            column=column,
            row_id=row_id,
            revision=revision,
            encrypt=encrypt,
        )

    @overload
    def open_text(
        self, value: bytes, *, table: str, column: str, row_id: int, revision: int = 0
    ) -> str: ...
    @overload
    def open_text(
        self, value: bytes | None, *, table: str, column: str, row_id: int, revision: int = 0
    ) -> str | None: ...
    def open_text(
        self, value: bytes | None, *, table: str, column: str, row_id: int, revision: int = 0
    ) -> str | None:
        """As `open`; None stays None."""
        if value is None:
            return None
        plain = self.open(value, table=table, column=column, row_id=row_id, revision=revision)
        return plain.decode()

    def find_text(
        self, value: bytes | None, *, table: str, column: str, row_id: int, revision: int = 0
    ) -> str | None:
        """As `open_text`, but what does not open reads as nothing, and harms nothing beside it."""
        try:
            return self.open_text(
                value, table=table, column=column, row_id=row_id, revision=revision
            )
        except CiphertextInvalid:
            return None

    def object_cipher(self, object_name: str) -> ObjectCipher:
        """For an object of the storage: under a key of its own, derived from this one (RFC 5869)."""
        info = f"v1|object|{object_name}".encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
        guard = self._guard

        def report() -> None:
            if guard is not None:
                guard.report("objects", "bytes", object_name)

        return ObjectCipher(hkdf.derive(self._object_secret), on_invalid=report)

    def fingerprint(self, value: bytes) -> bytes:
        """Tells later whether another value is the same: `key version (u32) | HMAC-SHA256 (16)`.

        Keyed, because a plain hash of a short text can be reversed.
        """
        return self._fingerprint(value, self._version)

    def list_fingerprints(self, value: bytes) -> list[bytes]:
        """Those that were made of `value` under any version of this key, the newest first."""
        versions = sorted(self._fingerprint_keys, reverse=True)
        return [self._fingerprint(value, version) for version in versions]

    def has_fingerprint(self, value: bytes, fingerprint: bytes) -> bool:
        """Whether `fingerprint` was made of `value`, under whichever version of this key."""
        version = int.from_bytes(fingerprint[:_VERSION_BYTES], "big")
        if version not in self._fingerprint_keys:
            return False
        return hmac.compare_digest(self._fingerprint(value, version), fingerprint)

    def _fingerprint(self, value: bytes, version: int) -> bytes:
        digest = hmac.digest(self._fingerprint_keys[version], value, hashlib.sha256)
        return version.to_bytes(_VERSION_BYTES, "big") + digest[:_FINGERPRINT_BYTES]


def fingerprint_key(secret: bytes) -> bytes:
    """What fingerprints are made with under this version of a key."""
    return hmac.digest(secret, b"v1|fingerprint", hashlib.sha256)


def key_version(value: bytes) -> int | None:
    """Under which version of its key a value was sealed; None: under no key."""
    if len(value) < _SEALED_BYTES or value[0] != _SEALED:
        return None
    return int.from_bytes(value[1:_HEADER_BYTES], "big")


def wrap_key(cipher: AESGCM, secret: bytes, *, owner: str, version: int, kek_version: int) -> bytes:
    """A data key under the key-encryption key: `nonce (12) | ciphertext | tag (16)`, bound to its
    row of `keys`.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, secret, _wrapping(owner, version, kek_version))


def unwrap_key(
    cipher: AESGCM, wrapped: bytes, *, owner: str, version: int, kek_version: int
) -> bytes:
    """What `wrap_key` was given.

    Raises:
        CiphertextInvalid: it was wrapped for another row or under another key-encryption key.
    """
    try:
        secret = cipher.decrypt(
            wrapped[:_NONCE_BYTES],
            wrapped[_NONCE_BYTES:],
            _wrapping(owner, version, kek_version),
        )
    except (InvalidTag, ValueError):
        raise _invalid("keys", "wrapped") from None
    return secret


def _place(table: str, column: str, row_id: int, version: int, revision: int) -> bytes:
    place = f"v1|{table}|{column}|{row_id}|{version}"
    return (f"{place}|{revision}" if revision else place).encode()


def _wrapping(owner: str, version: int, kek_version: int) -> bytes:
    return f"v1|keys|{owner}|{version}|{kek_version}".encode()


def _invalid(table: str, column: str) -> CiphertextInvalid:
    return CiphertextInvalid(f"{table}.{column} holds a value that does not open")
