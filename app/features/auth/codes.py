"""Sign-in codes: six digits from a CSPRNG, stored only as a slow hash under a key."""

import base64
import hashlib
import hmac
import secrets

from app.infra.cipher.keyring import Keyring
from app.infra.hashing import SlowHasher

CODE_LENGTH = 6
_ID_BYTES = 24


def new_code() -> str:
    return f"{secrets.randbelow(10**CODE_LENGTH):0{CODE_LENGTH}d}"


def new_verification_id() -> str:
    return secrets.token_urlsafe(_ID_BYTES)


class CodeHasher:
    """bcrypt over HMAC(key, verification_id | code). There are a million codes: without the key,
    which is in no database, the hash tells nothing; with it, the cost of bcrypt still slows the
    search.
    """

    def __init__(self, keyring: Keyring, hasher: SlowHasher) -> None:
        self._key = keyring.derive("sign-in-codes")
        self._hasher = hasher

    async def hash(self, verification_id: str, code: str) -> bytes:
        return await self._hasher.hash(self._digest(verification_id, code))

    async def matches(self, verification_id: str, code: str, hashed: bytes) -> bool:
        return await self._hasher.matches(self._digest(verification_id, code), hashed)

    def _digest(self, verification_id: str, code: str) -> bytes:
        message = f"{verification_id}|{code}".encode()
        return base64.b64encode(hmac.digest(self._key, message, hashlib.sha256))
