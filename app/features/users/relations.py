"""What a viewer and other people are to each other: contacts and blocks, in both directions."""

from collections.abc import Collection

from sqlalchemy import BigInteger, Select, and_, or_, select

from app.features.users.models import BlockRow, ContactRow
from app.features.users.policy import MYSELF, Relation
from app.infra.database.key_lists import KeyList, by_dialect, key_parameters
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import UserId

# SQLite takes 32,766 parameters a statement; each id is two.
_IDS_A_STATEMENT = 5_000

Pair = tuple[UserId, UserId]
"""(owner, user) of a contact or a block; (viewer, person) of a relation."""


def _of_pairs(dialect: Dialect, table: type[ContactRow] | type[BlockRow]) -> Select[UserId, UserId]:
    keys = KeyList(dialect, BigInteger, BigInteger)
    owner_id, user_id = keys.columns
    return select(table.owner_id, table.user_id).join(
        keys.table, and_(table.owner_id == owner_id, table.user_id == user_id)
    )


_CONTACTS_OF_PAIRS = by_dialect(lambda dialect: _of_pairs(dialect, ContactRow))
_BLOCKS_OF_PAIRS = by_dialect(lambda dialect: _of_pairs(dialect, BlockRow))


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
    return {user_id: _relate((viewer, user_id), contacts, blocks) for user_id in ids}


async def load_relations_of_pairs(tx: Tx, pairs: Collection[Pair]) -> dict[Pair, Relation]:
    """As `load_relations` for many viewers at once: one for each (viewer, person), in two statements."""
    if not pairs:
        return {}
    keys = key_parameters(tx.dialect, [*pairs, *((person, viewer) for viewer, person in pairs)])
    contacts = {
        (row.owner_id, row.user_id) for row in await tx.all(_CONTACTS_OF_PAIRS[tx.dialect], keys)
    }
    blocks = {
        (row.owner_id, row.user_id) for row in await tx.all(_BLOCKS_OF_PAIRS[tx.dialect], keys)
    }
    return {pair: _relate(pair, contacts, blocks) for pair in pairs}


def _relate(pair: Pair, contacts: Collection[Pair], blocks: Collection[Pair]) -> Relation:
    viewer, person = pair
    if viewer == person:
        return MYSELF
    return Relation(
        is_their_contact=(person, viewer) in contacts,
        is_my_contact=(viewer, person) in contacts,
        is_blocked_by_them=(person, viewer) in blocks,
        is_blocked_by_me=(viewer, person) in blocks,
    )


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
