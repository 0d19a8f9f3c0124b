"""No listing of chats sends more statements for a longer page, nor reads more rows for longer chats."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from app.features.chats.create_invite import create_invite
from app.features.chats.list_invites import list_chat_invites
from app.features.chats.list_members import list_chat_members
from app.features.inbox.items import load_items
from app.features.inbox.list_chats import list_chats
from app.features.users.update_profile import update_profile
from app.infra.cipher.keyring import Keyring, open_keyring
from app.kernel.ids import ChatId, UserId
from tests.support.clubs import Club, build_club
from tests.support.databases import SetClock, open_empty_database, settings_for
from tests.support.photos import keep_photo
from tests.support.statements import recorded_statements

pytestmark = pytest.mark.anyio

Listing = Callable[[Club, Keyring, UserId, ChatId, int], Awaitable[int]]


@pytest.fixture
async def club(directory: Path, anyio_backend: str) -> AsyncIterator[Club]:
    del anyio_backend
    clock = SetClock()
    db = await open_empty_database(settings_for(directory), clock)
    yield await build_club(db, clock)
    await db.close()


async def chats(club: Club, keyring: Keyring, viewer: UserId, _: ChatId, limit: int) -> int:
    page, _ = await list_chats(
        club.db,
        keyring,
        club.cursors,
        viewer=viewer,
        archived=False,
        cursor=None,
        limit=limit,
    )
    return len(page)


async def members(club: Club, keyring: Keyring, viewer: UserId, chat_id: ChatId, limit: int) -> int:
    page, _ = await list_chat_members(
        club.db,
        keyring,
        club.cursors,
        viewer=viewer,
        chat_id=chat_id,
        which="all",
        cursor=None,
        limit=limit,
    )
    return len(page)


async def invites(club: Club, keyring: Keyring, viewer: UserId, chat_id: ChatId, limit: int) -> int:
    del keyring
    page, _ = await list_chat_invites(
        club.db, club.cursors, viewer=viewer, chat_id=chat_id, cursor=None, limit=limit
    )
    return len(page)


async def count_statements(
    club: Club, listing: Listing, viewer: UserId, chat_id: ChatId, limit: int
) -> int:
    """With a keyring that has cached nothing: the keys of a page are read in one statement, too."""
    keyring = await open_keyring(club.db, b"m" * 32, rounds=1000, personal=True, messages=True)
    with recorded_statements(club.db) as statements:
        assert await listing(club, keyring, viewer, chat_id, limit) == limit
    return len(statements)


@pytest.mark.parametrize(("listing", "at_most"), [(chats, 12), (members, 4), (invites, 2)])
async def test_a_longer_page_sends_no_more_statements(
    club: Club, listing: Listing, at_most: int
) -> None:
    viewer, *others = await club.town.settle_many(41)
    group = await club.group(viewer, *others)
    for other in others:
        await club.say(other, await club.pair(viewer, other))
        await create_invite(club.db, user_id=viewer, chat_id=group, expires_at=None, max_uses=None)
        await club.say(other, await club.group(other, viewer))
    short = await count_statements(club, listing, viewer, group, 4)
    long = await count_statements(club, listing, viewer, group, 40)
    assert short == long <= at_most


@pytest.mark.parametrize(("listing", "at_most"), [(chats, 18), (members, 9)])
async def test_photos_cost_the_same_for_a_longer_page_and_nothing_where_there_are_none(
    club: Club, listing: Listing, at_most: int
) -> None:
    viewer, *others = await club.town.settle_many(41)
    group = await club.group(viewer, *others)
    for other in others:
        await club.say(other, await club.pair(viewer, other))
        await club.say(other, await club.group(other, viewer))
    without = await count_statements(club, listing, viewer, group, 40)
    for other in others:
        club.clock.advance(seconds=1)
        file_id = await keep_photo(club.db, club.tools.keyring, other)
        town = club.town
        await update_profile(
            club.db, town.keyring, town.index, user_id=other, changes={"photo": file_id}
        )
        await club.say(other, await club.group(other, viewer, photo_id=file_id))
        await club.say(other, await club.pair(viewer, other))
    short = await count_statements(club, listing, viewer, group, 4)
    long = await count_statements(club, listing, viewer, group, 40)
    assert without < short == long <= at_most


async def test_telling_many_newcomers_of_a_chat_sends_no_more_statements(club: Club) -> None:
    owner, *others = await club.town.settle_many(31)
    group = await club.group(owner, *others)
    pairs = [(other, group) for other in others]
    with recorded_statements(club.db) as few:
        await club.db.read(lambda tx: load_items(tx, club.tools.keyring, pairs[:2]))
    with recorded_statements(club.db) as many:
        items = await club.db.read(lambda tx: load_items(tx, club.tools.keyring, pairs))
    assert len(items) == 30
    assert len(many) == len(few)
