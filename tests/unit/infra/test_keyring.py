"""Keys: one installation, one KEK; nothing is shared before its commit; a wrong MASTER_KEY touches nothing."""

import asyncio

import pytest
from sqlalchemy import delete, func, select

from app.infra.cipher.blind_index import open_blind_index
from app.infra.cipher.keyring import SERVER_KEY, Keyring, chat_key, open_keyring, user_key
from app.infra.cipher.models import KeyRow
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.settings import SettingsError

MASTER = b"m" * 40
PLACE = {"table": "t", "column": "c", "row_id": 1}


async def opened(db: Database, master: bytes = MASTER, *, least_rounds: int = 1) -> Keyring:
    return await open_keyring(
        db, master, rounds=1000, personal=True, messages=True, least_rounds=least_rounds
    )


async def count_rows(db: Database) -> tuple[int | None, int | None]:
    async def work(tx: Tx) -> tuple[int | None, int | None]:
        keys = await tx.scalar(select(func.count()).select_from(KeyRow))
        return keys, await tx.scalar(select(func.count()).select_from(ServerStateRow))

    return await db.read(work)


async def test_processes_that_start_at_once_agree(db: Database) -> None:
    keyrings = await asyncio.gather(*(opened(db) for _ in range(8)))
    assert len({keyring.derive("bus") for keyring in keyrings}) == 1
    assert await count_rows(db) == (2, 1)  # the server and the root
    keys = [await db.read(lambda tx, k=k: k.require(tx, SERVER_KEY)) for k in keyrings]
    sealed = keys[0].seal(b"x", **PLACE)
    assert all(key.open(sealed, **PLACE) == b"x" for key in keys)


async def test_a_wrong_master_key_refuses_to_start_and_touches_nothing(db: Database) -> None:
    await opened(db)
    before = await count_rows(db)
    with pytest.raises(SettingsError, match=r"^MASTER_KEY: this is not the key"):
        await opened(db, b"w" * 40)
    assert await count_rows(db) == before
    await opened(db)


async def test_two_first_starts_with_different_keys_leave_one_winner(db: Database) -> None:
    results = await asyncio.gather(opened(db), opened(db, b"w" * 40), return_exceptions=True)
    assert sorted(isinstance(result, SettingsError) for result in results) == [False, True]


async def test_lost_salt_or_server_key_is_never_replaced_under_data(db: Database) -> None:
    keyring = await opened(db)
    await db.write(lambda tx: keyring.create(tx, user_key(UserId(1))))

    await db.write(lambda tx: tx.execute(delete(KeyRow).where(KeyRow.id == SERVER_KEY)))
    with pytest.raises(SettingsError, match="lost the row"):
        await opened(db)
    await db.write(lambda tx: tx.execute(delete(ServerStateRow)))
    with pytest.raises(SettingsError, match="lost the row"):
        await opened(db)
    assert await count_rows(db) == (2, 0)


async def test_production_refuses_a_database_made_with_few_rounds(db: Database) -> None:
    await opened(db)
    with pytest.raises(SettingsError, match="PBKDF2_ROUNDS=1000"):
        await opened(db, least_rounds=600_000)


async def test_keys_are_found_by_every_process_in_one_query(db: Database) -> None:
    first, second = await opened(db), await opened(db)
    owners = [chat_key(ChatId(number)) for number in range(1, 40)]
    await db.write(lambda tx: first.create_many(tx, owners))

    keys = await db.read(lambda tx: first.load(tx, owners))
    others = await db.read(lambda tx: second.load(tx, [*owners, "chat:999"]))
    assert set(others) == set(owners)
    for owner in owners:
        assert others[owner].open(keys[owner].seal(b"x", **PLACE), **PLACE) == b"x"


async def test_a_key_of_a_rolled_back_transaction_is_never_used_again(db: Database) -> None:
    keyring = await opened(db)
    owner = chat_key(ChatId(1))

    async def fail(tx: Tx) -> None:
        key = await keyring.create(tx, owner)
        assert (await keyring.require(tx, owner)) is key
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.write(fail)
    assert await db.read(lambda tx: keyring.load(tx, [owner])) == {}
    created = await db.write(lambda tx: keyring.create(tx, owner))
    other = await opened(db)
    found = await db.read(lambda tx: other.require(tx, owner))
    assert found.open(created.seal(b"x", **PLACE), **PLACE) == b"x"
    assert await db.read(lambda tx: keyring.require(tx, owner)) is created


async def test_a_destroyed_key_is_gone(db: Database) -> None:
    keyring = await opened(db)
    owner = user_key(UserId(5))
    await db.write(lambda tx: keyring.create(tx, owner))
    await db.write(lambda tx: keyring.destroy(tx, [owner]))
    assert await db.read(lambda tx: keyring.load(tx, [owner])) == {}


async def test_the_cache_is_bounded(db: Database) -> None:
    await opened(db)
    keyring = Keyring(b"k" * 32, personal=True, messages=True, cache_size=10)
    owners = [chat_key(ChatId(number)) for number in range(1, 30)]
    await db.write(lambda tx: keyring.create_many(tx, owners))
    assert len(keyring._cache) == 10
    assert set(await db.read(lambda tx: keyring.load(tx, owners))) == set(owners)
    assert len(keyring._cache) == 10


def test_derived_keys_differ_by_purpose() -> None:
    keyring = Keyring(b"k" * 32, personal=True, messages=True)
    assert len({keyring.derive("bus"), keyring.derive("cursors"), b"k" * 32}) == 3


async def test_a_wrong_index_key_refuses_to_start(db: Database) -> None:
    indexes = await asyncio.gather(*(open_blind_index(db, b"i" * 32) for _ in range(4)))
    assert len({index.phone("+4740000000") for index in indexes}) == 1
    with pytest.raises(SettingsError, match=r"^INDEX_KEY"):
        await open_blind_index(db, b"j" * 32)
