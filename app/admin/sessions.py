"""`python -m app.admin sessions`: sign people out beside the running server, within a second everywhere."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import select

from app.admin.opened import admin_act, faults_told, open_for_admin, open_keys
from app.features.audit.record import record
from app.features.sessions.end import end_all_sessions
from app.features.sessions.models import SessionRow
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.infra.bus.memory import MemoryBus
from app.infra.cipher.keyring import user_key
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope
from app.settings import Settings, load_settings

sessions = typer.Typer(help="Sign people out.")
_console = Console(highlight=False)


@sessions.callback()
def _group() -> None:
    """A group of commands, even while it has one."""


@sessions.command("end")
def end(
    user_id: Annotated[int | None, typer.Option("--user", min=1, help="The id of a user.")] = None,
    *,
    everyone: Annotated[bool, typer.Option("--everyone", help="Sign everybody out.")] = False,
) -> None:
    """End all sessions of one user, or of everybody."""
    if everyone == (user_id is not None):
        raise typer.BadParameter("give --user or --everyone")
    chosen = None if user_id is None else UserId(user_id)
    with faults_told():
        ended = asyncio.run(_end(load_settings(), chosen))
    _console.print(f"{ended} sessions ended")


async def _end(settings: Settings, user_id: UserId | None) -> int:
    # Each worker polls the table: the command needs no bus.
    lifetime = timedelta(minutes=settings.tokens.access_minutes)
    revocations = RevocationList(MemoryBus(), keep=lifetime)
    async with open_for_admin(settings) as db:
        await open_keys(settings, db)
        users = [user_id] if user_id is not None else await _list_signed_in(db)
        return sum([await _end_of(db, revocations, user) for user in users])


async def _list_signed_in(db: Database) -> Sequence[UserId]:
    live = select(SessionRow.user_id).where(SessionRow.revoked_at.is_(None)).distinct()
    return await db.read(lambda tx: tx.scalars(live), timeout_seconds=SCAN_SECONDS)


async def _end_of(db: Database, revocations: RevocationList, user_id: UserId) -> int:
    async def work(tx: Tx) -> int:
        log = await lock_scopes(tx, [user_scope(user_id)])
        ended = await end_all_sessions(tx, log, revocations=revocations, user_id=user_id)
        if ended:
            record(tx, admin_act("sessions_ended", target=user_key(user_id)))
        return len(ended)

    return await db.write(work, timeout_seconds=LONG_SECONDS)
