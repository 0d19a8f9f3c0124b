"""Brings the schema to the newest migration at start; workers that start together wait for each other."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

_ROOT = Path(__file__).resolve().parents[3]


async def migrate() -> None:
    """Apply what is missing, off the event loop."""
    await asyncio.to_thread(command.upgrade, Config(_ROOT / "alembic.ini"), "head")
