"""No listing sends more statements for a longer page, and no answer tells by its statements who hides."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from app.features.users.block import block_user
from app.features.users.list_blocked import list_blocked
from app.features.users.list_contacts import list_contacts
from app.features.users.policy import Audience
from app.features.users.privacy import update_privacy
from app.features.users.senders import load_portraits, load_senders
from app.features.users.update_profile import update_profile
from app.infra.cipher.keyring import Keyring, open_keyring
from app.kernel.ids import UserId
from tests.support.databases import SetClock, open_empty_database, settings_for
from tests.support.photos import keep_photo
from tests.support.statements import recorded_statements
from tests.support.town import Town, build_town

pytestmark = pytest.mark.anyio

Listing = Callable[[Town, Keyring, UserId, int], Awaitable[int]]


@pytest.fixture
async def town(directory: Path, anyio_backend: str) -> AsyncIterator[Town]:
    del anyio_backend
    clock = SetClock()
    db = await open_empty_database(settings_for(directory), clock)
    yield await build_town(db, clock)
    await db.close()


async def contacts(town: Town, keyring: Keyring, viewer: UserId, limit: int) -> int:
    page, _ = await list_contacts(town.db, keyring, owner=viewer, after=0, limit=limit)
    return len(page)


async def blocked(town: Town, keyring: Keyring, viewer: UserId, limit: int) -> int:
    page, _ = await list_blocked(town.db, keyring, blocker=viewer, before=None, limit=limit)
    return len(page)


async def search(town: Town, keyring: Keyring, viewer: UserId, limit: int) -> int:
    fresh = Town(town.db, town.clock, keyring, town.index, town.acquaintances)
    return len(await fresh.find(viewer, "anna", limit=limit))


async def senders(town: Town, keyring: Keyring, viewer: UserId, limit: int) -> int:
    ids = sorted(town.acquaintances.met)[:limit]
    return len(await town.db.read(lambda tx: load_senders(tx, keyring, ids)))


async def portraits(town: Town, keyring: Keyring, viewer: UserId, limit: int) -> int:
    ids = sorted(town.acquaintances.met)[:limit]
    work = partial(load_portraits, keyring=keyring, viewer=viewer, user_ids=ids)
    return len(await town.db.read(work))


async def show_photo(town: Town, user_id: UserId) -> None:
    file_id = await keep_photo(town.db, town.keyring, user_id)
    await update_profile(
        town.db, town.keyring, town.index, user_id=user_id, changes={"photo": file_id}
    )


async def count_statements(town: Town, listing: Listing, viewer: UserId, limit: int) -> int:
    """With a keyring that has cached nothing: the keys of a page are read in one statement, too."""
    keyring = await open_keyring(town.db, b"m" * 32, rounds=1000, personal=True, messages=True)
    with recorded_statements(town.db) as statements:
        assert await listing(town, keyring, viewer, limit) == limit
    return len(statements)


@pytest.mark.parametrize(
    ("listing", "at_most"), [(contacts, 6), (blocked, 5), (search, 6), (senders, 2)]
)
async def test_a_longer_page_sends_no_more_statements(
    town: Town, listing: Listing, at_most: int
) -> None:
    viewer, *people = await town.settle_many(41)
    town.acquaintances.met = set(people)
    await town.befriend(viewer, *people)
    for person in people:
        await block_user(town.db, town.keyring, blocker=viewer, user_id=person)
    short = await count_statements(town, listing, viewer, 2)
    long = await count_statements(town, listing, viewer, 40)
    assert short == long <= at_most


@pytest.mark.parametrize(
    ("listing", "at_most"), [(contacts, 9), (blocked, 8), (search, 9), (portraits, 7)]
)
async def test_photos_cost_the_same_for_a_longer_page_and_nothing_where_nobody_has_one(
    town: Town, listing: Listing, at_most: int
) -> None:
    viewer, *people = await town.settle_many(41)
    town.acquaintances.met = set(people)
    await town.befriend(viewer, *people)
    for person in people:
        await block_user(town.db, town.keyring, blocker=viewer, user_id=person)
    without = await count_statements(town, listing, viewer, 40)
    for person in people:
        await show_photo(town, person)
    short = await count_statements(town, listing, viewer, 2)
    long = await count_statements(town, listing, viewer, 40)
    assert without < short == long <= at_most
    for person in people:
        await update_privacy(town.db, user_id=person, changes={"photo": Audience.NOBODY})
    # Profiles of people who hide it cost what those of people without one do.
    hidden = await count_statements(town, listing, viewer, 40)
    assert hidden == without + (2 if listing is portraits else 0)


async def test_a_larger_import_sends_no_more_statements(town: Town) -> None:
    viewer, *people = await town.settle_many(31)
    phones = [town.phones[person] for person in people]
    with recorded_statements(town.db) as few:
        await town.dial(viewer, *phones[:2])
    with recorded_statements(town.db) as many:
        await town.dial(viewer, *phones[2:])
    assert len(many) == len(few)


async def test_a_hidden_number_is_searched_like_an_absent_one(town: Town) -> None:
    viewer, hidden = await town.settle_many(2)
    await update_privacy(town.db, user_id=hidden, changes={"find_by_phone": Audience.NOBODY})
    with recorded_statements(town.db) as for_hidden:
        assert await town.find(viewer, town.phones[hidden]) == []
    with recorded_statements(town.db) as for_absent:
        assert await town.find(viewer, town.next_phone()) == []
    assert len(for_hidden) == len(for_absent)
