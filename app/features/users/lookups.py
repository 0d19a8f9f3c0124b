"""The daily budget of phone numbers an account may ask about, by import and search together.

Without it anyone could walk through all numbers and learn who has an account (arXiv 2511.20252).
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select

from app.features.users.errors import LookupsExhausted
from app.features.users.models import ContactRow, PhoneLookupRow, UserRow
from app.infra.database.tx import Tx
from app.kernel.clock import to_milliseconds
from app.kernel.ids import UserId

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an account may still look up before midnight; `new`: what this call took of it."""

    per_day: int
    left: int
    reset_seconds: int
    new: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11)."""
        return {
            "RateLimit-Policy": f'"lookups";q={self.per_day};w={_DAY_SECONDS}',
            "RateLimit": f'"lookups";r={self.left};t={self.reset_seconds}',
        }


async def spend_lookups(
    tx: Tx, user_id: UserId, *, phone_indexes: Collection[bytes], per_day: int
) -> Budget:
    """Count the numbers that are new to this account today; numbers of contacts are not news.

    Numbers count alike whether or not somebody has them. Days are UTC.

    Raises:
        lookups_exhausted: all of them together are too many; none was counted.
    """
    await tx.lock_names([f"lookups:{user_id}"])
    day, second = divmod(to_milliseconds(tx.now) // 1000, _DAY_SECONDS)
    await tx.execute(
        delete(PhoneLookupRow).where(PhoneLookupRow.user_id == user_id, PhoneLookupRow.day < day)
    )
    new = set(phone_indexes) - await _find_known(tx, user_id, day, phone_indexes)
    spent = await tx.scalar(
        select(func.count())
        .select_from(PhoneLookupRow)
        .where(PhoneLookupRow.user_id == user_id, PhoneLookupRow.day == day)
    )
    left = per_day - (spent or 0)
    if len(new) > left:
        refused = Budget(per_day=per_day, left=max(0, left), reset_seconds=_DAY_SECONDS - second)
        raise LookupsExhausted(retry_after=refused.reset_seconds, headers=refused.headers)
    if new:
        rows = [{"user_id": user_id, "day": day, "phone_index": value} for value in sorted(new)]
        await tx.execute(insert(PhoneLookupRow), rows)
    return Budget(
        per_day=per_day, left=left - len(new), reset_seconds=_DAY_SECONDS - second, new=len(new)
    )


async def _find_known(
    tx: Tx, user_id: UserId, day: int, phone_indexes: Collection[bytes]
) -> set[bytes]:
    """Asked about today already, or the number of a contact."""
    asked = await tx.scalars(
        select(PhoneLookupRow.phone_index).where(
            PhoneLookupRow.user_id == user_id,
            PhoneLookupRow.day == day,
            PhoneLookupRow.phone_index.in_(phone_indexes),
        )
    )
    contacts = await tx.scalars(
        select(UserRow.phone_index)
        .join(ContactRow, ContactRow.user_id == UserRow.id)
        .where(ContactRow.owner_id == user_id, UserRow.phone_index.in_(phone_indexes))
    )
    return {value for value in (*asked, *contacts) if value is not None}
