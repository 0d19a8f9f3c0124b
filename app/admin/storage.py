"""`python -m app.admin storage`: which storage belongs to the database."""

import asyncio

import typer
from rich.console import Console

from app.admin.opened import admin_act, faults_told, open_for_admin, open_keys
from app.features.audit.record import record
from app.features.files.installation import adopt_storage
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.storage.choose import choose_storage
from app.infra.storage.soundness import list_storage_faults
from app.settings import Settings, SettingsError, load_settings

storage = typer.Typer(help="Whose the file storage is.")
_console = Console(highlight=False)


@storage.callback()
def _group() -> None:
    """A group of commands, even while it has one."""


@storage.command("adopt")
def adopt() -> None:
    """Let this database begin anew with an empty storage: of the files that it has nobody reads one again."""
    with faults_told():
        asyncio.run(_adopt(load_settings()))
    _console.print("ok")


async def _adopt(settings: Settings) -> None:
    faults = await list_storage_faults(settings, must_answer=True)
    if faults:
        raise SettingsError(faults)

    async def note(tx: Tx) -> None:
        record(tx, admin_act("storage_adopted"))

    async with open_for_admin(settings) as db:
        await open_keys(settings, db)
        chosen = choose_storage(settings)
        try:
            await adopt_storage(db, chosen, settings.files)
        finally:
            await chosen.close()
        await db.write(note, timeout_seconds=LONG_SECONDS)
