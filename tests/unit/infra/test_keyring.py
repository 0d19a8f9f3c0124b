"""Keys: one installation, one KEK; nothing is shared before its commit; a wrong MASTER_KEY touches nothing."""

import asyncio
import time

import pytest
from sqlalchemy import delete, func, select, update

from app.infra.cipher.blind_index import open_blind_index
from app.infra.cipher.envelope import CiphertextInvalid, key_version
from app.infra.cipher.kek import SERVER_KEY
from app.infra.cipher.keyring import (
    LEASE_SECONDS,
    Keyring,
    KeyUnreadable,
    chat_key,
    open_keyring,
    user_key,
)
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


async def test_a_damaged_key_is_reported_and_harms_no_other(db: Database) -> None:
    keyring = await opened(db)
    owners = [chat_key(ChatId(number)) for number in (1, 2)]
    await db.write(lambda tx: keyring.create_many(tx, owners))
    taken = select(KeyRow.wrapped).where(KeyRow.id == owners[1]).scalar_subquery()
    moved = update(KeyRow).where(KeyRow.id == owners[0]).values(wrapped=taken)
    await db.write(lambda tx: tx.execute(moved))
    reports: list[tuple[str, str, int | str]] = []
    other = await opened(db)
    other.on_invalid = lambda *place: reports.append(place)
    for _ in range(3):
        assert set(await db.read(lambda tx: other.load(tx, owners))) == {owners[1]}
    assert reports == [("keys", "wrapped", owners[0])]
    with pytest.raises(KeyUnreadable):
        await db.read(lambda tx: other.require(tx, owners[0]))


async def test_a_newer_version_is_heard_of_and_the_older_one_is_destroyed(db: Database) -> None:
    server, operator = await opened(db), await opened(db)
    owner = chat_key(ChatId(1))
    key = await db.write(lambda tx: server.create(tx, owner))
    old, fingerprint = key.seal(b"old", **PLACE), key.fingerprint(b"body")

    async def renew(tx: Tx) -> None:
        await operator.add_version(tx, owner)
        await operator.tell_all(tx)

    await db.read(server.watch)
    await db.write(renew)
    assert (await db.read(lambda tx: server.require(tx, owner))) is key
    await db.read(server.watch)
    newer = await db.read(lambda tx: server.require(tx, owner))
    assert newer.open(old, **PLACE) == b"old"
    assert key_version(newer.seal(b"x", **PLACE)) == 2

    assert await db.write(lambda tx: operator.retire_versions(tx, owner, 2)) == 1
    last = await db.read(lambda tx: operator.require(tx, owner))
    with pytest.raises(CiphertextInvalid):
        last.open(old, **PLACE)
    assert last.has_fingerprint(b"body", fingerprint)
    assert not last.has_fingerprint(b"other", fingerprint)
    assert last.open(newer.seal(b"x", **PLACE), **PLACE) == b"x"
    await db.write(renew)
    assert await db.write(lambda tx: operator.retire_versions(tx, owner, 3)) == 1
    last = await db.read(lambda tx: operator.require(tx, owner))
    assert last.has_fingerprint(b"body", fingerprint)


async def test_without_news_no_key_is_taken_from_memory(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot hear may hold a version that was destroyed, and must not seal with it."""
    keyring = await opened(db)
    owner = chat_key(ChatId(1))
    key = await db.write(lambda tx: keyring.create(tx, owner))
    await db.read(keyring.watch)
    assert (await db.read(lambda tx: keyring.require(tx, owner))) is key
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LEASE_SECONDS + 1)
    assert (await db.read(lambda tx: keyring.require(tx, owner))) is not key


async def test_who_has_no_key_gets_no_newer_one(db: Database) -> None:
    keyring = await opened(db)
    for change in (
        lambda tx: keyring.add_version(tx, "chat:404"),
        lambda tx: keyring.retire_versions(tx, "chat:404", 2),
    ):
        with pytest.raises(KeyUnreadable):
            await db.write(change)
    assert await count_rows(db) == (2, 1)
