"""`python -m app.admin keys`: changing keys and forms of storage beside the running server.

Every command may be cut off at any moment and begun again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import ColumnElement, func, select

# Importing the composition root imports every slice, and with it every sealed column.
from app.admin.opened import record_act
from app.bootstrap import prove_keys
from app.features.users.rebuild_index import (
    begin_rebuild,
    count_left,
    finish_rebuild,
    rebuild_index,
)
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.kek import Kek
from app.infra.cipher.keyring import ROOT_KEY, SERVER_KEY, Keyring, open_keyring
from app.infra.cipher.models import KeyRow
from app.infra.cipher.places import Kind, Place, list_places
from app.infra.cipher.rewrite import (
    count_values,
    is_encrypted,
    is_older,
    is_other_form,
    is_owned,
    rewrite,
)
from app.infra.cipher.rotation import begin_rotation, count_older, finish_rotation, rewrap_some
from app.infra.cipher.stored_forms import KINDS, PLAIN, SEALED, note_forms, places_of, set_form
from app.infra.database.database import Database, open_database
from app.infra.database.tx import Tx
from app.infra.logging.setup import configure_logging
from app.infra.secrets import Secrets, load_new_key
from app.kernel.clock import SystemClock
from app.settings import Settings, SettingsError, load_settings

P = ParamSpec("P")
keys = typer.Typer(no_args_is_help=True, help="Change keys beside the running server.")

# By then every process has heard of it, or asks the database for each key; and what it began before is
# committed or rolled back.
_HEARD_SECONDS = 45.0
_BATCH = 500
_console = Console(highlight=False)
_errors = Console(highlight=False, stderr=True)
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds in which every server hears of a new key.")
]


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
    batch: Annotated[int, typer.Option(min=1, help="Keys a transaction.")] = _BATCH,
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
) -> None:
    """Give owners a new data key, seal their rows anew under it, and destroy the old one."""
    if (owner is None) == (not every):
        raise SettingsError(["Say either --owner chat:42 or --all"])
    async with _open_desk("keys_renew") as desk:
        age = timedelta(days=older_than)
        owners = await _list_owners(desk, age) if owner is None else [owner]
        for start in range(0, len(owners), _BATCH):
            chunk = owners[start : start + _BATCH]
            versions = await _begin_renewal(desk, chunk)
            await asyncio.sleep(wait)
            kept = 0
            with _progress_bar() as bar:
                task = bar.add_task("renewing keys", total=len(versions))
                for name, version in versions.items():
                    kept += not await _renew(desk, name, version)
                    bar.advance(task)
            await desk.db.write(desk.keyring.tell_all)
            if kept:
                _console.print(
                    f"{kept} old keys are kept: what is chained in the audit record is under them, "
                    "or values that do not open.",
                    soft_wrap=True,
                )
    _console.print(f"Done: {len(owners)} keys.")


@keys.command("convert")
@_command
async def convert() -> None:
    """Store all rows as ENCRYPT_PERSONAL_DATA and ENCRYPT_MESSAGES say now."""
    async with _open_desk("keys_convert") as desk:
        wanted: dict[Kind, bool] = {kind: is_encrypted(desk.keyring, kind) for kind in KINDS}
        await desk.db.write(lambda tx: note_forms(tx, wanted), timeout_seconds=600)
        await desk.db.read(desk.keyring.watch)
        for kind in KINDS:
            await _convert(desk, kind)
    _console.print("Done: all rows are stored as the settings say.")


@keys.command("rebuild-index")
@_command
async def rebuild() -> None:
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
                    desk.db, desk.keyring, newer, on_progress=lambda n: bar.advance(task, n)
                )
            await finish_rebuild(desk.db, older, newer)
            if done.unreadable:
                _errors.print(f"{done.unreadable} phones do not open and are found no more.")
    _console.print(
        "Done: set INDEX_KEY to the new key and remove INDEX_KEY_NEW at the next start of the servers.",
        soft_wrap=True,
    )


@keys.command("status")
@_command
async def status() -> None:
    """Tell which keys there are; write the fingerprint down beside a backup."""
    async with _open_desk() as desk:
        counts = select(KeyRow.kek_version, func.count()).group_by(KeyRow.kek_version)
        rows = await desk.db.read(lambda tx: tx.all(counts.order_by(KeyRow.kek_version)))
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


async def _convert(desk: Desk, kind: Kind) -> None:
    encrypt = is_encrypted(desk.keyring, kind)
    invalid = 0
    for place in places_of(kind):
        condition = is_other_form(place, encrypt=encrypt)
        invalid += await _rewrite(desk, place, condition)
    if invalid:
        raise SettingsError(
            [f"{invalid} values of {kind} do not open and were left as they are; see the audit log"]
        )
    form = SEALED if encrypt else PLAIN
    await desk.db.write(lambda tx: set_form(tx, kind, form))


async def _rewrite(desk: Desk, place: Place, condition: ColumnElement[bool]) -> int:
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
        )
    return done.invalid


async def _list_owners(desk: Desk, age: timedelta) -> list[str]:
    """Whose newest version is older; a key without a date is older than any."""

    async def work(tx: Tx) -> list[str]:
        newest = func.max(func.coalesce(KeyRow.created_at, 0))
        statement = select(KeyRow.id).group_by(KeyRow.id).having(newest <= tx.now - age)
        return [name for name in await tx.scalars(statement) if name != ROOT_KEY]

    return await desk.db.read(work)


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

    return await desk.db.write(work)


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


async def _renew(desk: Desk, owner: str, version: int) -> bool:
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
                desk.db, desk.keyring, place, condition, on_progress=lambda _: None
            )
            is_needed |= done.invalid > 0
    if not is_needed:
        await desk.db.write(lambda tx: desk.keyring.retire_versions(tx, owner, version))
    return not is_needed


def _owned(place: Place, owner: str) -> ColumnElement[bool] | None:
    if owner == SERVER_KEY and place.sealed.fixed:
        # What the record holds of nobody in particular.
        return place.owner_columns[0].is_(None)
    return is_owned(place, owner)


@asynccontextmanager
async def _open_desk(act: str | None = None) -> AsyncGenerator[Desk]:
    """Nothing is written before the keys are proved. `act` is recorded before it is begun."""
    settings = load_settings()
    secrets, kek = await prove_keys(settings)
    if kek is None:
        raise SettingsError(
            ["DATABASE_URL: this database was never set up; start the server first"]
        )
    write_log_at_once = configure_logging(settings.log)
    db = open_database(settings, SystemClock())
    try:
        keyring = await open_keyring(
            db,
            secrets.master_key,
            rounds=settings.secrets.pbkdf2_rounds,
            personal=settings.secrets.encrypt_personal_data,
            messages=settings.secrets.encrypt_messages,
            kek=kek,
        )
        if act is not None:
            await record_act(db, keyring, act)
        yield Desk(settings, secrets, kek, db, keyring)
    finally:
        await db.close()
        write_log_at_once()


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
