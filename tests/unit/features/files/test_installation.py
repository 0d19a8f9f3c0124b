"""Whose storage it is: found out before anything in it is taken for left over."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from app.features.files import sweep as sweep_module
from app.features.files.installation import adopt_storage, claim_storage
from app.features.files.objects import one_piece
from app.features.files.sweep import sweep_storage
from app.infra.database.tables import ServerStateRow
from app.infra.storage.local import LocalStorage
from app.infra.storage.names import MARKER
from app.infra.storage.port import StorageUnavailable
from app.settings import SettingsError
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio

_OWN = ServerStateRow.name == "installation"


async def claim(depot: Depot) -> None:
    """As at a start, which makes the directory before."""
    services = depot.services
    await services.storage.check()
    await claim_storage(services.db, services.storage, services.settings.files)


async def marker(depot: Depot) -> str:
    return b"".join([piece async for piece in depot.services.storage.read(MARKER)]).decode()


async def own(depot: Depot) -> str | None:
    statement = select(ServerStateRow.value).where(_OWN)
    return await depot.world.db.read(lambda tx: tx.scalar(statement))


async def become_another(depot: Depot) -> None:
    """As a server whose database is another one's."""
    await depot.world.db.write(
        lambda tx: tx.execute(update(ServerStateRow).where(_OWN).values(value="another"))
    )


async def forget_own(depot: Depot) -> None:
    """As a database of before there were ids, or one that was put back to that time."""
    await depot.world.db.write(lambda tx: tx.execute(delete(ServerStateRow).where(_OWN)))


async def put(depot: Depot, *names: str) -> None:
    for name in names:
        await depot.services.storage.write(name, one_piece(b"content"))


async def sweep(depot: Depot) -> int:
    later = depot.world.clock.now() + timedelta(days=365)
    return await sweep_storage(depot.services, before=later)


async def test_an_empty_storage_becomes_the_databases_own(depot: Depot) -> None:
    await claim(depot)
    assert await marker(depot) == await own(depot)
    await claim(depot)
    await depot.upload(await depot.world.new_user())
    await claim(depot)
    assert await marker(depot) == await own(depot)


async def test_a_storage_in_use_is_taken_over_as_it_is(depot: Depot) -> None:
    """Whichever of the two lost its half: an update to this version, a backup of before it, a copy without it."""
    await depot.upload(await depot.world.new_user())
    await put(depot, "B" * 32)
    await claim(depot)
    given = await own(depot)
    await depot.services.storage.delete(MARKER)
    await claim(depot)
    assert await marker(depot) == await own(depot) == given
    await forget_own(depot)
    await claim(depot)
    assert await marker(depot) == await own(depot) == given


async def test_a_new_storage_is_taken_over_too(depot: Depot) -> None:
    await claim(depot)
    await depot.services.storage.delete(MARKER)
    await claim(depot)
    assert await marker(depot) == await own(depot)


async def test_the_storage_of_another_database_is_refused_and_left_as_it_is(depot: Depot) -> None:
    await put(depot, "B" * 32)
    with pytest.raises(SettingsError, match="VAR_DIR: the file storage holds the files of another"):
        await claim(depot)
    assert await own(depot) is None
    assert depot.objects() == ["B" * 32]
    await depot.services.storage.delete("B" * 32)
    await claim(depot)
    await put(depot, "B" * 32)
    for make_other in (become_another, forget_own):
        await make_other(depot)
        given = await marker(depot)
        with pytest.raises(SettingsError):
            await claim(depot)
        with pytest.raises(SettingsError):
            await sweep(depot)
        assert await marker(depot) == given


async def test_a_storage_without_files_is_whoevers_comes(depot: Depot) -> None:
    """A database that begins anew beside the directory of the one before."""
    await claim(depot)
    for make_other in (become_another, forget_own):
        await make_other(depot)
        await claim(depot)
        assert await marker(depot) == await own(depot)


async def test_an_empty_storage_is_refused_where_the_database_has_files(depot: Depot) -> None:
    """A disk that is not mounted, or a wrong name: unless it is meant."""
    await claim(depot)
    await depot.upload(await depot.world.new_user())
    for name in [*depot.objects(), MARKER]:
        await depot.services.storage.delete(name)
    for look in (claim, sweep):
        with pytest.raises(SettingsError, match="VAR_DIR: the file storage is empty, and this"):
            await look(depot)
    services = depot.services
    await adopt_storage(services.db, services.storage, services.settings.files)
    await claim(depot)
    assert await marker(depot) == await own(depot)


async def test_the_storage_of_another_database_is_not_adopted_either(depot: Depot) -> None:
    await depot.services.storage.check()
    await put(depot, "B" * 32)
    services = depot.services
    with pytest.raises(SettingsError, match="holds the files of another"):
        await adopt_storage(services.db, services.storage, services.settings.files)
    assert depot.objects() == ["B" * 32]


async def test_who_has_files_in_it_keeps_it_whatever_another_put_there(depot: Depot) -> None:
    await claim(depot)
    await depot.upload(await depot.world.new_user())
    await become_another(depot)
    await claim(depot)
    assert await marker(depot) == await own(depot) == "another"


async def test_the_search_takes_no_great_part_of_a_storage_for_left_over(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "MOST_UNKNOWN", 3)
    anna = await depot.world.new_user()
    for _ in range(6):
        await depot.upload(anna)
    lost = [letter * 32 for letter in "BCDE"]
    await put(depot, *lost)
    assert await sweep(depot) == 0, "four of ten"
    monkeypatch.setattr(sweep_module, "_MOST_UNKNOWN_SHARE", 0.4)
    assert await sweep(depot) == 4
    assert isinstance(depot.services.storage, LocalStorage)
    assert await marker(depot), "it is nobody's file, and stays"


async def test_a_few_are_always_taken_away(depot: Depot) -> None:
    await depot.upload(await depot.world.new_user())
    await put(depot, *(letter * 32 for letter in "BCDE"))
    assert await sweep(depot) == 4


async def test_the_workers_of_a_first_start_agree(depot: Depot) -> None:
    """One that finds another at it says so, and asks again at the daily search."""
    for _ in range(10):
        ends = await asyncio.gather(*(claim(depot) for _ in range(6)), return_exceptions=True)
        assert {type(it) for it in ends if it is not None} <= {StorageUnavailable}
        assert await marker(depot) == await own(depot)
        await depot.services.storage.delete(MARKER)
        await forget_own(depot)
