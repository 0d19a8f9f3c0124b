"""Brings the schema to the newest migration at start; workers that start together wait for each other."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

from app.settings import Settings

_ROOT = Path(__file__).resolve().parents[3]


async def migrate(settings: Settings) -> None:
    """Apply what is missing to the database of `settings`, off the event loop."""
    config = Config(_ROOT / "alembic.ini", attributes={"settings": settings})
    await asyncio.to_thread(command.upgrade, config, "head")
