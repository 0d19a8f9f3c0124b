"""Who shows a file, and when it ends; on both databases."""

import asyncio

import pytest
from sqlalchemy import select

from app.features.files.errors import FileNotFound
from app.features.files.models import FileRow
from app.features.files.open_file import open_file
from app.features.files.policy import FileType
from app.features.files.uses import add_uses, claim_files, load_files, load_uses, remove_uses
from app.infra.database.tx import Tx
from app.kernel.ids import FileId, UserId
from tests.support.statements import recorded_statements
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio

NEVER = FileId(2**53 - 2)


async def may_read(depot: Depot, viewer_id: UserId, file_id: FileId) -> bool:
    name = await depot.world.db.read(
        lambda tx: tx.scalar(select(FileRow.name).where(FileRow.id == file_id))
    )
    try:
        await open_file(depot.services, viewer_id=viewer_id, file_type="document", name=name or "-")
    except FileNotFound:
        return False
    return True


async def test_a_file_is_read_by_its_uploader_and_by_who_sees_what_shows_it(depot: Depot) -> None:
    anna, bruno = await depot.world.new_user(), await depot.world.new_user("+447400123457")
    file = await depot.upload(anna)
    assert await may_read(depot, anna, file["id"])
    assert not await may_read(depot, bruno, file["id"])
    await depot.show(5, file["id"])
    assert not await may_read(depot, bruno, file["id"])
    depot.shelf.viewers[5] = {bruno}
    assert await may_read(depot, bruno, file["id"])
    depot.shelf.viewers[5] = set()
    assert not await may_read(depot, bruno, file["id"])


async def test_one_use_among_thousands_is_enough(depot: Depot) -> None:
    anna, bruno = await depot.world.new_user(), await depot.world.new_user("+447400123457")
    file = await depot.upload(anna)
    uses = {number: [file["id"]] for number in range(1, 1001)}
    await depot.world.db.write(lambda tx: add_uses(tx, "message", uses))
    assert not await may_read(depot, bruno, file["id"])
    depot.shelf.viewers[777] = {bruno}
    assert await may_read(depot, bruno, file["id"])


async def test_a_file_ends_with_its_last_use(depot: Depot) -> None:
    anna = await depot.world.new_user()
    file = await depot.upload(anna)
    await depot.show(5, file["id"])
    await depot.show(6, file["id"])
    await depot.hide(5)
    assert await may_read(depot, anna, file["id"])
    await depot.hide(6, 7)
    assert not await may_read(depot, anna, file["id"])
    with pytest.raises(FileNotFound):
        await depot.show(8, file["id"])
    await depot.hide(6)


async def test_two_who_take_the_last_uses_away_at_once_end_the_file(depot: Depot) -> None:
    anna = await depot.world.new_user()
    for _ in range(20):
        file = await depot.upload(anna)
        await depot.show(5, file["id"])
        await depot.show(6, file["id"])
        await asyncio.gather(depot.hide(5), depot.hide(6))
        assert not await may_read(depot, anna, file["id"])


async def test_a_use_that_comes_as_the_last_one_goes_saves_the_file_or_is_refused(
    depot: Depot,
) -> None:
    anna = await depot.world.new_user()
    for _ in range(20):
        file = await depot.upload(anna)
        await depot.show(5, file["id"])
        _, added = await asyncio.gather(
            depot.hide(5), depot.show(6, file["id"]), return_exceptions=True
        )
        assert await may_read(depot, anna, file["id"]) == (added is None)
        assert added is None or isinstance(added, FileNotFound)
        await depot.hide(6)


async def test_only_ones_own_living_files_are_claimed(depot: Depot) -> None:
    anna, bruno = await depot.world.new_user(), await depot.world.new_user("+447400123457")
    mine, other, theirs = (
        (await depot.upload(anna))["id"],
        (await depot.upload(anna))["id"],
        (await depot.upload(bruno))["id"],
    )
    ended = (await depot.upload(anna))["id"]
    await depot.show(5, ended)
    await depot.hide(5)

    async def claim(*ids: FileId, types: set[FileType] | None = None) -> list[FileId]:
        async def work(tx: Tx) -> list[FileId]:
            found = await claim_files(
                tx, depot.world.keyring, owner_id=anna, file_ids=ids, types=types
            )
            assert [it.view["id"] for it in found] == [it.id for it in found]
            return [it.id for it in found]

        return await depot.world.db.write(work)

    assert await claim(other, mine) == [other, mine]
    assert await claim(mine, types={FileType.DOCUMENT}) == [mine]
    assert await claim() == []
    for ids in ([theirs], [mine, theirs], [ended], [NEVER], [mine, NEVER]):
        with pytest.raises(FileNotFound):
            await claim(*ids)
    with pytest.raises(FileNotFound):
        await claim(mine, types={FileType.PHOTO})


async def test_uses_are_loaded_in_their_order_in_a_constant_number_of_statements(
    depot: Depot,
) -> None:
    anna = await depot.world.new_user()
    files = [(await depot.upload(anna))["id"] for _ in range(6)]
    await depot.show(5, files[2], files[0], files[1])
    await depot.show(6, *files)
    keyring = depot.world.keyring
    counts = []
    for subjects in ([5], [5, 6, 7]):
        with recorded_statements(depot.world.db) as statements:
            shown = await depot.world.db.read(
                lambda tx, subjects=subjects: load_uses(tx, keyring, "message", subjects)
            )
        counts.append(len(statements))
        assert [it["id"] for it in shown[5]] == [files[2], files[0], files[1]]
        assert 7 not in shown
    assert counts[0] == counts[1] <= 4
    await depot.world.db.write(lambda tx: remove_uses(tx, "message", [5, 6]))
    assert await depot.world.db.read(lambda tx: load_files(tx, keyring, files)) == {}
