"""What people see of each other: privacy and blocks in profiles, lists, presence and updates."""

from typing import Any

import pytest
from sqlalchemy import update

from app.features.users.access import (
    find_existing,
    is_blocked,
    may_add_to_groups,
    may_call,
)
from app.features.users.block import block_user
from app.features.users.delete_contact import delete_contact
from app.features.users.errors import (
    BlockNotFound,
    CannotBlockYourself,
    UserNotFound,
)
from app.features.users.feature import FEATURE
from app.features.users.list_blocked import BlockedPosition, list_blocked
from app.features.users.models import UserRow
from app.features.users.policy import Audience, Privacy
from app.features.users.privacy import get_privacy, update_privacy
from app.features.users.unblock import unblock_user
from app.features.users.update_profile import update_profile
from app.features.users.views import render_profile
from app.infra.database.tx import Tx
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from tests.support.town import Town

pytestmark = pytest.mark.anyio


async def block(town: Town, blocker: UserId, user_id: UserId) -> None:
    await block_user(town.db, town.keyring, blocker=blocker, user_id=user_id)


async def choose(town: Town, user_id: UserId, **changes: Audience) -> None:
    await update_privacy(town.db, user_id=user_id, changes=changes)


async def fill(town: Town, user_id: UserId) -> list[tuple[str, dict[str, object]]]:
    """The user's updates with their content, as a device reads them."""
    fillers = {kind.type: kind.fill for kind in FEATURE.updates}
    services: Any = town  # the fillers ask for the keyring alone
    filled: list[tuple[str, dict[str, object]]] = []
    for logged in await town.updates_of(user_id):
        [content] = await town.db.read(
            lambda tx, logged=logged: fillers[logged.type](tx, services, [logged])
        )
        filled.append((logged.type, content))
    return filled


async def test_my_number_in_your_book_does_not_show_you_my_number(town: Town) -> None:
    owner, viewer = await town.settle_many(2)
    await town.befriend(viewer, owner)
    profile = await town.see(viewer, owner)
    assert (profile.is_contact, profile.phone) == (True, None)
    await town.befriend(owner, viewer)
    assert (await town.see(viewer, owner)).phone == town.phones[owner]
    await choose(town, owner, phone=Audience.NOBODY)
    assert (await town.see(viewer, owner)).phone is None
    assert (await town.see(owner, owner)).phone == town.phones[owner]


async def test_a_blocked_viewer_sees_neither_phone_nor_presence(town: Town) -> None:
    owner, viewer = await town.settle_many(2)
    await town.befriend(owner, viewer)
    seen_at = update(UserRow).where(UserRow.id == owner).values(last_seen_at=town.clock.now())
    await town.db.write(lambda tx: tx.execute(seen_at))
    seen = render_profile(await town.see(viewer, owner), is_online=True)
    assert seen["presence"] == {"online": True, "last_seen_at": format_time(town.clock.now())}
    await block(town, owner, viewer)
    seen = render_profile(await town.see(viewer, owner), is_online=True)
    assert seen["presence"] == {"online": False}
    assert "phone" not in seen
    assert seen["is_blocked"] is False  # the viewer has blocked nobody
    assert (await town.see(owner, viewer)).is_blocked


async def test_a_view_has_the_documented_members_and_no_more(town: Town) -> None:
    owner, viewer = await town.settle_many(2)
    view = render_profile(await town.see(viewer, owner), is_online=False)
    assert view == {
        "id": owner,
        "username": None,
        "first_name": "Anna",
        "last_name": None,
        "bio": None,
        "photo": None,
        "is_contact": False,
        "is_blocked": False,
        "presence": {"online": False},
    }


async def test_blocking_is_idempotent_and_told_once_to_the_blocker_alone(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await block(town, anna, bruno)
    await block(town, anna, bruno)
    assert await fill(town, anna) == [("blocked_changed", {"user_id": bruno, "is_blocked": True})]
    await unblock_user(town.db, blocker=anna, user_id=bruno)
    with pytest.raises(BlockNotFound):
        await unblock_user(town.db, blocker=anna, user_id=bruno)
    assert [content["is_blocked"] for _, content in await fill(town, anna)] == [False, False]
    assert await fill(town, bruno) == []


async def test_one_blocks_others_who_exist(town: Town) -> None:
    anna = await town.settle()
    with pytest.raises(CannotBlockYourself):
        await block(town, anna, anna)
    with pytest.raises(UserNotFound):
        await block(town, anna, UserId(5))


async def test_the_latest_block_stands_first_and_a_walk_repeats_none(town: Town) -> None:
    anna, *others = await town.settle_many(6)
    for position, other in enumerate(others):
        town.clock.advance(seconds=position % 2)  # some at the same moment
        await block(town, anna, other)
    seen: list[tuple[object, UserId]] = []
    before: BlockedPosition | None = None
    while True:
        page, before = await list_blocked(
            town.db, town.keyring, blocker=anna, before=before, limit=2
        )
        seen += [(it.blocked_at, it.profile.id) for it in page]
        if before is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert {user_id for _, user_id in seen} == set(others)
    assert len(seen) == 5


async def test_blocks_and_privacy_answer_those_who_ask(town: Town) -> None:
    anna, bruno, clara = await town.settle_many(3)
    await block(town, anna, bruno)
    await choose(town, clara, add_to_groups=Audience.CONTACTS, call=Audience.NOBODY)

    async def ask(tx: Tx) -> None:
        assert await is_blocked(tx, anna, bruno)
        assert not await is_blocked(tx, bruno, anna)
        assert await may_add_to_groups(tx, bruno, [anna, clara, bruno, UserId(5)]) == {bruno}
        assert await may_add_to_groups(tx, anna, [bruno]) == {bruno}
        assert not await may_call(tx, bruno, anna)
        assert not await may_call(tx, anna, bruno)
        assert not await may_call(tx, anna, clara)
        assert await may_call(tx, clara, anna)
        assert not await may_call(tx, anna, UserId(5))
        assert await find_existing(tx, [anna, UserId(5)]) == {anna}

    await town.db.read(ask)


async def test_privacy_keeps_what_was_not_sent_and_is_told(town: Town) -> None:
    anna = await town.settle()
    await choose(town, anna, phone=Audience.NOBODY)
    await choose(town, anna, call=Audience.CONTACTS)
    await choose(town, anna, call=Audience.CONTACTS)
    chosen = await get_privacy(town.db, user_id=anna)
    assert chosen == Privacy(phone=Audience.NOBODY, call=Audience.CONTACTS)
    [first, second] = await fill(town, anna)
    assert first == second  # both show what is true now
    assert first[0] == "privacy_changed"


async def test_updates_show_what_is_true_now(town: Town) -> None:
    anna, bruno, clara = await town.settle_many(3)
    await town.befriend(anna, bruno, clara)
    await delete_contact(town.db, owner=anna, user_id=clara)
    await update_profile(town.db, town.keyring, town.index, user_id=anna, changes={"bio": "Hello"})
    filled = await fill(town, anna)
    assert [kind for kind, _ in filled] == [
        "contacts_changed",
        "contacts_changed",
        "profile_updated",
    ]
    imported: Any = filled[0][1]
    assert [it["user_id"] for it in imported["contacts"]] == [bruno]
    assert imported["contacts"][0]["first_name"] == "Friend"
    assert imported["removed_user_ids"] == [clara]
    profile: Any = filled[2][1]
    assert (profile["user"]["id"], profile["user"]["bio"]) == (anna, "Hello")
