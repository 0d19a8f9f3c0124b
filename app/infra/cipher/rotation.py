"""Changing MASTER_KEY while servers run: every data key is wrapped anew, none is changed.

Each step is one transaction, so a kill at any moment leaves a database that opens: with the old key until
the last step, with the new one from it on. The canary (the server's own keys) is re-wrapped in that step.
"""

import hmac
from dataclasses import dataclass, replace

from sqlalchemy import delete, func, select, update

from app.infra.cipher.envelope import CiphertextInvalid, unwrap_key, wrap_key
from app.infra.cipher.kek import (
    KDF_NAME,
    NEXT_NAME,
    SERVER_KEY,
    Kdf,
    Kek,
    derive_kek,
    find_kdfs,
    new_kdf,
    open_link,
    wrap_link,
)
from app.infra.cipher.keyring import ROOT_KEY
from app.infra.cipher.models import KeyRow
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.pace import paced
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.settings import SettingsError

_OWN = (SERVER_KEY, ROOT_KEY)


@dataclass(frozen=True, slots=True)
class Rotation:
    """From one key-encryption key to the next."""

    older: Kek
    newer: Kek
    kdf: Kdf


async def begin_rotation(db: Database, older: Kek, new_master_key: bytes, rounds: int) -> Rotation:
    """Begin, or go on with what was begun and cut off.

    Raises:
        SettingsError: MASTER_KEY_NEW is the old one, or not the one that was begun with.
    """
    begun = (await db.read(find_kdfs, timeout_seconds=LONG_SECONDS)).get(NEXT_NAME)
    kdf = begun or new_kdf(older.version + 1, rounds)
    newer = await derive_kek(kdf, new_master_key)
    if begun is None:
        kdf = replace(kdf, link=wrap_link(older, newer))
        row = {"name": NEXT_NAME, "value": kdf.store()}
        # Of two that begin at once the other one wins; then ours is not what stands there.
        await db.write(
            lambda tx: insert_ignore(tx, ServerStateRow, [row], index=["name"]),
            timeout_seconds=LONG_SECONDS,
        )
        kdf = (await db.read(find_kdfs, timeout_seconds=LONG_SECONDS))[NEXT_NAME]
    try:
        is_same = hmac.compare_digest(open_link(older, kdf).key, newer.key)
    except CiphertextInvalid:
        is_same = False
    if not is_same:
        fault = "MASTER_KEY_NEW: a change to another key was begun; go on with that one"
        raise SettingsError([fault])
    return Rotation(older, newer, kdf)


async def count_older(db: Database, rotation: Rotation) -> int:
    """Keys that still have to be wrapped anew."""
    statement = select(func.count()).select_from(KeyRow)
    older = KeyRow.kek_version < rotation.newer.version
    return (
        await db.read(lambda tx: tx.scalar(statement.where(older)), timeout_seconds=SCAN_SECONDS)
        or 0
    )


async def rewrap_some(db: Database, rotation: Rotation, *, limit: int) -> int:
    """Wrap up to `limit` keys anew, in one transaction; a damaged one stays as it is.

    Returns:
        How many were found; 0: none is left but the server's own.
    """

    async def work(tx: Tx) -> int:
        statement = select(KeyRow.id, KeyRow.version, KeyRow.kek_version, KeyRow.wrapped)
        rows = await tx.all(
            statement.where(
                KeyRow.kek_version == rotation.older.version, KeyRow.id.not_in(_OWN)
            ).limit(limit)
        )
        for row in rows:
            await _rewrap(tx, rotation, row.id, row.version, row.wrapped)
        return len(rows)

    async with paced(db.dialect):
        return await db.write(work, timeout_seconds=SCAN_SECONDS)


async def finish_rotation(db: Database, rotation: Rotation) -> bool:
    """The last step: from here on the old key opens nothing.

    Returns:
        False if a server has made a key under the old one meanwhile; then re-wrap again.
    """

    async def work(tx: Tx) -> bool:
        # Whoever makes a key holds this row's lock: none is made behind our back.
        state = replace(rotation.kdf, link=None).store()
        await tx.execute(
            update(ServerStateRow).where(ServerStateRow.name == KDF_NAME).values(value=state)
        )
        others = select(KeyRow.id).where(
            KeyRow.kek_version == rotation.older.version, KeyRow.id.not_in(_OWN)
        )
        if await tx.first(others.limit(1)) is not None:
            msg = "a key was made meanwhile"
            raise _NotYet(msg)
        statement = select(KeyRow.id, KeyRow.version, KeyRow.wrapped)
        rows = await tx.all(
            statement.where(KeyRow.id.in_(_OWN), KeyRow.kek_version == rotation.older.version)
        )
        for row in rows:
            await _rewrap(tx, rotation, row.id, row.version, row.wrapped)
        await tx.execute(delete(ServerStateRow).where(ServerStateRow.name == NEXT_NAME))
        return True

    try:
        return await db.write(work, timeout_seconds=SCAN_SECONDS)
    except _NotYet:
        return False


class _NotYet(Exception):  # noqa: N818 - rolls the last step back
    """See `finish_rotation`."""


async def _rewrap(tx: Tx, rotation: Rotation, owner: str, version: int, wrapped: bytes) -> None:
    older, newer = rotation.older, rotation.newer
    try:
        payload = unwrap_key(
            older.cipher, wrapped, owner=owner, version=version, kek_version=older.version
        )
        fresh = wrap_key(
            newer.cipher, payload, owner=owner, version=version, kek_version=newer.version
        )
    except CiphertextInvalid:
        # It opened nothing before and opens nothing now; it must not hold up the others.
        fresh = wrapped
    await tx.execute(
        update(KeyRow)
        .where(
            KeyRow.id == owner,
            KeyRow.version == version,
            KeyRow.kek_version == older.version,
            KeyRow.wrapped == wrapped,
        )
        .values(kek_version=newer.version, wrapped=fresh)
    )
