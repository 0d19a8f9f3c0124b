"""Search: usernames of everyone, names of those one knows, phones of those who allow it."""

import pytest

from app.features.users.block import block_user
from app.features.users.policy import Audience
from app.features.users.privacy import update_privacy
from app.features.users.update_profile import update_profile
from app.kernel.ids import UserId
from tests.support.town import Town

pytestmark = pytest.mark.anyio


async def name(town: Town, user_id: UserId, username: str) -> None:
    await update_profile(
        town.db, town.keyring, town.index, user_id=user_id, changes={"username": username}
    )


async def test_everyone_is_found_by_the_start_of_the_username(town: Town) -> None:
    viewer, walter = await town.settle_many(2)
    await name(town, walter, "Walter_01")
    for query in ("wal", "WALT", "@walt", " walter_01 ", "Walter_0"):
        assert await town.find(viewer, query) == [walter], query


async def test_nothing_else_finds_a_username(town: Town) -> None:
    viewer, walter = await town.settle_many(2)
    await name(town, walter, "walter_01")
    queries = [
        "wa",
        "@wa",
        "alter",
        "walter_01x",
        "w%",
        "w_l",
        "wal%",
        "%al",
        "wal*",
        "wal{",
        "wäl",
        "_al",
    ]
    for query in queries:
        assert await town.find(viewer, query) == [], query


async def test_usernames_come_in_their_order_the_exact_one_first(town: Town) -> None:
    viewer, *people = await town.settle_many(4)
    for user_id, username in zip(people, ["alpha_b", "alpha", "alpha_a"], strict=True):
        await name(town, user_id, username)
    assert await town.find(viewer, "alpha") == [people[1], people[2], people[0]]
    assert await town.find(viewer, "alpha", limit=2) == [people[1], people[2]]


async def test_names_find_contacts_and_acquaintances_only(town: Town) -> None:
    viewer = await town.settle("Viewer")
    contact = await town.settle("Łucja", "Marker")
    met = await town.settle("Marker")
    await town.settle("Marker", "Stranger")
    await town.befriend(viewer, contact)
    town.acquaintances.met = {met}
    assert sorted(await town.find(viewer, "mark")) == sorted([contact, met])
    assert len(await town.find(viewer, "mark", is_open=True)) == 3


async def test_each_word_is_the_start_of_a_word_of_the_name(town: Town) -> None:
    viewer, jose = await town.settle("Viewer"), await town.settle("José", "García Márquez")
    await town.befriend(viewer, jose)
    queries = [
        ("jose", True),
        ("JOSÉ", True),
        ("j", True),
        ("garc jos", True),
        ("garcía-márquez", True),
        ("jose garcia marquez more", False),
        ("ose", False),
        ("%", False),
        ("_", False),
        ("...", False),
        (" ", False),
    ]
    for query, is_found in queries:
        assert await town.find(viewer, query) == ([jose] if is_found else []), query


async def test_a_phone_finds_its_owner_where_they_allow(town: Town) -> None:
    viewer, anna = await town.settle_many(2)
    number = town.phones[anna]
    assert await town.find(viewer, number) == [anna]
    assert await town.find(viewer, number.replace("+49", "0")) == [anna]
    assert await town.find(viewer, number[:-1]) == []
    await update_privacy(town.db, user_id=anna, changes={"find_by_phone": Audience.CONTACTS})
    assert await town.find(viewer, number) == []
    await town.befriend(anna, viewer)
    assert await town.find(viewer, number) == [anna]
    await update_privacy(town.db, user_id=anna, changes={"find_by_phone": Audience.NOBODY})
    assert await town.find(viewer, number) == []


async def test_being_blocked_does_not_show_in_search(town: Town) -> None:
    viewer, anna = await town.settle_many(2)
    await name(town, anna, "annika")
    await block_user(town.db, town.keyring, blocker=anna, user_id=viewer)
    assert await town.find(viewer, "annika") == [anna]
    assert await town.find(viewer, town.phones[anna]) == [anna]


async def test_at_most_fifty_are_found(town: Town) -> None:
    viewer, *people = await town.settle_many(53)
    town.acquaintances.met = set(people)
    assert len(await town.find(viewer, "anna", limit=100)) == 50


async def test_one_person_is_found_once(town: Town) -> None:
    viewer, anna = await town.settle("Viewer"), await town.settle("Annika")
    await name(town, anna, "annika")
    await town.befriend(viewer, anna)
    assert await town.find(viewer, "annika") == [anna]
