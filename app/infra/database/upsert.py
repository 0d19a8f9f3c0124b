"""INSERT ... ON CONFLICT, which both databases know and SQLAlchemy spells twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite

from app.infra.database.tables import Row
from app.infra.database.tx import Tx

# SQLite takes 32,766 parameters a statement; the widest table has under 32 columns.
_ROWS_A_STATEMENT = 500


async def insert_ignore(
    tx: Tx,
    row_class: type[Row],
    rows: Sequence[Mapping[str, object]],
    *,
    index: Sequence[str],
) -> int:
    """Insert the rows whose key `index` is not taken; the others stay as they are.

    Returns:
        How many were inserted.
    """
    inserted = 0
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        chunk = [dict(row) for row in rows[start : start + _ROWS_A_STATEMENT]]
        statement = (
            _insert(tx, row_class).values(chunk).on_conflict_do_nothing(index_elements=list(index))
        )
        inserted += max(0, await tx.execute(statement))
    return inserted


async def upsert(
    tx: Tx,
    row_class: type[Row],
    rows: Sequence[Mapping[str, object]],
    *,
    index: Sequence[str],
    update: Sequence[str],
) -> None:
    """Insert the rows; where the key `index` is taken, set the columns `update` to the new values."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        chunk = [dict(row) for row in rows[start : start + _ROWS_A_STATEMENT]]
        statement = _insert(tx, row_class).values(chunk)
        changes = {name: statement.excluded[name] for name in update}
        await tx.execute(statement.on_conflict_do_update(index_elements=list(index), set_=changes))


def _insert(tx: Tx, row_class: type[Row]) -> Any:
    return postgresql.insert(row_class) if tx.dialect == "postgresql" else sqlite.insert(row_class)
