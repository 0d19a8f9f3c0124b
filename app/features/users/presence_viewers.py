"""Who is told that a person comes and goes, and when the person was last here."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import bindparam, or_, select, update

from app.features.users.access import load_privacy
from app.features.users.models import BlockRow, ContactRow, UserRow
from app.features.users.policy import MYSELF, Relation, may_see_presence
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

_IDS_A_STATEMENT = 10_000
_SET_LAST_SEEN = (
    update(UserRow)
    .where(
        UserRow.id == bindparam("seen_id"),
        or_(UserRow.last_seen_at.is_(None), UserRow.last_seen_at < bindparam("seen_at")),
    )
    .values(last_seen_at=bindparam("seen_at"))
)


async def list_contact_owners(tx: Tx, user_id: UserId, *, limit: int) -> list[UserId]:
    """Those who keep this person as a contact; the first ones to have done so, at most `limit`."""
    statement = (
        select(ContactRow.owner_id)
        .where(ContactRow.user_id == user_id)
        .order_by(ContactRow.id)
        .limit(limit)
    )
    return list(await tx.scalars(statement))


async def filter_presence_viewers(
    tx: Tx, user_id: UserId, viewers: Collection[UserId]
) -> set[UserId]:
    """Those of `viewers` who may know this person's presence: privacy and blocks applied."""
    privacy = (await load_privacy(tx, [user_id])).get(user_id)
    if privacy is None:
        return set()
    others = sorted(set(viewers) - {user_id})
    contacts: set[UserId] = set()
    blocked: set[UserId] = set()
    for start in range(0, len(others), _IDS_A_STATEMENT):
        chunk = others[start : start + _IDS_A_STATEMENT]
        for table, found in ((ContactRow, contacts), (BlockRow, blocked)):
            statement = select(table.user_id).where(
                table.owner_id == user_id, table.user_id.in_(chunk)
            )
            found.update(await tx.scalars(statement))
    return {
        viewer
        for viewer in set(viewers)
        if may_see_presence(
            privacy,
            MYSELF
            if viewer == user_id
            else Relation(
                is_their_contact=viewer in contacts, is_blocked_by_them=viewer in blocked
            ),
        )
    }


async def record_last_seen(tx: Tx, moments: Mapping[UserId, datetime]) -> None:
    """Move `last_seen_at` forward, never back."""
    rows = [{"seen_id": user_id, "seen_at": moment} for user_id, moment in sorted(moments.items())]
    if rows:
        await tx.execute(_SET_LAST_SEEN, rows)
