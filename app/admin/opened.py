"""What commands open: the database, with the keys only where they are needed, and a record of who did what."""

import getpass
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog
import typer
from rich.console import Console

from app.bootstrap import prove_keys
from app.features.audit.record import record
from app.features.audit.write import event_writer
from app.infra.cipher.kek import has_keys
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.database.clock import open_database_and_clock
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.migrate import migrate
from app.infra.database.tx import Tx
from app.infra.logging.setup import configure_logging
from app.kernel.events import SecurityEvent
from app.settings import Settings, SettingsError

_log = structlog.stdlib.get_logger("app.security")
_errors = Console(highlight=False, stderr=True)


@asynccontextmanager
async def open_for_admin(settings: Settings) -> AsyncGenerator[Database]:
    """The database. What a command records once it has the keys (`open_keys`; not before) is a line of the
    log at once, and chained by the server, or at its next start.
    """
    write_log_at_once = configure_logging(settings.log)
    await migrate(settings)
    db, _ = await open_database_and_clock(settings)
    db.write_events = _refuse_to_forget
    try:
        yield db
    finally:
        await db.close()
        write_log_at_once()


async def open_keys(settings: Settings, db: Database) -> Keyring:
    """And what is recorded from here on is. Takes a third of a second, as every derivation of the key.

    Raises:
        SettingsError: the key is not the one of this database.
    """
    secrets, kek = await prove_keys(settings)
    keyring = await open_keyring(
        db,
        secrets.master_key,
        rounds=settings.secrets.pbkdf2_rounds,
        personal=settings.secrets.encrypt_personal_data,
        messages=settings.secrets.encrypt_messages,
        kek=kek,
    )
    db.write_events = event_writer(keyring)
    return keyring


def admin_act(act: str, *, target: str | None = None) -> SecurityEvent:
    """That an operator did `act`, by the account of the machine that did it. `target`: user:7, chat:42."""
    details = {"act": act, "operator": _operator(), "target": target}
    return SecurityEvent("admin_act", details={k: v for k, v in details.items() if v is not None})


async def record_act(
    db: Database, keyring: Keyring, act: str, *, target: str | None = None
) -> None:
    """A row and a line of the log of what is about to be done."""
    db.write_events = event_writer(keyring)

    async def work(tx: Tx) -> None:
        record(tx, admin_act(act, target=target))

    await db.write(work, timeout_seconds=LONG_SECONDS)


async def note_act(settings: Settings, db: Database, act: str) -> None:
    """As `record_act`, of a command that needs no keys: where they are not at hand it is a line of the log alone."""
    try:
        if await has_keys(db):
            await record_act(db, await open_keys(settings, db), act)
            return
    except SettingsError:
        _errors.print("Not in the record, but in the log: MASTER_KEY is not at hand.")
    event = admin_act(act)
    _log.info(event.name, **event.details)


async def _refuse_to_forget(_tx: Tx, _events: Sequence[SecurityEvent]) -> None:
    raise RuntimeError("recorded before the keys were opened")


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
