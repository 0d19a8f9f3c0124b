"""The daily budget of phone numbers an account may ask about, by import and search together.

Without it anyone could walk through all numbers and learn who has an account (arXiv 2511.20252).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ScalarSelect, delete, func, insert, select

from app.features.users.errors import LookupsExhausted
from app.features.users.models import (
    ContactRow,
    PhoneLookupRow,
    SpentLookupsRow,
    UserRow,
)
from app.infra.cipher.blind_index import BlindIndex
from app.infra.database.database import Database
from app.infra.database.prune import prune_rows
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
    tx: Tx, index: BlindIndex, *, user_id: UserId, phones: Collection[str], per_day: int
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
    # A day's rows stay under one key, also while it is being changed.
    wanted = {digest: index.phone(phone) for phone in phones for digest in index.phones(phone)}
    new = set(wanted.values()) - await _find_known(tx, user_id, day, wanted)
    before = (
        select(SpentLookupsRow.spent)
        .join(UserRow, UserRow.phone_index == SpentLookupsRow.owner_index)
        .where(UserRow.id == user_id, SpentLookupsRow.day == day)
        .scalar_subquery()
    )
    left = per_day - (await tx.scalar(select(_count(user_id, day) + func.coalesce(before, 0))) or 0)
    if len(new) > left:
        refused = Budget(per_day=per_day, left=max(0, left), reset_seconds=_DAY_SECONDS - second)
        raise LookupsExhausted(retry_after=refused.reset_seconds, headers=refused.headers)
    if new:
        rows = [{"user_id": user_id, "day": day, "phone_index": value} for value in sorted(new)]
        await tx.execute(insert(PhoneLookupRow), rows)
    return Budget(
        per_day=per_day, left=left - len(new), reset_seconds=_DAY_SECONDS - second, new=len(new)
    )


async def leave_spent(tx: Tx, *, user_id: UserId, phone_index: bytes) -> None:
    """The account goes; whoever signs up with its number today goes on with what is left of the budget."""
    day = _day(tx.now)
    mine = SpentLookupsRow.owner_index == phone_index
    before = select(SpentLookupsRow.spent).where(mine, SpentLookupsRow.day == day).scalar_subquery()
    spent = await tx.scalar(select(_count(user_id, day) + func.coalesce(before, 0)))
    await tx.execute(delete(SpentLookupsRow).where(mine))
    if spent:
        row = {"owner_index": phone_index, "day": day, "spent": spent}
        await tx.execute(insert(SpentLookupsRow), [row])


async def forget_spent(db: Database) -> None:
    """What was spent on days that are over counts for nothing any more."""
    await prune_rows(db, SpentLookupsRow, lambda now: SpentLookupsRow.day < _day(now))


def _day(now: datetime) -> int:
    """Days since 1970, in UTC."""
    return to_milliseconds(now) // 1000 // _DAY_SECONDS


def _count(user_id: UserId, day: int) -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(PhoneLookupRow)
        .where(PhoneLookupRow.user_id == user_id, PhoneLookupRow.day == day)
        .scalar_subquery()
    )


async def _find_known(
    tx: Tx, user_id: UserId, day: int, wanted: Mapping[bytes, bytes]
) -> set[bytes]:
    """Asked about today already, or the number of a contact. `wanted`: by which digest a number is counted
    that has the digest under any key.
    """
    asked = await tx.scalars(
        select(PhoneLookupRow.phone_index).where(
            PhoneLookupRow.user_id == user_id,
            PhoneLookupRow.day == day,
            PhoneLookupRow.phone_index.in_(set(wanted.values())),
        )
    )
    contacts = await tx.scalars(
        select(UserRow.phone_index)
        .join(ContactRow, ContactRow.user_id == UserRow.id)
        .where(ContactRow.owner_id == user_id, UserRow.phone_index.in_(wanted))
    )
    return {*asked, *(wanted[value] for value in contacts if value is not None)}
