"""Blind indexes: equality look-ups over encrypted columns, keyed by INDEX_KEY.

The key is never derived from MASTER_KEY, so that rotating that one leaves indexes alone, and is in
no database: there are about 10^10 phone numbers, so the key is the whole protection.
"""

import hashlib
import hmac

INDEX_BYTES = 16


class BlindIndex:
    """HMAC-SHA256 cut to 128 bits; each kind of value has a space of its own."""

    def __init__(self, index_key: bytes) -> None:
        self._key = hashlib.sha256(index_key).digest()

    def phone(self, e164: str) -> bytes:
        """`e164`: `+` and digits."""
        return self._digest("phone", e164)

    def phone_prefix(self, prefix: str) -> bytes:
        """The range of numbers that a phone belongs to; see the limits of sign-in."""
        return self._digest("phone_prefix", prefix)

    def name_prefix(self, prefix: str) -> bytes:
        """`prefix`: the folded beginning of a word of a name."""
        return self._digest("name_prefix", prefix)

    def address(self, network: str) -> bytes:
        """`network`: what limits count as one client, see `kernel.addresses`."""
        return self._digest("address", network)

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{value}".encode(), hashlib.sha256)[:INDEX_BYTES]
