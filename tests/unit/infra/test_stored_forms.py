"""What the database says about how data is stored counts only with a mark that nobody else can make."""

import pytest
from sqlalchemy import delete, select, update

from app.infra.cipher.envelope import CiphertextInvalid, unwrap_key, wrap_key
from app.infra.cipher.kek import prove_master_key
from app.infra.cipher.keyring import ROOT_KEY, Keyring, chat_key, open_keyring
from app.infra.cipher.models import KeyRow
from app.infra.cipher.rotation import begin_rotation, finish_rotation, rewrap_some
from app.infra.cipher.stored_forms import CONVERTING, MIXED, PLAIN, SEALED
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert
from app.kernel.ids import ChatId

pytestmark = pytest.mark.anyio

MASTER, NEW = b"m" * 40, b"n" * 40
OWNER = chat_key(ChatId(1))
NAME = "stored_messages"
BODY = {"table": "messages", "column": "body", "row_id": 1}
PLAIN_VALUE = b"\x00text"
FORGED = (
    None,
    MIXED,
    PLAIN,
    CONVERTING,
    f"{MIXED}$",
    f"{MIXED}$0011223344556677$" + "0" * 64,
    f"{SEALED}$0011223344556677$" + "0" * 64,
)


async def opened(db: Database, *, encrypt: bool = True, master: bytes = MASTER) -> Keyring:
    return await open_keyring(db, master, rounds=1000, personal=encrypt, messages=encrypt)


async def started(db: Database, *, encrypt: bool = True, master: bytes = MASTER) -> Keyring:
    """As a server does it."""
    keyring = await opened(db, encrypt=encrypt, master=master)
    await db.write(keyring.note_forms)
    await db.read(keyring.watch)
    return keyring


async def put_note(db: Database, value: str | None) -> None:
    async def work(tx: Tx) -> None:
        await tx.execute(delete(ServerStateRow).where(ServerStateRow.name == NAME))
        if value is not None:
            row = {"name": NAME, "value": value}
            await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])

    await db.write(work)


async def note(db: Database) -> str | None:
    statement = select(ServerStateRow.value).where(ServerStateRow.name == NAME)
    return await db.read(lambda tx: tx.scalar(statement))


async def opens_plain(db: Database, keyring: Keyring) -> bool:
    keys = await db.read(lambda tx: keyring.load(tx, [OWNER]))
    key = keys.get(OWNER) or await db.write(lambda tx: keyring.create(tx, OWNER))
    try:
        return key.open(PLAIN_VALUE, **BODY) == b"text"
    except CiphertextInvalid:
        return False


@pytest.mark.parametrize("value", FORGED, ids=str)
async def test_a_note_without_our_mark_allows_nothing(db: Database, value: str | None) -> None:
    server = await started(db)
    reports: list[tuple[str, str, int | str]] = []
    server.on_invalid = lambda *place: reports.append(place)
    await put_note(db, value)
    await db.read(server.watch)
    assert not await opens_plain(db, server)
    assert ("server_state", "value", NAME) in reports
    # Nor does it at the next start, which sets it right.
    assert not await opens_plain(db, await started(db))
    assert await note(db) == SEALED


async def test_a_mark_is_for_one_kind_and_one_form(db: Database) -> None:
    await started(db, encrypt=False)
    taken = await note(db)
    assert taken is not None
    for forged in (taken.replace(PLAIN, MIXED, 1), taken.replace(PLAIN, CONVERTING, 1)):
        await put_note(db, forged)
        assert not await opens_plain(db, await started(db))
    statement = select(ServerStateRow.value).where(ServerStateRow.name == "stored_personal")
    await put_note(db, await db.read(lambda tx: tx.scalar(statement)))
    assert not await opens_plain(db, await started(db))


async def test_without_encryption_a_note_that_was_damaged_hides_nothing(db: Database) -> None:
    server = await started(db, encrypt=False)
    await put_note(db, None)
    await db.read(server.watch)
    assert await opens_plain(db, server)
    assert await opens_plain(db, await started(db, encrypt=False))


async def test_what_was_stored_plain_is_read_until_it_is_converted(db: Database) -> None:
    assert await opens_plain(db, await started(db, encrypt=False))
    server = await started(db)
    assert await opens_plain(db, server)
    begun = await db.write(lambda tx: server.begin_conversion(tx, "messages"))
    assert await opens_plain(db, await started(db))
    assert await db.write(lambda tx: server.end_conversion(tx, "messages", SEALED, begun=begun))
    await db.read(server.watch)
    assert not await opens_plain(db, server)
    assert await db.write(lambda tx: server.begin_conversion(tx, "messages")) is None


async def test_a_process_with_older_settings_seals_as_soon_as_it_hears(db: Database) -> None:
    older = await started(db, encrypt=False)
    assert not older.messages
    operator = await started(db)
    begun = await db.write(lambda tx: operator.begin_conversion(tx, "messages"))
    await db.read(older.watch)
    assert older.messages
    assert not older.personal
    assert await opens_plain(db, older)
    await db.write(lambda tx: operator.end_conversion(tx, "messages", SEALED, begun=begun))
    await db.read(older.watch)
    assert older.messages
    assert not await opens_plain(db, older)


async def test_a_start_without_encryption_in_between_keeps_the_end_from_hiding(
    db: Database,
) -> None:
    await started(db, encrypt=False)
    operator = await started(db)
    begun = await db.write(lambda tx: operator.begin_conversion(tx, "messages"))
    late = await started(db, encrypt=False)
    assert not late.messages
    assert not await db.write(
        lambda tx: operator.end_conversion(tx, "messages", SEALED, begun=begun)
    )
    assert await opens_plain(db, await started(db))


async def test_marks_outlive_a_change_of_the_master_key(db: Database) -> None:
    await started(db, encrypt=False)
    await started(db)
    rotation = await begin_rotation(db, await prove_master_key(db, MASTER), NEW, 1000)
    while await rewrap_some(db, rotation, limit=10):
        pass
    assert await finish_rotation(db, rotation)
    assert await opens_plain(db, await started(db, master=NEW))
    await put_note(db, MIXED)
    assert not await opens_plain(db, await started(db, master=NEW))


async def go_back_to_before_marks(db: Database) -> None:
    """The root as it was made then; whoever has only the database cannot make it so."""
    kek = await prove_master_key(db, MASTER)
    place = {"owner": ROOT_KEY, "version": 1, "kek_version": 1}

    async def work(tx: Tx) -> None:
        wrapped = await tx.scalar(select(KeyRow.wrapped).where(KeyRow.id == ROOT_KEY))
        assert wrapped is not None
        secret = unwrap_key(kek.cipher, wrapped, **place)[:32]
        older = wrap_key(kek.cipher, secret, **place)
        await tx.execute(update(KeyRow).where(KeyRow.id == ROOT_KEY).values(wrapped=older))

    await db.write(work)


@pytest.mark.parametrize("form", [PLAIN, MIXED, SEALED])
async def test_a_database_of_before_marks_goes_on_and_is_marked_once(
    db: Database, form: str
) -> None:
    derived = (await opened(db)).derive("bus")
    await go_back_to_before_marks(db)
    await put_note(db, form)
    server = await started(db)
    assert server.derive("bus") == derived
    assert await opens_plain(db, server) == (form != SEALED)
    assert await opens_plain(db, await started(db)) == (form != SEALED)
    await put_note(db, form)
    assert not await opens_plain(db, await started(db))


async def test_a_root_that_was_deleted_brings_no_trust_back(db: Database) -> None:
    await started(db)
    await db.write(lambda tx: tx.execute(delete(KeyRow).where(KeyRow.id == ROOT_KEY)))
    await put_note(db, MIXED)
    assert not await opens_plain(db, await started(db))
