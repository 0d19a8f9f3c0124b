"""What a database can answer beside rows, told alike for PostgreSQL and SQLite."""

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.kernel.problems import Unavailable

# serialization_failure, deadlock_detected, lock_not_available
_RETRYABLE_STATES = frozenset({"40001", "40P01", "55P03"})
# connection_exception, insufficient_resources, operator_intervention, query_canceled, read_only
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})
# PostgreSQL has a word for a full disk (53100), but none for a quota that is used up, or a limit on files.
_FILE_LAYER = frozenset({"md.c", "fd.c", "smgr.c"})

# Whatever its SQLSTATE: a server that lets nobody in serves nobody.
CONNECT_ERRORS = (DBAPIError, OSError)


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    title = "The database does not answer at the moment"


class UniqueViolation(Exception):  # noqa: N818 - the name of SQLSTATE 23505
    """A row with this key exists. `constraint` is its name, or SQLite's list of columns."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


def sql_state(error: DBAPIError) -> str:
    """SQLSTATE of PostgreSQL, or an empty string."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def _source_file(error: DBAPIError) -> str:
    """The part of PostgreSQL that raised it; its words may be in any language."""
    cause = getattr(error.orig, "__cause__", None)
    return str(getattr(cause, "server_source_filename", "") or "")


def is_retryable(error: DBAPIError) -> bool:
    """The same transaction may succeed if it is run again from its beginning."""
    return sql_state(error) in _RETRYABLE_STATES or _is_sqlite_busy(error)


def is_lock_timeout(error: DBAPIError) -> bool:
    return sql_state(error) == "55P03"


def is_unavailable(error: DBAPIError) -> bool:
    """The database cannot serve for reasons of its own: down, full, restarting, out of connections."""
    if error.connection_invalidated or sql_state(error)[:2] in _UNAVAILABLE_CLASSES:
        return True
    if sql_state(error) == "XX000" and _source_file(error) in _FILE_LAYER:
        return True
    if isinstance(error.orig, OSError | TimeoutError):
        return True
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    return name.startswith(
        (
            "SQLITE_FULL",
            "SQLITE_IOERR",
            "SQLITE_CANTOPEN",
            "SQLITE_READONLY",
            "SQLITE_BUSY",
        )
    )


def is_outage(error: Exception) -> bool:
    """The database cannot serve at the moment; anything else is the fault of what was asked."""
    if isinstance(error, DBAPIError):
        return is_unavailable(error) or is_retryable(error)
    return isinstance(error, OSError | PoolTimeoutError | DatabaseUnavailable)


def as_unique_violation(error: IntegrityError) -> UniqueViolation | None:
    """The unique violation behind a driver's integrity error, if it is one."""
    if sql_state(error) == "23505":
        cause = getattr(error.orig, "__cause__", None)
        return UniqueViolation(str(getattr(cause, "constraint_name", "") or ""))
    orig = error.orig
    if isinstance(orig, sqlite3.IntegrityError) and "UNIQUE" in str(orig):
        return UniqueViolation(str(orig).partition(": ")[2])
    return None


def _is_sqlite_busy(error: DBAPIError) -> bool:
    return (getattr(error.orig, "sqlite_errorname", "") or "").startswith(
        ("SQLITE_BUSY", "SQLITE_LOCKED")
    )
