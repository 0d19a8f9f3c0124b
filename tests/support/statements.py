"""What a use case sends to its database, seen from SQLAlchemy's own hook."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from app.infra.database.database import Database


@contextmanager
def recorded_statements(db: Database) -> Iterator[list[str]]:
    """The statements of the block, in order; one for a list of parameters, none for BEGIN."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    engines = _engines(db)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def _engines(db: Database) -> list[Any]:
    connections: Any = db.connections
    if db.dialect == "postgresql":
        return [connections.engine.sync_engine]
    return [connections.engine, connections._reader_engine]
