"""What a viewer and other people are to each other: contacts and blocks, in both directions."""

from collections.abc import Collection

from sqlalchemy import and_, or_, select

from app.features.users.models import BlockRow, ContactRow
from app.features.users.policy import MYSELF, Relation
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

# SQLite takes 32,766 parameters a statement; each id is two.
_IDS_A_STATEMENT = 5_000


async def load_relations(
    tx: Tx, viewer: UserId, user_ids: Collection[UserId]
) -> dict[UserId, Relation]:
    """One for each id, in two statements; strangers and ids of nobody are all False."""
    ids = sorted(set(user_ids))
    contacts: set[tuple[UserId, UserId]] = set()
    blocks: set[tuple[UserId, UserId]] = set()
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        chunk = ids[start : start + _IDS_A_STATEMENT]
        contacts |= await _find_pairs(tx, ContactRow, viewer=viewer, others=chunk)
        blocks |= await _find_pairs(tx, BlockRow, viewer=viewer, others=chunk)
    return {
        user_id: MYSELF
        if user_id == viewer
        else Relation(
            is_their_contact=(user_id, viewer) in contacts,
            is_my_contact=(viewer, user_id) in contacts,
            is_blocked_by_them=(user_id, viewer) in blocks,
            is_blocked_by_me=(viewer, user_id) in blocks,
        )
        for user_id in ids
    }


async def _find_pairs(
    tx: Tx,
    table: type[ContactRow] | type[BlockRow],
    *,
    viewer: UserId,
    others: Collection[UserId],
) -> set[tuple[UserId, UserId]]:
    """(owner, user) of every row between the viewer and the others."""
    statement = select(table.owner_id, table.user_id).where(
        or_(
            and_(table.owner_id == viewer, table.user_id.in_(others)),
            and_(table.owner_id.in_(others), table.user_id == viewer),
        )
    )
    return {(row.owner_id, row.user_id) for row in await tx.all(statement)}
