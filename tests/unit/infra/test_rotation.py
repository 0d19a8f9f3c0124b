"""The master key changes step by step; every step leaves a database that opens."""

import pytest
from sqlalchemy import func, select, update

from app.infra.cipher.kek import NEXT_NAME, prove_master_key
from app.infra.cipher.keyring import Keyring, KeyUnreadable, chat_key, open_keyring
from app.infra.cipher.models import KeyRow
from app.infra.cipher.rotation import (
    Rotation,
    begin_rotation,
    count_older,
    finish_rotation,
    rewrap_some,
)
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId
from app.settings import SettingsError

pytestmark = pytest.mark.anyio

OLD, NEW = b"o" * 40, b"n" * 40
PLACE = {"table": "t", "column": "c", "row_id": 1}
OWNERS = [chat_key(ChatId(number)) for number in range(1, 8)]


async def opened(db: Database, master: bytes) -> Keyring:
    return await open_keyring(db, master, rounds=1000, personal=True, messages=True)


async def begin(db: Database, new: bytes = NEW) -> Rotation:
    return await begin_rotation(db, await prove_master_key(db, OLD), new, 1000)


async def seal_all(db: Database, keyring: Keyring) -> dict[str, bytes]:
    keys = await db.write(lambda tx: keyring.create_many(tx, OWNERS))
    return {owner: key.seal(owner.encode(), **PLACE) for owner, key in keys.items()}


async def opens_all(db: Database, keyring: Keyring, values: dict[str, bytes]) -> bool:
    keys = await db.read(lambda tx: keyring.load(tx, values))
    return keys.keys() == values.keys() and all(
        keys[owner].open(value, **PLACE) == owner.encode() for owner, value in values.items()
    )


async def test_every_step_opens_and_the_last_one_ends_the_old_key(db: Database) -> None:
    server = await opened(db, OLD)
    values = await seal_all(db, server)
    derived = server.derive("bus")
    rotation = await begin(db)
    while await rewrap_some(db, rotation, limit=2):
        # One that runs and holds nothing in memory, one that starts, and the one that was cut off.
        server._cache.clear()
        assert await opens_all(db, server, values)
        assert await opens_all(db, await opened(db, OLD), values)
        with pytest.raises(SettingsError, match="the change to this key has not ended"):
            await opened(db, NEW)
        rotation = await begin(db)
    assert await finish_rotation(db, rotation)
    assert await count_older(db, rotation) == 0

    server._cache.clear()
    assert await opens_all(db, server, values)
    started = await opened(db, NEW)
    assert await opens_all(db, started, values)
    assert started.derive("bus") == derived
    with pytest.raises(SettingsError, match=r"^MASTER_KEY: this is not the key"):
        await opened(db, OLD)
    link = select(ServerStateRow.value).where(ServerStateRow.name == NEXT_NAME)
    assert await db.read(lambda tx: tx.scalar(link)) is None


async def test_a_change_goes_on_with_its_own_key_alone(db: Database) -> None:
    await opened(db, OLD)
    await begin(db)
    with pytest.raises(SettingsError, match=r"^MASTER_KEY_NEW: a change to another key"):
        await begin(db, b"x" * 40)


async def test_a_key_made_meanwhile_is_wrapped_before_the_end(db: Database) -> None:
    """By a server that has not heard of the change, or is faster than its end."""
    server = await opened(db, OLD)
    rotation = await begin(db)
    owner = chat_key(ChatId(99))
    await db.write(lambda tx: server.create(tx, owner))
    found = select(KeyRow.kek_version).where(KeyRow.id == owner)
    assert await db.read(lambda tx: tx.scalar(found)) == 2

    async def wrap_as_before(tx: Tx) -> None:
        row = server._row(tx, chat_key(ChatId(100)), b"k" * 32, kek_version=1)
        await tx.execute(KeyRow.__table__.insert().values(row))

    await db.write(wrap_as_before)
    assert not await finish_rotation(db, rotation)
    await opened(db, OLD)
    assert await rewrap_some(db, rotation, limit=10) == 1
    assert await finish_rotation(db, rotation)


async def test_a_server_that_missed_the_change_refuses_and_harms_nothing(db: Database) -> None:
    server = await opened(db, OLD)
    values = await seal_all(db, server)
    rotation = await begin(db)
    while await rewrap_some(db, rotation, limit=100):
        pass
    await finish_rotation(db, rotation)
    server._cache.clear()
    assert await db.read(lambda tx: server.load(tx, values)) == {}
    with pytest.raises(KeyUnreadable):
        await db.write(lambda tx: server.create(tx, chat_key(ChatId(50))))
    count = select(func.count()).select_from(KeyRow)
    assert await db.read(lambda tx: tx.scalar(count)) == len(OWNERS) + 2


async def test_a_damaged_key_holds_nothing_up(db: Database) -> None:
    server = await opened(db, OLD)
    values = await seal_all(db, server)
    broken = update(KeyRow).where(KeyRow.id == OWNERS[0]).values(wrapped=b"x" * 60)
    await db.write(lambda tx: tx.execute(broken))
    rotation = await begin(db)
    while await rewrap_some(db, rotation, limit=3):
        pass
    assert await finish_rotation(db, rotation)
    del values[OWNERS[0]]
    assert await opens_all(db, await opened(db, NEW), values)
