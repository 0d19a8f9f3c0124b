"""How often a row's sealed values were replaced: what makes an older ciphertext of the same row useless.

The number is part of the associated data and stands in a table of its own, so that a row that is put
back as a whole does not open either. Most rows are never changed and have no entry.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, SQLColumnExpression, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql import Select
from sqlalchemy.types import Text

from app.infra.database.tables import Row
from app.infra.database.tx import Tx


class RevisionRow(Row):
    """`place` is the name of the table; no entry: revision 0."""

    __tablename__ = "revisions"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    place: Mapped[str] = mapped_column(primary_key=True)
    row_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    revision: Mapped[int]


def revision_of(row_class: type[Row], row_id: SQLColumnExpression[int]) -> ColumnElement[int]:
    """A column of a SELECT, read in the same statement as the value: the two always belong together."""
    return revision_of_table(row_class.__tablename__, row_id)


def revision_of_table(table: str, row_id: SQLColumnExpression[int]) -> ColumnElement[int]:
    """As `revision_of`, by the table's name."""
    place = literal_column(f"'{table}'", Text)
    found = select(RevisionRow.revision).where(
        RevisionRow.place == place, RevisionRow.row_id == row_id
    )
    return func.coalesce(found.scalar_subquery(), literal_column("0"))


async def raise_revision(tx: Tx, row_class: type[Row], row_id: int) -> int:
    """The next revision of a row whose lock the caller holds; seal its new values with it."""
    found = select(RevisionRow.revision).where(
        RevisionRow.place == row_class.__tablename__, RevisionRow.row_id == row_id
    )
    revision = (await tx.scalar(found) or 0) + 1
    await raise_revisions(tx, row_class, [row_id])
    return revision


async def raise_revisions(tx: Tx, row_class: type[Row], row_ids: Iterable[int]) -> None:
    """None of the values that these rows held so far will open again."""
    rows = [
        {"place": row_class.__tablename__, "row_id": row_id, "revision": 1}
        for row_id in sorted(row_ids)
    ]
    if rows:
        await tx.execute(_raising(_insert(tx)), rows)


async def raise_selected(tx: Tx, row_class: type[Row], ids: Select[Any]) -> None:
    """As `raise_revisions`, for the ids that a SELECT with a WHERE finds."""
    place = literal_column(f"'{row_class.__tablename__}'", Text)
    found = ids.add_columns(place, literal_column("1"))
    statement = _insert(tx).from_select(["row_id", "place", "revision"], found)
    await tx.execute(_raising(statement))


def _insert(tx: Tx) -> Any:
    return (
        postgresql.insert(RevisionRow) if tx.dialect == "postgresql" else sqlite.insert(RevisionRow)
    )


def _raising(statement: Any) -> Any:
    return statement.on_conflict_do_update(
        index_elements=["place", "row_id"], set_={"revision": RevisionRow.revision + 1}
    )
