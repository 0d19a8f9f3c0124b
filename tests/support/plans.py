"""How a database would run a statement."""

from sqlalchemy import Executable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement


class Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Executable) -> None:
        self.statement = statement


@compiles(Explain, "sqlite")
def _explain(element: Explain, compiler, **options) -> str:
    return "EXPLAIN QUERY PLAN " + compiler.process(element.statement, **options)


@compiles(Explain, "postgresql")
def _explain_by_postgresql(element: Explain, compiler, **options) -> str:
    return "EXPLAIN " + compiler.process(element.statement, **options)
