"""A look at the stored rows from outside, as somebody with a copy of the database has; and time travel.

Tests move a stored time instead of waiting for it to pass.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg

from tests.support.people import Deployment


async def change_rows(deployment: Deployment, statement: str) -> int:
    """Run one statement of SQL common to both databases; answers the rows changed."""
    if deployment.name == "sqlite":
        with closing(sqlite3.connect(deployment.details["sqlite_file"], timeout=30)) as database:
            changed = database.execute(statement).rowcount
            database.commit()
            return changed
    connection = await asyncpg.connect(deployment.details["database_url"])
    try:
        tag = await connection.execute(statement)
        return int(tag.rpartition(" ")[2])
    finally:
        await connection.close()


async def read_values(deployment: Deployment, query: str) -> list[object]:
    """The first column of what a SELECT common to both databases finds."""
    if deployment.name == "sqlite":
        with closing(sqlite3.connect(deployment.details["sqlite_file"], timeout=30)) as database:
            return [row[0] for row in database.execute(query)]
    connection = await asyncpg.connect(deployment.details["database_url"])
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def read_rows(deployment: Deployment, query: str) -> list[dict[str, object]]:
    """What a SELECT common to both databases finds, by column."""
    if deployment.name == "sqlite":
        with closing(sqlite3.connect(deployment.details["sqlite_file"], timeout=30)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query)]
    connection = await asyncpg.connect(deployment.details["database_url"])
    try:
        return [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def dump(deployment: Deployment) -> bytes:
    """All that is stored: the files of SQLite with their journals, or every row of every table."""
    if deployment.name == "sqlite":
        file = Path(deployment.details["sqlite_file"])
        parts = sorted(file.parent.glob(f"{file.name}*"))
        return b"\0".join(part.read_bytes() for part in parts if part.is_file())
    connection = await asyncpg.connect(deployment.details["database_url"])
    try:
        names = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        found: list[bytes] = []
        for name in (record["tablename"] for record in names):
            for row in await connection.fetch(f'SELECT * FROM "{name}"'):
                found += [v if isinstance(v, bytes) else str(v).encode() for v in row.values()]
        return b"\0".join(found)
    finally:
        await connection.close()
