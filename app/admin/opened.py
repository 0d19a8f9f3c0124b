"""What commands open: the database, with the keys only where they are needed, and a record of who did what."""

import getpass
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import typer
from rich.console import Console

from app.bootstrap import prove_keys
from app.features.audit.record import record
from app.features.audit.write import event_writer
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.database.database import Database, open_database
from app.infra.database.migrate import migrate
from app.infra.database.tx import Tx
from app.infra.logging.setup import configure_logging
from app.kernel.clock import SystemClock
from app.kernel.events import SecurityEvent
from app.settings import Settings, SettingsError

_errors = Console(highlight=False, stderr=True)


@asynccontextmanager
async def open_for_admin(settings: Settings) -> AsyncGenerator[Database]:
    """The database; events that a command records are lines of the log at once, and chained by the
    server, or at its next start.
    """
    write_log_at_once = configure_logging(settings.log)
    await migrate(settings)
    db = open_database(settings, SystemClock())
    db.write_events = event_writer(None)
    try:
        yield db
    finally:
        await db.close()
        write_log_at_once()


async def open_keys(settings: Settings, db: Database) -> Keyring:
    """Takes a third of a second, as every derivation of the key.

    Raises:
        SettingsError: the key is not the one of this database.
    """
    secrets, kek = await prove_keys(settings)
    return await open_keyring(
        db,
        secrets.master_key,
        rounds=settings.secrets.pbkdf2_rounds,
        personal=settings.secrets.encrypt_personal_data,
        messages=settings.secrets.encrypt_messages,
        kek=kek,
    )


def admin_act(act: str) -> SecurityEvent:
    """That an operator did `act`, by the account of the machine that did it."""
    return SecurityEvent("admin_act", details={"act": act, "operator": _operator()})


async def record_act(db: Database, keyring: Keyring, act: str) -> None:
    """A row and a line of the log of what is about to be done."""
    db.write_events = event_writer(keyring)

    async def work(tx: Tx) -> None:
        record(tx, admin_act(act))

    await db.write(work)


@contextmanager
def faults_told() -> Generator[None]:
    """Wrong settings end the command with a sentence each and status 1."""
    try:
        yield
    except SettingsError as error:
        for fault in error.faults:
            _errors.print(fault, markup=False)
        raise typer.Exit(1) from error


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, in a container
        return "unknown"
