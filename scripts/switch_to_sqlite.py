"""Switch `.env` between SQLite and PostgreSQL, show what is in force, and carry the data over.

    python scripts/switch_to_sqlite.py status
    python scripts/switch_to_sqlite.py sqlite [--copy-data]
    python scripts/switch_to_sqlite.py postgresql [--url postgresql://...] [--copy-data]

Only DATABASE_TYPE, DATABASE_URL and USE_REDIS are edited; the file before is kept as `.env.backup`.
"""

import asyncio
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.admin.copy_data import copy_data, with_database
from app.infra.database.copy import CopyError
from app.infra.database.process_lock import SecondProcessError
from app.kernel.problems import Unavailable
from app.settings import Settings, SettingsError, load_settings

_ENV = Path(".env")
_DEFAULT_URL = "postgresql://messenger:messenger@localhost:5432/messenger"
_console = Console(highlight=False)


class Action(StrEnum):
    """What to do."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    STATUS = "status"


def main(
    action: Annotated[Action, typer.Argument(help="sqlite, postgresql or status")],
    url: Annotated[str | None, typer.Option(help="DATABASE_URL to write for postgresql")] = None,
    *,
    copy: Annotated[
        bool, typer.Option("--copy-data", help="carry all rows over to the other database")
    ] = False,
) -> None:
    """Switch the database of this installation."""
    try:
        settings = load_settings(_ENV)
        if action is Action.STATUS:
            _show(settings)
            return
        before = _ENV.read_text(encoding="utf-8") if _ENV.exists() else ""
        after, new_url = _switch(before, action, url)
        if copy:
            _copy(settings, action, new_url)
    except (SettingsError, CopyError, SecondProcessError, Unavailable, OSError) as error:
        _console.print(f"[red]Nothing was changed.[/red] {error}")
        raise typer.Exit(1) from error
    _write(before, after)
    _show(load_settings(_ENV))


def _switch(text: str, action: Action, url: str | None) -> tuple[str, str | None]:
    """The new text of `.env` and the DATABASE_URL in it; all other lines stay as they are."""
    lines = text.splitlines()
    if action is Action.SQLITE:
        # The address is kept as a comment, so that switching back finds it again.
        lines = [
            f"# {line}" if line.startswith("DATABASE_URL=postgres") else line for line in lines
        ]
        lines = _set(lines, "DATABASE_TYPE", "sqlite")
        return "\n".join(_set(lines, "USE_REDIS", "false")) + "\n", None
    url = url or _find_url(lines) or _DEFAULT_URL
    lines = [line for line in lines if line != f"# DATABASE_URL={url}"]
    lines = _set(lines, "DATABASE_TYPE", "postgresql")
    lines = _set(lines, "DATABASE_URL", url)
    return "\n".join(_set(lines, "USE_REDIS", "true")) + "\n", url


def _set(lines: list[str], name: str, value: str) -> list[str]:
    """Change the line of `name` in place, or add one at the end."""
    wanted = f"{name}={value}"
    positions = [index for index, line in enumerate(lines) if line.split("=", 1)[0].strip() == name]
    if not positions:
        return [*lines, wanted]
    return [wanted if index == positions[-1] else line for index, line in enumerate(lines)]


def _find_url(lines: list[str]) -> str | None:
    """The PostgreSQL address in `.env`: in force, or kept as a comment."""
    for prefix in ("DATABASE_URL=", "# DATABASE_URL=", "#DATABASE_URL="):
        for line in reversed(lines):
            if line.startswith(f"{prefix}postgres"):
                return line.removeprefix(prefix).strip()
    return None


def _copy(settings: Settings, action: Action, new_url: str | None) -> None:
    target = with_database(settings, database_type=action.value, url=new_url)
    if target.database_url == settings.database_url:
        msg = f"the data are in {action.value} already"
        raise CopyError(msg)
    checksums = asyncio.run(copy_data(settings, target))
    for table, (rows, checksum) in checksums.items():
        _console.print(f"{table:24} {rows:>10} rows  {checksum[:16]}")


def _write(before: str, after: str) -> None:
    if _ENV.exists():
        shutil.copy2(_ENV, _ENV.with_suffix(".backup"))
    if after != before:
        temporary = _ENV.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(after, encoding="utf-8")
        temporary.replace(_ENV)


def _show(settings: Settings) -> None:
    _console.print(f"DATABASE_TYPE={settings.database.type}")
    if settings.database.type == "sqlite":
        _console.print(f"file: {settings.sqlite_path}")
    else:
        parts = urlsplit(settings.database_url)
        _console.print(
            f"server: {parts.hostname}:{parts.port or 5432}{parts.path} as {parts.username}"
        )
    _console.print(f"USE_REDIS={str(settings.redis.use).lower()}")


if __name__ == "__main__":
    typer.run(main)
