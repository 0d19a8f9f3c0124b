"""Second passwords: which may be chosen, and how they are stored.

bcrypt looks at 72 bytes and stops at a zero byte, so it is given an HMAC of the password. What it
makes is then sealed under the person's key: whoever steals the database has no hashes to try, and
destroying the key destroys the password. A pepper made of MASTER_KEY would do the first as well,
but changing that key would lock everybody out.
"""

import base64
import hashlib
import hmac
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from app.features.auth.errors import PasswordTooCommon
from app.infra.hashing import HashingBusy, SlowHasher
from app.kernel.ids import UserId
from app.kernel.problems import FieldError

MIN_LENGTH = 8
MAX_LENGTH = 128

# One thread and a short queue: a hash takes a third of a second, and whoever would wait for long
# had better come again.
HASHING_THREADS = 1
MAX_WAITING = 30
# Tries at a password are counted; choosing one is not, so nobody fills the queue by that.
_CHOICES_AT_ONCE = 2

_COMMON = Path(__file__).with_name("common_passwords.txt")
_SERVICE_WORDS = ("messenger", "telegram", "password")
_PADDING = "0123456789!?#$%&*+-_.@ "


class PasswordHasher:
    """Hashes and compares. Lengths count characters; no other rule of composition holds, and no
    password is changed before it is hashed.
    """

    def __init__(self, hasher: SlowHasher) -> None:
        self._hasher = hasher
        self._choosing: Counter[UserId] = Counter()
        self._common = _read_common()

    async def hash_new(
        self, password: str, *, user_id: UserId, personal_words: Collection[str]
    ) -> bytes:
        """The hash of a password that is chosen now. `personal_words`: the owner's names and phone.

        Raises:
            password_too_common
            hashing_busy: also for the third choice of one person at a time.
        """
        digest = self._read(password, user_id, personal_words)
        if self._choosing[user_id] >= _CHOICES_AT_ONCE:
            raise HashingBusy(retry_after=1)
        self._choosing[user_id] += 1
        try:
            return await self._hasher.hash(digest)
        finally:
            self._choosing[user_id] -= 1
            if not self._choosing[user_id]:
                del self._choosing[user_id]

    async def matches(self, password: str, *, user_id: UserId, hashed: bytes) -> bool:
        """Whether `hash_new` made `hashed` of it. Raises hashing_busy."""
        return await self._hasher.matches(self._read(password, user_id), hashed)

    def _read(
        self, password: str, user_id: UserId, personal_words: Collection[str] | None = None
    ) -> bytes:
        """The one place that looks at a plain second password."""
        if personal_words is not None:
            self._refuse_common(password.casefold(), personal_words)
        message = password.encode("utf-8", "surrogatepass")
        digest = hmac.digest(f"v1|two-step|{user_id}".encode(), message, hashlib.sha256)
        return base64.b64encode(digest)

    def _refuse_common(self, password: str, personal_words: Collection[str]) -> None:
        words = {word.casefold() for word in (*personal_words, *_SERVICE_WORDS)}
        if password in self._common or {password, password.strip(_PADDING)} & words:
            message = "is among the first that anybody would try"
            raise PasswordTooCommon(errors=[FieldError("password", message)])


def _read_common() -> frozenset[str]:
    lines = _COMMON.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line != "#" and not line.startswith("# "))
