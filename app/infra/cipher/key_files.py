"""Wrapped keys in a file of their own, apart from what they seal: the backup that is kept short.

A line of JSON each: what MASTER_KEY is turned into a key with, then every row of `keys`, then how many there were.
Nothing of it opens without MASTER_KEY.
"""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import delete, insert, select, tuple_

from app.infra.cipher.kek import KDF_NAME, NEXT_NAME
from app.infra.cipher.models import KeyRow
from app.infra.database.database import SCAN_SECONDS, Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.settings import SettingsError

_FORMAT: Final = "messenger-keys-1"
_BATCH: Final = 1000
_CUT_OFF: Final = "The file of keys is cut off or is none; nothing was changed"


async def write_key_file(db: Database, file: Path) -> int:
    """Replace `file`, for its owner alone, once all of it is on the disk.

    Returns:
        How many keys.

    Raises:
        SettingsError: the change of a master key ended meanwhile.
    """
    draft = file.with_name(f"{file.name}.part")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        before = await db.read(_find_state)
        _put(out, {"format": _FORMAT, "state": before})
        count = await _write_rows(db, out)
        _put(out, {"count": count})
        if await db.read(_find_state) != before:
            raise SettingsError(["MASTER_KEY: its change began or ended meanwhile; back up again"])
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    return count


async def restore_key_file(tx: Tx, file: Path) -> int:
    """Put the keys into a database that was restored without any.

    Returns:
        How many.

    Raises:
        SettingsError: the file is cut off or is none, or the database has keys.
    """
    if await tx.scalar(select(KeyRow.id).limit(1)) is not None:
        fault = "This database has keys; restore them into one that was restored without"
        raise SettingsError([fault])
    try:
        with file.open(encoding="ascii") as lines:
            return await _restore(tx, (json.loads(line) for line in lines))
    except OSError as error:
        raise SettingsError([f"The file of keys cannot be read: {error.strerror}"]) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError([_CUT_OFF]) from error


async def _restore(tx: Tx, documents: Iterator[Any]) -> int:
    state: dict[str, str] = _check_head(next(documents, None))["state"]
    # What the data was saved with may be of before a change of the master key.
    await tx.execute(delete(ServerStateRow).where(ServerStateRow.name.in_([KDF_NAME, NEXT_NAME])))
    rows = [{"name": name, "value": value} for name, value in state.items()]
    await tx.execute(insert(ServerStateRow), rows)
    waiting: list[dict[str, object]] = []
    for count, document in enumerate(documents):
        if isinstance(document, dict):
            await _insert(tx, waiting)
            if document["count"] != count:
                raise SettingsError([_CUT_OFF])
            return count
        waiting.append(_read_row(document))
        if len(waiting) == _BATCH:
            await _insert(tx, waiting)
            waiting.clear()
    raise SettingsError([_CUT_OFF])


async def _insert(tx: Tx, rows: list[dict[str, object]]) -> None:
    if rows:
        await tx.execute(insert(KeyRow), rows)


def _check_head(head: Any) -> Any:
    if head["format"] != _FORMAT or KDF_NAME not in head["state"]:
        raise SettingsError([_CUT_OFF])
    return head


async def _find_state(tx: Tx) -> dict[str, str]:
    statement = select(ServerStateRow.name, ServerStateRow.value).where(
        ServerStateRow.name.in_([KDF_NAME, NEXT_NAME])
    )
    return {row.name: row.value for row in await tx.all(statement)}


async def _write_rows(db: Database, out: IO[str]) -> int:
    """Page by page: what is made or destroyed meanwhile may be in it or not."""
    count = 0
    last = ("", 0)
    place = tuple_(KeyRow.id, KeyRow.version)
    statement = select(
        KeyRow.id, KeyRow.version, KeyRow.kek_version, KeyRow.wrapped, KeyRow.created_at
    ).order_by(KeyRow.id, KeyRow.version)
    while True:
        page = statement.where(place > last).limit(_BATCH)
        rows = await db.read(lambda tx, page=page: tx.all(page), timeout_seconds=SCAN_SECONDS)
        for owner, version, kek_version, wrapped, created_at in rows:
            made = None if created_at is None else created_at.isoformat()
            _put(out, [owner, version, kek_version, b64encode(wrapped).decode(), made])
        count += len(rows)
        if len(rows) < _BATCH:
            return count
        last = (rows[-1].id, rows[-1].version)


def _read_row(document: Any) -> dict[str, object]:
    owner, version, kek_version, wrapped, made = document
    return {
        "id": owner,
        "version": version,
        "kek_version": kek_version,
        "wrapped": b64decode(wrapped),
        "created_at": None if made is None else datetime.fromisoformat(made),
    }


def _put(out: IO[str], document: object) -> None:
    out.write(json.dumps(document, separators=(",", ":")) + "\n")
