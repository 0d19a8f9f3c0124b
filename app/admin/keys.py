"""`python -m app.admin keys`: changing keys and forms of storage beside the running server.

Every command may be cut off at any moment and begun again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import ColumnElement, func, select

# Importing the composition root imports every slice, and with it every sealed column.
from app.admin.opened import note_act, open_for_admin, record_act
from app.bootstrap import prove_keys
from app.features.audit.models import AuditEventRow
from app.features.users.rebuild_index import BATCH as ACCOUNTS_A_BATCH
from app.features.users.rebuild_index import (
    begin_rebuild,
    count_left,
    finish_rebuild,
    rebuild_index,
)
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.kek import Kek
from app.infra.cipher.key_files import restore_key_file, write_key_file
from app.infra.cipher.keyring import (
    ROOT_KEY,
    SERVER_KEY,
    Keyring,
    open_keyring,
    seals_objects,
    seals_the_record,
)
from app.infra.cipher.models import KeyRow
from app.infra.cipher.places import Kind, Place, list_places
from app.infra.cipher.rewrite import (
    BATCH,
    count_values,
    is_encrypted,
    is_older,
    is_other_form,
    is_owned,
    rewrite,
)
from app.infra.cipher.rotation import begin_rotation, count_older, finish_rotation, rewrap_some
from app.infra.cipher.stored_forms import KINDS, PLAIN, SEALED, places_of
from app.infra.database.clock import open_database_and_clock
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.tx import Tx
from app.infra.logging.setup import configure_logging
from app.infra.secrets import Secrets, load_new_key
from app.settings import Settings, SettingsError, load_settings

P = ParamSpec("P")
keys = typer.Typer(no_args_is_help=True, help="Change keys beside the running server.")

# By then every process has heard of it, or asks the database for each key; and what it began before is
# committed or rolled back.
_HEARD_SECONDS = 45.0
_KEYS_A_BATCH = 500
_SETTINGS: Mapping[Kind, str] = {
    "personal": "ENCRYPT_PERSONAL_DATA",
    "messages": "ENCRYPT_MESSAGES",
}
_console = Console(highlight=False)
_errors = Console(highlight=False, stderr=True)
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds in which every server hears of a new key.")
]
KeyFile = Annotated[Path, typer.Argument(help="The file of keys.", dir_okay=False)]
Batch = Annotated[int, typer.Option(min=1, help="Values, or keys, a transaction.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """What every command works with."""

    settings: Settings
    secrets: Secrets
    kek: Kek
    db: Database
    keyring: Keyring


def _command(run: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Refusals are one sentence each and status 1."""

    @wraps(run)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await run(*args, **kwargs)

        try:
            asyncio.run(main())
        except SettingsError as error:
            for fault in error.faults:
                _errors.print(fault, markup=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return call


@keys.command("rotate")
@_command
async def rotate(
    *,
    wait: Wait = 10.0,
    batch: Batch = _KEYS_A_BATCH,
) -> None:
    """Wrap all data keys under MASTER_KEY_NEW (or MASTER_KEY_NEW_FILE) instead of MASTER_KEY."""
    async with _open_desk("keys_rotate") as desk:
        new_key = load_new_key(desk.settings, "MASTER_KEY")
        if new_key is None:
            raise SettingsError(["MASTER_KEY_NEW: set it, or MASTER_KEY_NEW_FILE, to the next key"])
        rounds = desk.settings.secrets.pbkdf2_rounds
        rotation = await begin_rotation(desk.db, desk.kek, new_key, rounds)
        # Servers that hear of the newer key wrap with it from then on.
        await asyncio.sleep(wait)
        with _progress_bar() as bar:
            task = bar.add_task("wrapping keys", total=await count_older(desk.db, rotation))
            while True:
                while count := await rewrap_some(desk.db, rotation, limit=batch):
                    bar.advance(task, count)
                if await finish_rotation(desk.db, rotation):
                    break
    _console.print(
        "Done: the old MASTER_KEY opens nothing any more. Servers that run go on; before any of them "
        "is started again, set MASTER_KEY to the new key and remove MASTER_KEY_NEW.",
        soft_wrap=True,
    )


@keys.command("renew")
@_command
async def renew(
    *,
    owner: Annotated[str | None, typer.Option(help="chat:42, user:7 or server.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All owners.")] = False,
    older_than: Annotated[int, typer.Option(help="With --all: days of age of the key.")] = 0,
    wait: Wait = _HEARD_SECONDS,
    batch: Batch = BATCH,
) -> None:
    """Give owners a new data key, seal their rows anew under it, and destroy the old one."""
    if (owner is None) == (not every):
        raise SettingsError(["Say either --owner chat:42 or --all"])
    async with _open_desk("keys_renew", target=owner) as desk:
        age = timedelta(days=older_than)
        owners = await _list_owners(desk, age) if owner is None else [_renewable(owner)]
        for start in range(0, len(owners), _KEYS_A_BATCH):
            chunk = owners[start : start + _KEYS_A_BATCH]
            versions = await _begin_renewal(desk, chunk)
            await asyncio.sleep(wait)
            kept = 0
            with _progress_bar() as bar:
                task = bar.add_task("renewing keys", total=len(versions))
                for name, version in versions.items():
                    kept += not await _renew(desk, name, version, batch)
                    bar.advance(task)
            await desk.db.write(desk.keyring.tell_all, timeout_seconds=LONG_SECONDS)
            if kept:
                _console.print(
                    f"{kept} old keys are kept: what is chained in the audit record is under them, "
                    "or values that do not open.",
                    soft_wrap=True,
                )
    _console.print(f"Done: {len(owners)} keys.")


@keys.command("convert")
@_command
async def convert(*, wait: Wait = _HEARD_SECONDS, batch: Batch = BATCH) -> None:
    """Store all rows as ENCRYPT_PERSONAL_DATA and ENCRYPT_MESSAGES say now."""
    async with _open_desk("keys_convert") as desk:
        await desk.db.write(desk.keyring.note_forms, timeout_seconds=SCAN_SECONDS)
        await desk.db.read(desk.keyring.watch, timeout_seconds=LONG_SECONDS)
        begun = await _begin_conversion(desk)
        await desk.db.read(desk.keyring.watch, timeout_seconds=LONG_SECONDS)
        if any(begun.values()):
            # A server that still runs with the older setting seals as well from then on.
            await asyncio.sleep(wait)
        for kind in KINDS:
            await _convert(desk, kind, batch, begun=begun.get(kind))
    _console.print("Done: all rows are stored as the settings say.")


@keys.command("rebuild-index")
@_command
async def rebuild(*, batch: Batch = ACCOUNTS_A_BATCH) -> None:
    """Index phones and names under INDEX_KEY_NEW; the servers were started with both keys before."""
    async with _open_desk("keys_rebuild_index") as desk:
        if desk.secrets.index_key_new is None:
            raise SettingsError(["INDEX_KEY_NEW: set it, or INDEX_KEY_NEW_FILE, to the next key"])
        older = BlindIndex(desk.secrets.index_key)
        newer = BlindIndex(desk.secrets.index_key_new)
        if await begin_rebuild(desk.db, older, newer):
            with _progress_bar() as bar:
                task = bar.add_task("indexing accounts", total=await count_left(desk.db))
                done = await rebuild_index(
                    desk.db,
                    desk.keyring,
                    newer,
                    on_progress=lambda n: bar.advance(task, n),
                    batch=batch,
                )
            await finish_rebuild(desk.db, older, newer)
            if done.unreadable:
                _errors.print(f"{done.unreadable} phones do not open and are found no more.")
    _console.print(
        "Done: set INDEX_KEY to the new key and remove INDEX_KEY_NEW at the next start of the servers.",
        soft_wrap=True,
    )


@keys.command("backup")
@_command
async def backup(file: KeyFile) -> None:
    """Save the wrapped keys, which a backup of the data is to lack; needs no MASTER_KEY."""
    settings = load_settings()
    async with open_for_admin(settings) as db:
        await note_act(settings, db, "keys_backup")
        count = await write_key_file(db, file)
    _console.print(f"Done: {count} keys. Keep this file for days, not for years.")


@keys.command("restore")
@_command
async def restore(file: KeyFile) -> None:
    """Put saved keys into a database that was restored without any, before a server is started."""
    settings = load_settings()
    async with open_for_admin(settings) as db:
        count = await db.write(lambda tx: restore_key_file(tx, file), timeout_seconds=SCAN_SECONDS)
        # Not before: there is nothing to record it with.
        await note_act(settings, db, "keys_restore")
    _console.print(f"Done: {count} keys.")


@keys.command("status")
@_command
async def status() -> None:
    """Tell which keys there are; write the fingerprint down beside a backup."""
    async with _open_desk() as desk:
        counts = select(KeyRow.kek_version, func.count()).group_by(KeyRow.kek_version)
        rows = await desk.db.read(
            lambda tx: tx.all(counts.order_by(KeyRow.kek_version)), timeout_seconds=SCAN_SECONDS
        )
        _console.print(f"fingerprint of the keys: {desk.keyring.derive('fingerprint').hex()[:16]}")
        for version, count in rows:
            _console.print(f"data keys under master key {version}: {count}")
        for place in list_places():
            kind = place.sealed.kind
            if kind not in KINDS:
                continue
            other = is_other_form(place, encrypt=is_encrypted(desk.keyring, kind))
            count = await count_values(desk.db, place, other)
            if count:
                _console.print(f"{place.column}: {count} stored otherwise; run keys convert")


async def _begin_conversion(desk: Desk) -> dict[Kind, str]:
    """Of the kinds that are to be sealed: what their end asks for."""

    async def work(tx: Tx) -> dict[Kind, str]:
        notes: dict[Kind, str | None] = {
            kind: await desk.keyring.begin_conversion(tx, kind)
            for kind in KINDS
            if is_encrypted(desk.keyring, kind)
        }
        return {kind: note for kind, note in notes.items() if note is not None}

    return await desk.db.write(work, timeout_seconds=LONG_SECONDS)


async def _convert(desk: Desk, kind: Kind, batch: int, *, begun: str | None) -> None:
    encrypt = is_encrypted(desk.keyring, kind)
    invalid = 0
    for place in places_of(kind):
        condition = is_other_form(place, encrypt=encrypt)
        invalid += await _rewrite(desk, place, condition, batch)
    if invalid:
        raise SettingsError(
            [f"{invalid} values of {kind} do not open and were left as they are; see the audit log"]
        )
    form = SEALED if encrypt else PLAIN
    is_done = await desk.db.write(
        lambda tx: desk.keyring.end_conversion(tx, kind, form, begun=begun),
        timeout_seconds=LONG_SECONDS,
    )
    if not is_done:
        raise SettingsError(
            [
                f"{_SETTINGS[kind]}: a server was started with false meanwhile; see to it, and convert again"
            ]
        )


async def _rewrite(desk: Desk, place: Place, condition: ColumnElement[bool], batch: int) -> int:
    """Answers how many do not open."""
    total = await count_values(desk.db, place, condition)
    with _progress_bar() as bar:
        task = bar.add_task(str(place.column), total=total)
        done = await rewrite(
            desk.db,
            desk.keyring,
            place,
            condition,
            on_progress=lambda count: bar.advance(task, count),
            batch=batch,
        )
    return done.invalid


def _renewable(owner: str) -> str:
    if seals_the_record(owner):
        raise SettingsError(
            [f"{owner} seals rows of the audit record, which never change: it is never renewed"]
        )
    if seals_objects(owner):
        raise SettingsError(
            [f"{owner} seals files, which are never sealed anew: it is never renewed"]
        )
    return owner


async def _list_owners(desk: Desk, age: timedelta) -> list[str]:
    """Whose newest version is older; a key without a date is older than any."""

    async def work(tx: Tx) -> list[str]:
        newest = func.max(func.coalesce(KeyRow.created_at, 0))
        statement = select(KeyRow.id).group_by(KeyRow.id).having(newest <= tx.now - age)
        names = await tx.scalars(statement)
        return [
            name
            for name in names
            if name != ROOT_KEY and not (seals_objects(name) or seals_the_record(name))
        ]

    return await desk.db.read(work, timeout_seconds=SCAN_SECONDS)


async def _begin_renewal(desk: Desk, owners: list[str]) -> dict[str, int]:
    """Owner -> the version that shall be the only one. A renewal that was cut off goes on with the version
    it had made.
    """

    async def work(tx: Tx) -> dict[str, int]:
        statement = select(KeyRow.id, func.count(), func.max(KeyRow.version))
        rows = await tx.all(statement.where(KeyRow.id.in_(owners)).group_by(KeyRow.id))
        found: dict[str, int] = {}
        for name, count, version in rows:
            is_begun = count > 1 and await _has_older(tx, name, version)
            found[name] = version if is_begun else await desk.keyring.add_version(tx, name)
        if missing := set(owners) - found.keys():
            raise SettingsError([f"There is no key of {', '.join(sorted(missing))}"])
        await desk.keyring.tell_all(tx)
        return found

    return await desk.db.write(work, timeout_seconds=SCAN_SECONDS)


async def _has_older(tx: Tx, owner: str, version: int) -> bool:
    """Whether values remain that a renewal was to write anew."""
    for place in list_places():
        owned = _owned(place, owner)
        if owned is None or place.sealed.fixed or place.sealed.brief:
            continue
        statement = select(place.row_id).where(owned, is_older(place, version)).limit(1)
        if await tx.first(statement) is not None:
            return True
    return False


async def _renew(desk: Desk, owner: str, version: int, batch: int) -> bool:
    """Answers whether the old versions could be destroyed."""
    is_needed = False
    for place in list_places():
        owned = _owned(place, owner)
        if owned is None:
            continue
        condition = owned & is_older(place, version)
        if place.sealed.fixed:
            is_needed |= await count_values(desk.db, place, condition) > 0
        elif not place.sealed.brief:
            done = await rewrite(
                desk.db, desk.keyring, place, condition, on_progress=lambda _: None, batch=batch
            )
            is_needed |= done.invalid > 0
    if not is_needed:
        await desk.db.write(
            lambda tx: desk.keyring.retire_versions(tx, owner, version),
            timeout_seconds=LONG_SECONDS,
        )
    return not is_needed


def _owned(place: Place, owner: str) -> ColumnElement[bool] | None:
    if owner == SERVER_KEY and place.table is AuditEventRow.__table__:
        # What the record holds of nobody in particular.
        return AuditEventRow.user_id.is_(None) & AuditEventRow.phone_id.is_(None)
    return is_owned(place, owner)


@asynccontextmanager
async def _open_desk(act: str | None = None, *, target: str | None = None) -> AsyncGenerator[Desk]:
    """Nothing is written before the keys are proved. `act` is recorded before it is begun."""
    settings = load_settings()
    secrets, kek = await prove_keys(settings)
    if kek is None:
        raise SettingsError(
            ["DATABASE_URL: this database was never set up; start the server first"]
        )
    write_log_at_once = configure_logging(settings.log)
    db, _ = await open_database_and_clock(settings)
    try:
        keyring = await open_keyring(
            db,
            secrets.master_key,
            rounds=settings.secrets.pbkdf2_rounds,
            personal=settings.secrets.encrypt_personal_data,
            messages=settings.secrets.encrypt_messages,
            kek=kek,
        )
        await db.read(keyring.watch, timeout_seconds=LONG_SECONDS)
        if act is not None:
            await record_act(db, keyring, act, target=target)
        yield Desk(settings, secrets, kek, db, keyring)
    finally:
        await db.close()
        write_log_at_once()


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
