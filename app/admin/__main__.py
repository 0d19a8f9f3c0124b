"""`python -m app.admin`: what an operator does beside the running server."""

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console

from app.admin.audit import cli as audit
from app.admin.env_example import render_env_example
from app.admin.keys import keys
from app.admin.opened import admin_act, faults_told, open_for_admin, open_keys
from app.admin.problem_list import render_problem_list
from app.admin.sessions import sessions
from app.admin.storage import storage
from app.features.audit.record import record
from app.features.updates.epoch import renew_epoch
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.settings import Settings, load_settings
from app.start_checks import read_and_ask

_console = Console(highlight=False)
_errors = Console(highlight=False, stderr=True)
cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(audit, name="audit")
cli.add_typer(keys, name="keys")
cli.add_typer(sessions, name="sessions")
cli.add_typer(storage, name="storage")


@cli.command("check")
def check(*, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List everything that would refuse the start, or say "ok"; status 1 if there is anything.

    Asks the database too, and the file storage and the scanner, which must answer here; a server may run meanwhile.
    """
    _, faults = asyncio.run(read_and_ask(must_answer=True))
    if as_json:
        listed = [dict(zip(("variable", "fault"), _split(fault), strict=True)) for fault in faults]
        typer.echo(json.dumps({"ok": not faults, "faults": listed}))
    else:
        typer.echo("\n".join(faults) or "ok")
    if faults:
        raise typer.Exit(1)


def _split(fault: str) -> tuple[str, str]:
    variable, _, sentence = fault.partition(": ")
    return variable, sentence


@cli.command("env-example")
def env_example() -> None:
    """Print env.example: every setting, its default and what it does."""
    _console.print(render_env_example(), end="", markup=False, soft_wrap=True)


@cli.command("problems")
def problems() -> None:
    """Print docs/problems.md: every code that a client may meet."""
    _console.print(render_problem_list(), end="", markup=False, soft_wrap=True)


@cli.command("new-epoch")
def new_epoch() -> None:
    """Void the cursors of every client, for example after a backup was restored by hand."""
    with faults_told():
        epoch = asyncio.run(_renew_epoch(load_settings()))
    _console.print(epoch)


async def _renew_epoch(settings: Settings) -> str:
    async def work(tx: Tx) -> str:
        record(tx, admin_act("epoch_renewed"))
        return await renew_epoch(tx)

    async with open_for_admin(settings) as db:
        await open_keys(settings, db)
        return await db.write(work, timeout_seconds=LONG_SECONDS)


if __name__ == "__main__":
    cli()
