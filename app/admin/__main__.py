"""`python -m app.admin`: what an operator does beside the running server."""

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console

from app.admin.env_example import render_env_example
from app.admin.keys import keys
from app.admin.problem_list import render_problem_list
from app.features.updates.epoch import renew_epoch
from app.infra.database.database import open_database
from app.infra.database.migrate import migrate
from app.kernel.clock import SystemClock
from app.settings import Settings, SettingsError, load_settings
from app.start_checks import read_and_ask

_console = Console(highlight=False)
_errors = Console(highlight=False, stderr=True)
cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(keys, name="keys")


@cli.command("check")
def check(*, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List everything that would refuse the start, or say "ok"; status 1 if there is anything.

    Asks the database too; a server may run meanwhile.
    """
    _, faults = asyncio.run(read_and_ask())
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
    _console.print(asyncio.run(_renew_epoch(_load())))


async def _renew_epoch(settings: Settings) -> str:
    await migrate(settings)
    database = open_database(settings, SystemClock())
    try:
        return await database.write(renew_epoch)
    finally:
        await database.close()


def _load() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        for fault in error.faults:
            _errors.print(fault, markup=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    cli()
