"""Writing stored values anew, column by column, beside the running server: under a newer version of
their key, or in the form that the settings ask for.

A value is replaced only if it is still the one that was read, so that nothing a server writes meanwhile
is lost. Progress lies in the values themselves: whoever is cut off begins again and finds less to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select, true, update

from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring
from app.infra.cipher.places import Kind, Place
from app.infra.cipher.revisions import revision_of_table
from app.infra.cipher.stored_forms import PLAIN_MARK
from app.infra.database.database import Database
from app.infra.database.tx import Tx

_BATCH = 200


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
    return await db.read(lambda tx: tx.scalar(statement)) or 0


async def rewrite(
    db: Database,
    keyring: Keyring,
    place: Place,
    condition: ColumnElement[bool],
    *,
    on_progress: Callable[[int], None],
) -> Rewritten:
    """Seal every value that `condition` finds as it would be sealed today."""
    done = Rewritten()
    last: int | None = None

    async def work(tx: Tx) -> tuple[int | None, int, int]:
        return await _rewrite_some(tx, keyring, place, condition, last)

    while True:
        last, rewritten, invalid = await db.write(work)
        done.rewritten += rewritten
        done.invalid += invalid
        if last is None:
            return done
        on_progress(rewritten + invalid)


async def _rewrite_some(
    tx: Tx,
    keyring: Keyring,
    place: Place,
    condition: ColumnElement[bool],
    last: int | None,
) -> tuple[int | None, int, int]:
    """The next rows behind `last`: (their last id or None, rewritten, invalid)."""
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
        .limit(_BATCH)
    )
    if last is not None:
        statement = statement.where(place.row_id > last)
    rows = await tx.all(statement)
    if not rows:
        return None, 0, 0
    owners = [_owner(place, row) for row in rows]
    keys = await keyring.load(tx, owners)
    rewritten = invalid = 0
    for row, owner in zip(rows, owners, strict=True):
        key = keys.get(owner)
        fresh = None if key is None else _seal_anew(key, keyring, place, row)
        if fresh is None:
            invalid += 1
            continue
        same = (place.row_id == row.row_id) & (place.column == row.value)
        await tx.execute(update(place.table).where(same).values({place.column.name: fresh}))
        rewritten += 1
    return rows[-1].row_id, rewritten, invalid


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
