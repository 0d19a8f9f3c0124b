"""The chat list: its order, its walks while chats move, and what an item shows to whom."""

from typing import Any, cast

import pytest
from sqlalchemy import insert

from app.features.chats.add_members import add_members
from app.features.chats.leave import leave_chat
from app.features.chats.policy import Role
from app.features.chats.updates import fill_members_changed, fill_own_members_changed
from app.features.inbox.change_settings import SettingsChanges, change_chat_settings
from app.features.inbox.errors import TooManyPinned
from app.features.inbox.get_chat import get_chat, get_public_chat
from app.features.inbox.items import ItemView
from app.features.inbox.list_chats import list_chats
from app.features.inbox.updates import fill_chat_created, fill_chat_settings
from app.features.messages.models import MessageRow
from app.infra.database.tx import Tx
from app.infra.presence.memory import MemoryPresence
from app.infra.services import Services
from app.kernel.cursors import CursorInvalid
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, chat_scope, user_scope
from app.transport.feature import Content, Filler
from tests.support.clubs import Club

pytestmark = pytest.mark.anyio


class _Pieces:
    """What fillers take of the services."""

    def __init__(self, club: Club) -> None:
        self.keyring = club.tools.keyring
        self.presence = MemoryPresence()


async def page(
    club: Club,
    viewer: UserId,
    *,
    limit: int = 50,
    cursor: str | None = None,
    archived: bool = False,
) -> tuple[list[ChatId], str | None]:
    items, more = await list_chats(
        club.db,
        club.tools.keyring,
        club.cursors,
        viewer=viewer,
        archived=archived,
        cursor=cursor,
        limit=limit,
    )
    return [ChatId(item.view["id"]) for item in items], more


async def set_up(club: Club, viewer: UserId, chat_id: ChatId, **changes: object) -> None:
    await change_chat_settings(
        club.db,
        user_id=viewer,
        chat_id=chat_id,
        changes=cast("SettingsChanges", changes),
    )


async def item(club: Club, viewer: UserId, chat_id: ChatId) -> ItemView:
    loaded = await get_chat(club.db, club.tools.keyring, viewer=viewer, chat_id=chat_id)
    return loaded.view


async def fill(club: Club, filler: Filler, scope: Scope, update_type: str) -> list[Content]:
    """The contents of all updates of one type in a scope, as they are now."""
    updates = [update for update in await club.updates(scope) if update.type == update_type]
    services = cast("Services", _Pieces(club))
    return list(await club.db.read(lambda tx: filler(tx, services, updates)))


async def make_chats(club: Club, viewer: UserId, number: int) -> list[ChatId]:
    chats: list[ChatId] = []
    for _ in range(number):
        club.clock.advance(seconds=1)
        chats.append(await club.group(viewer))
    return chats


async def test_pinned_chats_come_first_then_the_newest_message_then_the_id(club: Club) -> None:
    me = await club.town.settle()
    first, second, third, fourth = await make_chats(club, me, 4)
    club.clock.advance(seconds=1)
    await club.say(me, second)
    await club.say(me, third)
    await set_up(club, me, first, is_pinned=True)
    assert await page(club, me) == ([first, third, second, fourth], None)


async def test_a_chat_that_is_unpinned_during_a_walk_is_not_shown_twice(club: Club) -> None:
    me = await club.town.settle()
    chats = await make_chats(club, me, 6)
    for chat in chats[:3]:
        await set_up(club, me, chat, is_pinned=True)
    seen, cursor = await page(club, me, limit=2)
    for chat in seen:
        await set_up(club, me, chat, is_pinned=False)
    while cursor is not None:
        more, cursor = await page(club, me, limit=2, cursor=cursor)
        seen += more
    assert len(seen) == len(set(seen)) == 6


async def test_a_walk_through_pinned_and_others_is_whole(club: Club) -> None:
    me = await club.town.settle()
    chats = await make_chats(club, me, 7)
    for chat in chats[::3]:
        await set_up(club, me, chat, is_pinned=True)
    whole, _ = await page(club, me)
    seen: list[ChatId] = []
    cursor: str | None = None
    for _ in range(7):
        more, cursor = await page(club, me, limit=1, cursor=cursor)
        seen += more
    assert (seen, cursor) == (whole, None)
    assert set(seen) == set(chats)


async def test_a_cursor_of_another_person_or_list_is_refused(club: Club) -> None:
    me, other = await club.town.settle_many(2)
    await make_chats(club, me, 2)
    _, cursor = await page(club, me, limit=1)
    with pytest.raises(CursorInvalid):
        await page(club, other, cursor=cursor)
    with pytest.raises(CursorInvalid):
        await page(club, me, cursor=cursor, archived=True)


async def test_ten_chats_are_pinned_and_not_eleven(club: Club) -> None:
    me = await club.town.settle()
    *ten, eleventh = await make_chats(club, me, 11)
    for chat in ten:
        await set_up(club, me, chat, is_pinned=True)
    await set_up(club, me, ten[0], is_pinned=True)
    with pytest.raises(TooManyPinned):
        await set_up(club, me, eleventh, is_pinned=True)
    await set_up(club, me, ten[0], is_pinned=False)
    await set_up(club, me, eleventh, is_pinned=True)


async def test_settings_are_mine_alone_and_told_to_my_scope(club: Club) -> None:
    me, other = await club.town.settle_many(2)
    group = await club.group(me, other)
    await set_up(club, me, group, is_archived=True, is_pinned=True)
    await set_up(club, me, group, is_archived=True)
    assert (await page(club, me), await page(club, me, archived=True)) == (
        ([], None),
        ([group], None),
    )
    assert await page(club, other) == ([group], None)
    told = await fill(club, fill_chat_settings, user_scope(me), "chat_settings")
    assert told == [{"chat_id": group, "is_pinned": True, "is_archived": True, "muted_until": None}]


async def test_unread_is_exact_to_a_thousand_and_capped_beyond(club: Club) -> None:
    me, other = await club.town.settle_many(2)
    chat = await club.pair(me, other)
    await _write_many(club, chat, other, 1000)
    view = await item(club, me, chat)
    assert (view["unread_count"], view.get("unread_capped")) == (1000, None)
    await _write_many(club, chat, other, 500)
    view = await item(club, me, chat)
    assert (view["unread_count"], view.get("unread_capped")) == (1000, True)
    assert (await item(club, other, chat))["unread_count"] == 0


async def _write_many(club: Club, chat_id: ChatId, sender: UserId, number: int) -> None:
    """Plain bodies, as with encryption switched off."""

    async def work(tx: Tx) -> None:
        ids = await tx.reserve_ids(MessageRow, number)
        rows: list[dict[str, Any]] = [
            {
                "id": message_id,
                "chat_id": chat_id,
                "seq": 10_000 + message_id,
                "sender_id": sender,
                "type": "text",
                "body": b'\0{"text":"x","entities":[]}',
                "silent": False,
                "created_at": tx.now,
            }
            for message_id in ids
        ]
        await tx.execute(insert(MessageRow), rows)

    await club.db.write(work)


async def test_newcomers_see_neither_message_nor_count_of_before(club: Club) -> None:
    owner, late = await club.town.settle_many(2)
    group = await club.group(owner)
    await club.say(owner, group, "before")
    await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[late])
    view = await item(club, late, group)
    message = cast("Any", view["last_message"])
    assert (message["type"], message["service"]["action"]) == ("service", "members_added")
    assert view["unread_count"] == 0


async def test_an_item_knows_the_peer_and_how_far_they_read(club: Club) -> None:
    me, other = await club.town.settle_many(2)
    chat = await club.pair(me, other)
    message = await club.say(me, chat)
    assert (await item(club, me, chat))["others_read_message_id"] == 0
    answer = await club.say(other, chat)
    view = await item(club, me, chat)
    assert answer > message
    assert view["others_read_message_id"] == answer
    assert view["my"] is not None
    assert (view["my"]["last_read_message_id"], view["unread_count"]) == (message, 1)
    loaded = await get_chat(club.db, club.tools.keyring, viewer=me, chat_id=chat)
    assert loaded.peer is not None
    assert loaded.peer.id == other


async def test_an_outsider_sees_of_a_public_chat_what_all_see(club: Club) -> None:
    owner, outsider = await club.town.settle_many(2)
    group = await club.group(owner, username="seen_by_all")
    await club.say(owner, group, "inside")
    loaded = await get_public_chat(
        club.db, club.tools.keyring, viewer=outsider, username="Seen_By_All"
    )
    view = loaded.view
    assert (view["id"], view["my"], view["last_message"]) == (group, None, None)
    inside = await get_public_chat(
        club.db, club.tools.keyring, viewer=owner, username="seen_by_all"
    )
    assert inside.view["my"] is not None


async def test_a_chat_that_was_left_is_told_as_a_tombstone(club: Club) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner, guest)
    [created] = await fill(club, fill_chat_created, user_scope(guest), "chat_created")
    assert (created["id"], created["title"]) == (group, "Group")
    assert cast("Any", created)["my"]["role"] == "member"
    await leave_chat(club.db, club.tools, user_id=guest, chat_id=group)
    told = await fill(club, fill_chat_created, user_scope(guest), "chat_created")
    assert told == [{"id": group, "is_removed": True}]


async def test_changes_of_members_show_them_as_they_are_now(club: Club) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner)
    await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[guest])
    await club.put(owner, group, guest, Role.ADMIN)
    told = await fill(club, fill_members_changed, chat_scope(group), "members_changed")
    assert len(told) == 2
    for content in cast("list[Any]", told):
        assert (content["chat_id"], content["members_count"]) == (group, 2)
        assert [(m["user"]["id"], m["role"]) for m in content["members"]] == [(guest, "admin")]


async def test_a_former_admin_of_a_channel_reads_of_themselves_alone(club: Club) -> None:
    owner, admin, guest = await club.town.settle_many(3)
    channel = await club.channel(owner, admin)
    await club.put(owner, channel, admin, Role.ADMIN)
    await add_members(club.db, club.tools, actor_id=owner, chat_id=channel, user_ids=[guest])
    scope = user_scope(admin)
    told = await fill(club, fill_own_members_changed, scope, "members_changed")
    assert _shown(told) == [[admin], [guest]]
    await club.put(owner, channel, admin, Role.MEMBER)
    told = await fill(club, fill_own_members_changed, scope, "members_changed")
    assert _shown(told) == [[admin], [], [admin]]


def _shown(contents: list[Content]) -> list[list[int]]:
    return [[m["user"]["id"] for m in cast("Any", it)["members"]] for it in contents]
