"""Brings the schema to the newest migration at start; workers that start together wait for each other."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError

from app.settings import Settings, SettingsError

_ROOT = Path(__file__).resolve().parents[3]


async def migrate(settings: Settings) -> None:
    """Apply what is missing to the database of `settings`, off the event loop.

    Raises:
        SettingsError: the schema is of a newer version than this program; nothing was changed.
    """
    config = Config(_ROOT / "alembic.ini", attributes={"settings": settings})
    try:
        await asyncio.to_thread(command.upgrade, config, "head")
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        fault = (
            "DATABASE: a newer version of this program has been here; start that version, "
            "or restore the backup from before the update"
        )
        raise SettingsError([fault]) from error
