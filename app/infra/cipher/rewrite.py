"""Writing stored values anew, column by column, beside the running server: under a newer version of
their key, or in the form that the settings ask for.

A value is replaced only if it is still the one that was read, so that nothing a server writes meanwhile
is lost. Progress lies in the values themselves: whoever is cut off begins again and finds less to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select, true, update

from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring
from app.infra.cipher.places import Kind, Place
from app.infra.cipher.revisions import revision_of_table
from app.infra.cipher.stored_forms import PLAIN_MARK
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.pace import paced
from app.infra.database.tx import Tx

BATCH = 200


@dataclass(slots=True)
class Rewritten:
    """`invalid` values do not open and stay as they are."""

    rewritten: int = 0
    invalid: int = 0


def is_other_form(place: Place, *, encrypt: bool) -> ColumnElement[bool]:
    """Values that are not stored as the settings ask; emptied ones have no form."""
    mark = func.substr(place.column, 1, 1)
    other = (mark == PLAIN_MARK) if encrypt else (mark != PLAIN_MARK)
    return other & (func.length(place.column) > 0)


def is_older(place: Place, version: int) -> ColumnElement[bool]:
    """Values under another version of the key than this one, the newest."""
    head = b"\x01" + version.to_bytes(4, "big")
    mark = func.substr(place.column, 1, 1)
    return (mark == b"\x01") & (func.substr(place.column, 1, 5) != head)


def is_owned(place: Place, owner: str) -> ColumnElement[bool] | None:
    """Rows whose values are under this key; None: the key has none in this column."""
    kind, _, number = owner.partition(":")
    wanted, _, name = place.sealed.owner.partition(":")
    if kind != wanted:
        return None
    if not number:
        return true()
    return place.table.c[name.strip("{}")] == int(number)


async def count_values(db: Database, place: Place, condition: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(place.table).where(condition)
    return await db.read(lambda tx: tx.scalar(statement), timeout_seconds=SCAN_SECONDS) or 0


async def rewrite(
    db: Database,
    keyring: Keyring,
    place: Place,
    condition: ColumnElement[bool],
    *,
    on_progress: Callable[[int], None],
    batch: int = BATCH,
) -> Rewritten:
    """Seal every value that `condition` finds as it would be sealed today.

    They are looked for outside of the transaction that writes: what is left may lie behind millions of
    others, and nobody could write meanwhile on SQLite.
    """
    done = Rewritten()
    last: int | None = None
    while rows := await db.read(
        lambda tx, last=last: _find_some(tx, place, condition, last, batch),
        timeout_seconds=SCAN_SECONDS,
    ):
        async with paced(db.dialect):
            rewritten = await db.write(
                lambda tx, rows=rows: _rewrite_some(tx, keyring, place, rows),
                timeout_seconds=LONG_SECONDS,
            )
        last = rows[-1].row_id
        done.rewritten += rewritten
        done.invalid += len(rows) - rewritten
        on_progress(len(rows))
    return done


async def _find_some(
    tx: Tx, place: Place, condition: ColumnElement[bool], last: int | None, limit: int
) -> Sequence[Any]:
    """Up to `limit` rows behind `last`."""
    revision = revision_of_table(place.table.name, place.row_id).label("revision")
    statement = (
        select(
            place.row_id.label("row_id"),
            place.column.label("value"),
            revision,
            *(column.label(f"of_{column.name}") for column in place.owner_columns),
        )
        .where(condition, place.column.is_not(None))
        .order_by(place.row_id)
        .limit(limit)
    )
    if last is not None:
        statement = statement.where(place.row_id > last)
    return await tx.all(statement)


async def _rewrite_some(tx: Tx, keyring: Keyring, place: Place, rows: Sequence[Any]) -> int:
    """How many of them opened; one that was changed meanwhile is as its writer left it."""
    owners = [_owner(place, row) for row in rows]
    keys = await keyring.load(tx, owners)
    rewritten = 0
    for row, owner in zip(rows, owners, strict=True):
        key = keys.get(owner)
        fresh = None if key is None else _seal_anew(key, keyring, place, row)
        if fresh is None:
            continue
        same = (place.row_id == row.row_id) & (place.column == row.value)
        await tx.execute(update(place.table).where(same).values({place.column.name: fresh}))
        rewritten += 1
    return rewritten


def _owner(place: Place, row: Any) -> str:
    names = {column.name: getattr(row, f"of_{column.name}") for column in place.owner_columns}
    return place.owner_of(names)


def _seal_anew(key: DataKey, keyring: Keyring, place: Place, row: Any) -> bytes | None:
    table, column = place.table.name, place.column.name
    revision = row.revision if place.sealed.revised else 0
    try:
        plain = key.open(
            row.value, table=table, column=column, row_id=row.row_id, revision=revision
        )
    except CiphertextInvalid:
        return None
    return key.seal(
        plain,
        table=table,
        column=column,
        row_id=row.row_id,
        revision=revision,
        encrypt=is_encrypted(keyring, place.sealed.kind),
    )


def is_encrypted(keyring: Keyring, kind: Kind) -> bool:
    """Whether the settings ask for a cipher."""
    return {"personal": keyring.personal, "messages": keyring.messages, "always": True}[kind]
