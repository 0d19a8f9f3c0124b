"""Recovery codes: ten slips of paper that stand in for the second factor, each once.

120 random bits each, so a plain hash is enough (OWASP ASVS 5.0, 6.5.2).
"""

import base64
import hashlib
import secrets

from sqlalchemy import delete, func, insert, select

from app.features.auth.models import RecoveryCodeRow
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

COUNT = 10
PATTERN = r"^[A-Za-z2-7]{4}(-?[A-Za-z2-7]{4}){5}$"

_RANDOM_BYTES = 15
_GROUP = 4


async def replace_recovery_codes(tx: Tx, user_id: UserId) -> list[str]:
    """New codes; the old ones are worth nothing any more. Nobody can read them again."""
    await delete_recovery_codes(tx, user_id)
    codes = [_new_code() for _ in range(COUNT)]
    await tx.execute(
        insert(RecoveryCodeRow),
        [{"hash": _hash(user_id, code), "user_id": user_id} for code in codes],
    )
    return codes


async def delete_recovery_codes(tx: Tx, user_id: UserId) -> None:
    await tx.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.user_id == user_id))


async def count_recovery_codes(tx: Tx, user_id: UserId) -> int:
    statement = select(func.count()).where(RecoveryCodeRow.user_id == user_id)
    return await tx.scalar(statement) or 0


async def use_recovery_code(tx: Tx, user_id: UserId, code: str) -> bool:
    """Whether it was one of the person's, which it is no more."""
    used = delete(RecoveryCodeRow).where(RecoveryCodeRow.hash == _hash(user_id, code))
    return await tx.execute(used) == 1


def _new_code() -> str:
    code = base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode().lower()
    return "-".join(code[start : start + _GROUP] for start in range(0, len(code), _GROUP))


def _hash(user_id: UserId, code: str) -> bytes:
    """Of what people type: hyphens and case do not count."""
    plain = code.replace("-", "").lower()
    return hashlib.sha256(f"v1|recovery|{user_id}|{plain}".encode()).digest()
