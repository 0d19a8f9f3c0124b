"""How often a second factor may be guessed.

Nobody gets to guess without the phone's code or a session, and each `password_token` takes five
tries. Behind these stand counts over the account:

- signing in: from one address 10 wrong tries a day; from all addresses together 30, but addresses
  from which the owner proved the factor before are left out of that. So whoever holds the phone
  number for a while can use up the strangers' share, and never the owner's own;
- confirming in a session: 5 wrong tries in 15 minutes and 20 a day, each session for itself.

A six-digit code that changes every 30 s holds against 30 tries a day: once in 30 years.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update

from app.features.auth.models import FactorTryRow
from app.infra.database.tx import Tx
from app.kernel.ids import SessionId, UserId
from app.kernel.problems import RateLimited

TRIES_A_TOKEN = 5
TRIES_AN_ADDRESS_A_DAY = 10
TRIES_OF_STRANGERS_A_DAY = 30
TRIES_A_SESSION = 5
TRIES_A_SESSION_A_DAY = 20
# A proof makes an address known for this long; see also the pruning of rows.
KNOWN_FOR = timedelta(days=90)

_DAY = timedelta(days=1)
_SESSION_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who tries: an address, as a blind index, and the session if there is one."""

    address_index: bytes
    session_id: SessionId | None = None


async def take_try(tx: Tx, *, user_id: UserId, asker: Asker) -> int:
    """Count one more try as wrong before it is looked at; the lock of the user's scope is held.

    Returns:
        Its id, for `mark_right` or `give_back`.

    Raises:
        RateLimited
    """
    for counted, limit, window in await _list_rules(tx, user_id, asker):
        await _check(tx, counted, limit=limit, window=window)
    try_id = (await tx.reserve_ids(FactorTryRow, 1))[0]
    await tx.execute(
        insert(FactorTryRow).values(
            id=try_id,
            user_id=user_id,
            address_index=asker.address_index,
            session_id=asker.session_id,
            was_right=False,
            created_at=tx.now,
        )
    )
    return try_id


async def mark_right(tx: Tx, try_id: int) -> None:
    await tx.execute(update(FactorTryRow).where(FactorTryRow.id == try_id).values(was_right=True))


async def give_back(tx: Tx, try_id: int) -> None:
    """It was never looked at."""
    await tx.execute(delete(FactorTryRow).where(FactorTryRow.id == try_id))


_Rule = tuple[ColumnElement[bool], int, timedelta]


async def _list_rules(tx: Tx, user_id: UserId, asker: Asker) -> Sequence[_Rule]:
    row = FactorTryRow
    mine = row.user_id == user_id
    if asker.session_id is not None:
        here = mine & (row.session_id == asker.session_id)
        return [
            (here, TRIES_A_SESSION, _SESSION_WINDOW),
            (here, TRIES_A_SESSION_A_DAY, _DAY),
        ]
    signing_in = mine & row.session_id.is_(None)
    from_here = row.address_index == asker.address_index
    rules: list[_Rule] = [(signing_in & from_here, TRIES_AN_ADDRESS_A_DAY, _DAY)]
    is_known = await tx.scalar(
        select(
            exists().where(
                mine, from_here, row.was_right.is_(True), row.created_at > tx.now - KNOWN_FOR
            )
        )
    )
    if not is_known:
        rules.append((signing_in, TRIES_OF_STRANGERS_A_DAY, _DAY))
    return rules


async def _check(tx: Tx, counted: ColumnElement[bool], *, limit: int, window: timedelta) -> None:
    """The newest `limit` wrong tries decide: with the oldest of them the next place comes free."""
    newest = (
        select(FactorTryRow.created_at)
        .where(
            counted, FactorTryRow.was_right.is_(False), FactorTryRow.created_at > tx.now - window
        )
        .order_by(FactorTryRow.created_at.desc())
        .limit(limit)
        .subquery()
    )
    row = await tx.first(select(func.count(), func.min(newest.c.created_at)))
    used, oldest = row or (0, None)
    if used >= limit and oldest is not None:
        raise RateLimited(
            "Too many wrong tries at the second factor",
            retry_after=_seconds_until(oldest + window, tx.now),
        )


def _seconds_until(moment: datetime, now: datetime) -> int:
    return max(1, math.ceil((moment - now).total_seconds()))
