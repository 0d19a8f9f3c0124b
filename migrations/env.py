"""Runs migrations on the database of the settings; starts that coincide wait for each other."""

import asyncio
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import app.catalog  # noqa: F401 - every table registers itself on import
from app.infra.database.columns import Json, Timestamp
from app.infra.database.engines import sqlite_engine
from app.infra.database.tables import METADATA
from app.settings import Settings, load_settings

_LOCK = 7_217_001


def _render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """A migration stands for ever, so it names plain types and none of our classes."""
    if kind == "type" and isinstance(item, Timestamp):
        return "sa.BigInteger()"
    if kind == "type" and isinstance(item, Json):
        return "sa.Text()"
    return False


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=_render_item,
        compare_type=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.run_migrations()


def _migrate_sqlite(settings: Settings) -> None:
    settings.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
    engine = sqlite_engine(settings.sqlite_path)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        _migrate(connection)
        connection.commit()
    engine.dispose()


async def _migrate_postgresql(settings: Settings) -> None:
    engine = create_async_engine(settings.database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
        await connection.commit()
    await engine.dispose()


def _run() -> None:
    settings: Settings = context.config.attributes.get("settings") or load_settings()
    if settings.database.type == "sqlite":
        _migrate_sqlite(settings)
    else:
        asyncio.run(_migrate_postgresql(settings))


_run()
