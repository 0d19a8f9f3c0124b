"""Taking back what nobody reads any more: files, bytes, keys, objects; and what a kill has left."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select, update

from app.features.files.doomed import LEASE, note_objects, strike_out, take_due
from app.features.files.errors import FileEmpty, UploadRefused
from app.features.files.jobs import reclaim
from app.features.files.models import BlobRow, DoomedObjectRow, FileRow
from app.features.files.objects import one_piece
from app.features.files.policy import Purpose
from app.features.files.queries import count_uploads, sum_taken
from app.features.files.reclaim import (
    delete_doomed_objects,
    delete_ended_files,
)
from app.features.files.store import store_upload
from app.features.files.sweep import claim_sweep, sweep_storage
from app.features.files.uses import load_files
from app.infra.cipher.kek import NEXT_NAME, new_kdf
from app.infra.cipher.keyring import KeyUnreadable, blob_key, user_key
from app.infra.cipher.models import KeyRow
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.storage.port import StorageUnavailable
from app.kernel.ids import FileId, UserId
from app.settings import FileSettings
from tests.support.media import video
from tests.support.waiting import eventually
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio


async def count(depot: Depot, row: type[BlobRow | FileRow | DoomedObjectRow]) -> int:
    statement = select(func.count()).select_from(row)
    return await depot.world.db.read(lambda tx: tx.scalar(statement)) or 0


async def blob_keys(depot: Depot) -> int:
    statement = select(func.count()).where(KeyRow.id.like("blob:%"))
    return await depot.world.db.read(lambda tx: tx.scalar(statement)) or 0


async def end_all(depot: Depot) -> None:
    now = depot.world.clock.now()
    await delete_ended_files(depot.world.db, depot.world.keyring, before=now)
    await delete_doomed_objects(depot.services)


async def test_an_unused_file_goes_after_its_time_and_a_shown_one_stays(depot: Depot) -> None:
    anna = await depot.world.new_user()
    shown, unused = await depot.upload(anna), await depot.upload(anna)
    await depot.show(5, shown["id"])
    depot.world.clock.advance(hours=25)
    young = await depot.upload(anna)
    await reclaim(depot.services)
    depot.world.clock.advance(minutes=61)
    await reclaim(depot.services)
    await delete_doomed_objects(depot.services)
    ids = [it["id"] for it in (shown, unused, young)]
    left = await depot.world.db.read(lambda tx: load_files(tx, depot.world.keyring, ids))
    assert left.keys() == {shown["id"], young["id"]}
    assert len(depot.objects()) == 2
    assert await count(depot, BlobRow) == 2


async def test_an_ended_file_keeps_its_bytes_for_the_grace_time(depot: Depot) -> None:
    anna = await depot.world.new_user()
    file = await depot.upload(anna)
    await depot.show(5, file["id"])
    await depot.hide(5)
    await reclaim(depot.services)
    await delete_doomed_objects(depot.services)
    assert len(depot.objects()) == 1
    depot.world.clock.advance(minutes=61)
    await reclaim(depot.services)
    assert (await count(depot, FileRow), await count(depot, BlobRow)) == (0, 0)
    assert await blob_keys(depot) == 0
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []
    assert await count(depot, DoomedObjectRow) == 0


async def test_bytes_that_two_files_share_go_with_the_second(depot: Depot) -> None:
    anna = await depot.world.new_user()
    content = os.urandom(100)
    one, two = await depot.upload(anna, content), await depot.upload(anna, content)
    assert await count(depot, BlobRow) == 1
    for file, left in ((one, 1), (two, 0)):
        await depot.show(5, file["id"])
        await depot.hide(5)
        await end_all(depot)
        assert (await count(depot, BlobRow), len(depot.objects())) == (left, left)


async def test_an_equal_upload_that_comes_as_the_bytes_go_has_bytes(depot: Depot) -> None:
    anna = await depot.world.new_user()
    content = os.urandom(100)
    for _ in range(10):
        file = await depot.upload(anna, content)
        await depot.show(5, file["id"])
        await depot.hide(5)
        again, _ = await asyncio.gather(depot.upload(anna, content), end_all(depot))
        await delete_doomed_objects(depot.services)
        assert len(depot.objects()) == 1
        assert await count(depot, BlobRow) == 1
        await depot.show(5, again["id"])
        await depot.hide(5)
        await end_all(depot)
        assert depot.objects() == []


async def test_what_becomes_of_equal_bytes_keeps_them_apart_and_so_do_people(depot: Depot) -> None:
    """Not the word of the purpose: whichever of the two it is, this is kept as it came."""
    anna, bruno = await depot.world.new_user(), await depot.world.new_user("+447400123457")
    content, film = os.urandom(100), video()
    for purpose in (Purpose.ATTACHMENT, Purpose.DOCUMENT):
        await depot.upload(anna, content, purpose=purpose)
    assert await count(depot, BlobRow) == 1
    types = [
        (await depot.upload(anna, film, purpose=purpose))["file_type"]
        for purpose in (Purpose.ATTACHMENT, Purpose.DOCUMENT)
    ]
    assert types == ["video", "document"]
    await depot.upload(bruno, content)
    assert await count(depot, BlobRow) == 4
    tags = select(BlobRow.content_tag)
    assert len(set(await depot.world.db.read(lambda tx: tx.scalars(tags)))) == 4


async def test_a_plain_copy_is_not_taken_for_a_sealed_one(depot: Depot) -> None:
    """Whoever switches the sealing on is told that what is new is sealed."""
    anna = await depot.world.new_user()
    content = os.urandom(100)
    for is_sealed in (False, True, False):
        files = FileSettings(_env_file=None, ENCRYPT_FILES=is_sealed)
        settings = replace(depot.services.settings, files=files)
        services = replace(depot.services, settings=settings)
        await replace(depot, services=services).upload(anna, content)
    sizes = await depot.world.db.read(lambda tx: tx.scalars(select(BlobRow.chunk_size)))
    assert [bool(size) for size in sorted(sizes)] == [False, True]


async def test_equal_bytes_are_known_after_the_key_was_changed(depot: Depot) -> None:
    anna = await depot.world.new_user()
    content, owner = os.urandom(100), user_key(anna)
    keyring, db = depot.world.keyring, depot.world.db
    await depot.upload(anna, content)
    await db.write(lambda tx: keyring.add_version(tx, owner))
    await depot.upload(anna, content)
    await db.write(lambda tx: keyring.retire_versions(tx, owner, 2))
    await depot.upload(anna, content)
    assert (await count(depot, BlobRow), await count(depot, FileRow)) == (1, 3)


async def test_a_refusal_of_one_in_a_group_leaves_its_notes(depot: Depot) -> None:
    """The others are committed; what was written for this one is still noted, and goes."""
    anna = await depot.world.new_user()
    row = {"name": NEXT_NAME, "value": new_kdf(2, 1000).store()}
    await depot.world.db.write(lambda tx: tx.execute(insert(ServerStateRow).values(row)))
    # The master key was changed, and this process has the old one.
    with pytest.raises(KeyUnreadable):
        await depot.upload(anna)
    assert len(depot.objects()) == 1
    assert await count(depot, DoomedObjectRow) == 1
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []
    assert await count(depot, DoomedObjectRow) == 0


async def test_no_key_is_left_of_an_upload_that_came_too_late(depot: Depot) -> None:
    anna = await depot.world.new_user()
    db = depot.world.db

    async def chunks() -> AsyncIterator[bytes]:
        yield b"content"
        await db.write(lambda tx: tx.execute(update(DoomedObjectRow).values(is_taken=True)))

    with pytest.raises(UploadRefused):
        await store(depot, anna, chunks())
    assert await blob_keys(depot) == 0


async def test_an_upload_that_was_killed_is_deleted_when_its_notes_fall_due(depot: Depot) -> None:
    anna = await depot.world.new_user()
    db, name = depot.world.db, "A" * 32
    await db.write(lambda tx: note_objects(tx, [name], owner_id=anna))
    await depot.services.storage.write(name, one_piece(b"half of it"))
    assert await db.read(lambda tx: count_uploads(tx, anna)) == 1
    await delete_doomed_objects(depot.services)
    assert depot.objects() == [name]
    depot.world.clock.advance(seconds=LEASE.total_seconds() + 1)
    assert await db.read(lambda tx: count_uploads(tx, anna)) == 0
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []
    assert await count(depot, DoomedObjectRow) == 0


async def test_what_is_being_deleted_becomes_nobodys(depot: Depot) -> None:
    anna = await depot.world.new_user()
    db, name = depot.world.db, "A" * 32
    await db.write(lambda tx: note_objects(tx, [name], owner_id=anna))
    depot.world.clock.advance(seconds=LEASE.total_seconds() + 1)
    again = timedelta(minutes=5)
    assert await db.write(lambda tx: take_due(tx, limit=10, again_after=again)) == [name]
    assert not await db.write(lambda tx: strike_out(tx, [name]))
    assert await db.write(lambda tx: take_due(tx, limit=10, again_after=again)) == []


async def test_an_upload_whose_note_was_taken_is_refused_and_leaves_nothing(depot: Depot) -> None:
    anna = await depot.world.new_user()
    db = depot.world.db

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        # As if it had hung for ten minutes here.
        await db.write(lambda tx: tx.execute(update(DoomedObjectRow).values(due_at=tx.now)))
        await delete_doomed_objects(depot.services)
        yield b"second"

    # The directory notices itself that the half of it is gone.
    with pytest.raises((UploadRefused, StorageUnavailable)):
        await store(depot, anna, chunks())
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []
    assert await count(depot, BlobRow) == 0


async def test_an_upload_that_ends_after_its_account_did_is_refused(depot: Depot) -> None:
    anna = await depot.world.new_user()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await depot.world.db.write(lambda tx: depot.world.keyring.destroy(tx, [user_key(anna)]))

    with pytest.raises(UploadRefused):
        await store(depot, anna, chunks())
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []


async def test_what_breaks_an_upload_leaves_nothing(depot: Depot) -> None:
    anna = await depot.world.new_user()

    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(1_000_000)
        raise ConnectionResetError

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield os.urandom(300_000)
            await asyncio.sleep(0)

    with pytest.raises(ConnectionResetError):
        await store(depot, anna, broken())
    with pytest.raises(FileEmpty):
        await store(depot, anna, nothing())
    task = asyncio.create_task(store(depot, anna, endless()))

    async def has_begun() -> bool:
        return bool(depot.objects())

    await eventually(has_begun, what="something is on the disk")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await delete_doomed_objects(depot.services)
    assert depot.objects() == []
    assert await count(depot, DoomedObjectRow) == 0
    assert await depot.world.db.read(lambda tx: sum_taken(tx, anna, chunk_size=0)) == 0


async def store(depot: Depot, owner_id: UserId, chunks: AsyncIterator[bytes]) -> object:
    return await store_upload(
        depot.services,
        owner_id=owner_id,
        chunks=chunks,
        original_name="a.bin",
        purpose=Purpose.ATTACHMENT,
        declared_size=None,
    )


async def test_the_sweep_finds_what_nothing_refers_to_and_nothing_else(depot: Depot) -> None:
    anna = await depot.world.new_user()
    await depot.upload(anna)
    storage, known = depot.services.storage, depot.objects()
    await storage.write("B" * 32, one_piece(b"lost"))
    await storage.write("C" * 32, one_piece(b"under way"))
    await depot.world.db.write(lambda tx: note_objects(tx, ["C" * 32], owner_id=anna))
    young = depot.world.clock.now() - timedelta(days=365)
    assert await sweep_storage(depot.services, before=young) == 0
    later = depot.world.clock.now() + timedelta(days=365)
    assert await sweep_storage(depot.services, before=later) == 1
    await delete_doomed_objects(depot.services)
    assert depot.objects() == sorted([*known, "C" * 32])
    assert [await claim_sweep(depot.world.db) for _ in range(2)] == [True, False]


async def test_the_key_of_a_file_opens_nothing_once_it_is_gone(depot: Depot) -> None:
    anna = await depot.world.new_user()
    file = await depot.upload(anna)
    blob_id = await depot.world.db.read(lambda tx: tx.scalar(select(BlobRow.id)))
    assert blob_id is not None
    await depot.show(5, file["id"])
    await depot.hide(5)
    await end_all(depot)
    owner = blob_key(blob_id)
    assert await depot.world.db.read(lambda tx: depot.world.keyring.load(tx, [owner])) == {}


async def test_a_caller_who_goes_as_the_file_is_made_takes_nothing_from_it(depot: Depot) -> None:
    """Whether it was committed is not known then; what was committed keeps its bytes."""
    anna = await depot.world.new_user()
    begun, may_end = asyncio.Event(), asyncio.Event()
    made: list[FileId] = []

    async def bind(tx: Tx, file_id: FileId) -> None:
        del tx
        made.append(file_id)
        begun.set()
        await may_end.wait()

    task = asyncio.create_task(
        store_upload(
            depot.services,
            owner_id=anna,
            chunks=one_piece(b"content"),
            original_name="a.bin",
            purpose=Purpose.ATTACHMENT,
            declared_size=None,
            bind=bind,
        )
    )
    await begun.wait()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def is_there() -> bool:
        return await count(depot, FileRow) == 1

    await eventually(is_there, what="it was committed all the same")
    depot.world.clock.advance(hours=1)
    await delete_doomed_objects(depot.services)
    assert len(depot.objects()) == 1


async def test_who_refuses_to_be_bound_leaves_no_file(depot: Depot) -> None:
    anna = await depot.world.new_user()

    async def bind(tx: Tx, file_id: FileId) -> None:
        raise UploadRefused

    with pytest.raises(UploadRefused):
        await store_upload(
            depot.services,
            owner_id=anna,
            chunks=one_piece(b"content"),
            original_name="a.bin",
            purpose=Purpose.ATTACHMENT,
            declared_size=None,
            bind=bind,
        )
    await delete_doomed_objects(depot.services)
    assert (await count(depot, FileRow), await count(depot, BlobRow)) == (0, 0)
    assert depot.objects() == []


async def test_uploads_that_end_at_once_share_a_transaction_and_have_their_own_fate(
    depot: Depot,
) -> None:
    people = [await depot.world.new_user(f"+4474001234{number:02}") for number in range(20)]
    uploads = [depot.upload(person) for person in people for _ in range(3)]
    outcomes = await asyncio.gather(
        *uploads, store(depot, people[0], nothing()), return_exceptions=True
    )
    assert [type(it) for it in outcomes if isinstance(it, Exception)] == [FileEmpty]
    assert await count(depot, FileRow) == 60
    await delete_doomed_objects(depot.services)
    assert len(depot.objects()) == 60


async def nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece
