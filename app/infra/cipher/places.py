"""Where ciphertext is stored: every sealed column says so beside its declaration, and is found here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Column, Table

from app.infra.database.tables import METADATA

Kind = Literal["personal", "messages", "always"]

_INFO = "sealed"


@dataclass(frozen=True, slots=True)
class Sealed:
    """`kind`: which setting decides whether the column is encrypted; `always`: none does. `owner`: the
    name of the key, with names of columns of the same row in braces.

    A value that is `revised` is bound to its row's revision. One that is `fixed` is never written
    again, so the key that sealed it is kept; one that is `brief` matters for a minute only.
    """

    kind: Kind
    owner: str
    revised: bool = False
    fixed: bool = False
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A sealed column of the schema; `row_id` is the column that its associated data names."""

    table: Table
    column: Column[Any]
    row_id: Column[Any]
    sealed: Sealed

    @property
    def owner_columns(self) -> list[Column[Any]]:
        """What of a row its owner's name is made of."""
        names = [part.partition("}")[0] for part in self.sealed.owner.split("{")[1:]]
        return [self.table.c[name] for name in names]

    def owner_of(self, row: Mapping[str, object]) -> str:
        return self.sealed.owner.format_map(row)


def sealed(
    kind: Kind, owner: str, *, revised: bool = False, fixed: bool = False, brief: bool = False
) -> dict[str, Any]:
    """For `mapped_column(info=...)`, see `Sealed`."""
    return {_INFO: Sealed(kind, owner, revised, fixed, brief)}


def list_places() -> Iterator[Place]:
    """Every sealed column of the tables that were imported."""
    for table in METADATA.sorted_tables:
        for column in table.columns:
            if _INFO in column.info:
                yield Place(table, column, next(iter(table.primary_key)), column.info[_INFO])


def find_kind(table: str, column: str) -> Kind | None:
    """None where nothing is declared."""
    found = METADATA.tables.get(table)
    declared = None if found is None else found.columns.get(column)
    return None if declared is None or _INFO not in declared.info else declared.info[_INFO].kind
