"""Changing INDEX_KEY beside the running servers: phones and names are indexed anew, account by account.

Servers that know both keys look people up under both, and write under the newer one once this has begun,
so search and import are right throughout. Where it stands is committed with each batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from app.features.audit.phones import move_phones
from app.features.updates.log import lock_scopes
from app.features.users.models import UserRow
from app.features.users.names import replace_name_tokens
from app.features.users.people import Person, load_people
from app.infra.cipher.blind_index import (
    CHECK_NAME,
    KNOWN_NAME,
    NEXT_NAME,
    OLD_NAME,
    BlindIndex,
    find_index_state,
)
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.pace import paced
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert
from app.kernel.scopes import user_scope
from app.settings import SettingsError

_AFTER_NAME = "index_rebuilt_after"
BATCH = 100


@dataclass(slots=True)
class Rebuilt:
    """`unreadable`: accounts whose phone does not open, so that nobody finds them by it."""

    accounts: int = 0
    unreadable: int = 0


async def begin_rebuild(db: Database, older: BlindIndex, newer: BlindIndex) -> bool:
    """Begin, or go on.

    Returns:
        False if the indexes are under the newer key already.

    Raises:
        SettingsError: a key is not the right one, or servers run that do not know the newer one.
    """

    async def work(tx: Tx) -> bool:
        # Waits for those who write under the older key at this moment.
        await tx.execute(
            update(ServerStateRow)
            .where(ServerStateRow.name == CHECK_NAME)
            .values(value=ServerStateRow.value)
        )
        state = await find_index_state(tx)
        if state.get(CHECK_NAME) == newer.check_value():
            return False
        if state.get(CHECK_NAME) != older.check_value():
            raise SettingsError(["INDEX_KEY: this is not the key of this database"])
        begun = state.get(NEXT_NAME)
        if begun is not None and begun != newer.check_value():
            raise SettingsError(["INDEX_KEY_NEW: a rebuild under another key was begun"])
        if state.get(KNOWN_NAME) != newer.check_value():
            fault = "INDEX_KEY_NEW: start the servers with it first, then they look under both keys"
            raise SettingsError([fault])
        await _set(tx, NEXT_NAME, newer.check_value())
        return True

    return await db.write(work, timeout_seconds=LONG_SECONDS)


async def count_left(db: Database) -> int:
    """Accounts that are still to be indexed."""

    async def work(tx: Tx) -> int:
        statement = select(func.count()).select_from(UserRow)
        after = await _find_after(tx)
        return (
            await tx.scalar(statement.where(UserRow.id > after, UserRow.phone_index.is_not(None)))
            or 0
        )

    return await db.read(work, timeout_seconds=SCAN_SECONDS)


async def rebuild_index(
    db: Database,
    keyring: Keyring,
    newer: BlindIndex,
    *,
    on_progress: Callable[[int], None],
    batch: int = BATCH,
) -> Rebuilt:
    """All accounts behind the last one that was done."""
    done = Rebuilt()

    async def work(tx: Tx) -> tuple[int, int]:
        return await _rebuild_some(tx, keyring, newer, batch)

    while True:
        async with paced(db.dialect):
            count, unreadable = await db.write(work, timeout_seconds=LONG_SECONDS)
        if count == 0:
            return done
        done.accounts += count
        done.unreadable += unreadable
        on_progress(count)


async def finish_rebuild(db: Database, older: BlindIndex, newer: BlindIndex) -> None:
    """From here on the older key finds nothing."""

    async def work(tx: Tx) -> None:
        await _set(tx, CHECK_NAME, newer.check_value())
        await _set(tx, OLD_NAME, older.check_value())
        await tx.execute(
            delete(ServerStateRow).where(ServerStateRow.name.in_([NEXT_NAME, _AFTER_NAME]))
        )

    await db.write(work, timeout_seconds=LONG_SECONDS)


async def _rebuild_some(tx: Tx, keyring: Keyring, newer: BlindIndex, limit: int) -> tuple[int, int]:
    """Up to `limit` accounts: (how many, of them unreadable)."""
    after = await _find_after(tx)
    ids = await tx.scalars(
        select(UserRow.id)
        .where(UserRow.id > after, UserRow.phone_index.is_not(None))
        .order_by(UserRow.id)
        .limit(limit)
    )
    if not ids:
        return 0, 0
    # A new name is written under the same lock.
    await lock_scopes(tx, [user_scope(user_id) for user_id in ids])
    people = await load_people(tx, keyring, ids)
    for person in people.values():
        await _index(tx, newer, person)
    await _set(tx, _AFTER_NAME, str(ids[-1]))
    return len(ids), sum(person.phone is None for person in people.values())


async def _index(tx: Tx, newer: BlindIndex, person: Person) -> None:
    if person.is_deleted:
        return
    if person.phone is not None:
        phone_index = newer.phone(person.phone)
        older = await tx.scalar(select(UserRow.phone_index).where(UserRow.id == person.id))
        if older is not None and older != phone_index:
            await move_phones(tx, {older: phone_index})
        await tx.execute(
            update(UserRow)
            .where(UserRow.id == person.id, UserRow.deleted_at.is_(None))
            .values(phone_index=phone_index)
        )
    await replace_name_tokens(
        tx, newer, person.id, first_name=person.first_name, last_name=person.last_name
    )


async def _find_after(tx: Tx) -> int:
    found = select(ServerStateRow.value).where(ServerStateRow.name == _AFTER_NAME)
    return int(await tx.scalar(found) or 0)


async def _set(tx: Tx, name: str, value: str) -> None:
    row = {"name": name, "value": value}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])
