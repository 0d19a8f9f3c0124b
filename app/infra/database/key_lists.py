"""A list of composite keys as a table of a statement; its text, and so its plan, is the same for any number.

`(a, b) IN ((1, 2), (3, 4))` will not do: measured, SQLite 3.40 answers it by reading the whole table.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    SQLColumnExpression,
    Text,
    bindparam,
    func,
    select,
)

from app.infra.database.tx import Dialect

T = TypeVar("T")
KeyColumn = type[BigInteger] | type[Text]


class KeyList:
    """Join `table` and compare its `columns`; pass `key_parameters` at execution.

    One array a column on PostgreSQL, one JSON text on SQLite.
    """

    def __init__(self, dialect: Dialect, *types: KeyColumn) -> None:
        names = [f"key_{position}" for position in range(len(types))]
        self.table: FromClause
        self.columns: Sequence[ColumnElement[Any]]
        if dialect == "postgresql":
            arrays = [
                bindparam(name, type_=ARRAY(kind()))
                for name, kind in zip(names, types, strict=True)
            ]
            unnested = func.unnest(*arrays).table_valued(*names).render_derived(name="keys")
            self.table = unnested
            self.columns = [unnested.c[name] for name in names]
        else:
            each = func.json_each(bindparam("keys", type_=Text())).table_valued(
                "value", name="keys"
            )
            self.table = each
            self.columns = [
                func.json_extract(each.c.value, f"$[{position}]", type_=kind())
                for position, kind in enumerate(types)
            ]


def key_parameters(dialect: Dialect, keys: Collection[tuple[object, ...]]) -> dict[str, object]:
    """What stands for `keys`, each once; not for none at all."""
    unique = list(dict.fromkeys(keys))
    if dialect == "sqlite":
        return {"keys": orjson.dumps(unique).decode()}
    columns = zip(*unique, strict=True)
    return {f"key_{position}": list(column) for position, column in enumerate(columns)}


def is_listed(dialect: Dialect, column: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """`column IN (ids)`; pass `id_parameters` at execution."""
    if dialect == "postgresql":
        return column == func.any(bindparam("ids", type_=ARRAY(BigInteger())))
    each = func.json_each(bindparam("ids", type_=Text())).table_valued("value")
    return column.in_(select(each.c.value))


def id_parameters(dialect: Dialect, ids: Collection[int]) -> dict[str, object]:
    """What stands for the ids of `is_listed`."""
    return {"ids": list(ids) if dialect == "postgresql" else orjson.dumps(list(ids)).decode()}


def by_dialect(make: Callable[[Dialect], T]) -> dict[Dialect, T]:
    """A statement that the two databases do not share, built once for each."""
    return {"postgresql": make("postgresql"), "sqlite": make("sqlite")}
