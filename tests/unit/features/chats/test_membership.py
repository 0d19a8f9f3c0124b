"""Coming into chats and leaving them: what is counted, what is seen, who is told, and what races cannot break."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from sqlalchemy import insert, select, update

from app.features.chats.access import get_membership
from app.features.chats.add_members import add_members
from app.features.chats.create import NewChat, create_chat, create_private_chat
from app.features.chats.create_invite import create_invite
from app.features.chats.delete import delete_chat
from app.features.chats.errors import (
    ChatForbidden,
    ChatFull,
    ChatInvalid,
    ChatNotFound,
    InviteNotFound,
    MemberNotFound,
    OwnerMustTransfer,
    TooManyChats,
)
from app.features.chats.join import join_chat
from app.features.chats.join_by_invite import join_by_invite
from app.features.chats.leave import leave_chat
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import ChatType, Permission, Role
from app.features.chats.preview_invite import preview_invite
from app.features.chats.remove_member import remove_member
from app.features.chats.update import ChatChanges, update_chat
from app.features.inbox.get_chat import get_chat
from app.features.messages.models import MessageRow
from app.features.updates.log import read_heads
from app.features.users.block import block_user
from app.features.users.errors import UsernameTaken
from app.features.users.policy import Audience
from app.features.users.privacy import update_privacy
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import Scope, chat_scope, user_scope
from tests.support.clubs import Club

pytestmark = pytest.mark.anyio


async def types(club: Club, scope: Scope) -> list[str]:
    return [update.type for update in await club.updates(scope)]


async def rename(club: Club, actor: UserId, chat_id: ChatId, **changes: object) -> None:
    await update_chat(
        club.db,
        club.tools,
        user_id=actor,
        chat_id=chat_id,
        changes=ChatChanges(**changes),  # pyright: ignore[reportArgumentType]
    )


async def members_count(club: Club, chat_id: ChatId) -> tuple[int, int]:
    """As it is kept, and counted anew."""

    async def work(tx: Tx) -> tuple[int, int]:
        kept = await tx.scalar(select(ChatRow.members_count).where(ChatRow.id == chat_id))
        roles = await tx.scalars(
            select(ParticipantRow.role).where(ParticipantRow.chat_id == chat_id)
        )
        return int(kept or 0), sum(role not in {"left", "banned"} for role in roles)

    return await club.db.read(work)


async def race(*calls: object) -> Counter[str]:
    """Run all at once; how often each outcome came, a problem by its code."""
    results = await asyncio.gather(*calls, return_exceptions=True)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType]
    return Counter(_outcome(result) for result in results)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _outcome(result: object) -> str:
    if isinstance(result, Problem):
        return result.code
    if isinstance(result, BaseException):
        raise result
    return "done"


async def test_fifty_who_join_at_once_by_a_link_for_seven_are_seven(club: Club) -> None:
    owner, *people = await club.town.settle_many(51)
    group = await club.group(owner)
    invite = await create_invite(club.db, user_id=owner, chat_id=group, expires_at=None, max_uses=7)
    outcomes = await race(
        *(
            join_by_invite(club.db, club.tools, user_id=person, code=invite["code"])
            for person in people
        )
    )
    assert outcomes == {"done": 7, "invite_not_found": 43}
    assert await members_count(club, group) == (8, 8)


async def test_both_who_open_their_private_chat_at_once_get_one(club: Club) -> None:
    one, other = await club.town.settle_many(2)
    made = await asyncio.gather(
        *(
            create_private_chat(club.db, club.tools, user_id=mine, peer_id=theirs)
            for mine, theirs in ((one, other), (other, one)) * 5
        )
    )
    assert len({chat_id for chat_id, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1
    assert await types(club, user_scope(one)) == ["chat_created"]


async def test_there_is_always_exactly_one_owner(club: Club) -> None:
    owner, heir, other = await club.town.settle_many(3)
    group = await club.group(owner, heir, other)
    await race(
        club.put(owner, group, heir, Role.OWNER),
        club.put(owner, group, other, Role.OWNER),
        leave_chat(club.db, club.tools, user_id=owner, chat_id=group),
        remove_member(club.db, club.tools, actor_id=owner, chat_id=group, user_id=owner),
        club.put(owner, group, owner, Role.MEMBER),
    )
    roles = [await club.role(person, group) for person in (owner, heir, other)]
    assert roles.count(Role.OWNER) == 1


async def test_the_owner_is_neither_removed_nor_lowered_nor_leaves(club: Club) -> None:
    owner, admin = await club.town.settle_many(2)
    group = await club.group(owner, admin)
    everything = Permission.PROMOTE_MEMBERS | Permission.BAN_MEMBERS
    await club.put(owner, group, admin, Role.ADMIN, everything)
    for role in (Role.ADMIN, Role.MEMBER, Role.RESTRICTED, Role.LEFT, Role.BANNED, Role.OWNER):
        with pytest.raises(ChatForbidden):
            await club.put(admin, group, owner, role)
        with pytest.raises(OwnerMustTransfer):
            await club.put(owner, group, owner, role)
    with pytest.raises(ChatForbidden):
        await remove_member(club.db, club.tools, actor_id=admin, chat_id=group, user_id=owner)
    with pytest.raises(OwnerMustTransfer):
        await leave_chat(club.db, club.tools, user_id=owner, chat_id=group)
    assert await club.role(owner, group) is Role.OWNER


async def test_a_former_owner_is_an_admin_with_all_rights_but_ownership(club: Club) -> None:
    owner, heir = await club.town.settle_many(2)
    group = await club.group(owner, heir)
    await club.put(owner, group, heir, Role.OWNER)
    assert [await club.role(person, group) for person in (owner, heir)] == ["admin", "owner"]
    with pytest.raises(ChatForbidden):
        await delete_chat(club.db, club.tools, user_id=owner, chat_id=group, for_everyone=False)
    await leave_chat(club.db, club.tools, user_id=owner, chat_id=group)


async def test_newcomers_of_a_private_group_begin_with_their_joining(club: Club) -> None:
    owner, early, late = await club.town.settle_many(3)
    group = await club.group(owner, early)
    before = await club.say(owner, group)
    log = await club.updates(chat_scope(group))
    await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[late])
    first, newcomer = await club.membership(early, group), await club.membership(late, group)
    assert first is not None
    assert newcomer is not None
    assert (first.first_visible_id, first.joined_seq) == (0, 0)
    assert (newcomer.first_visible_id, newcomer.joined_seq) == (before + 1, log[-1].seq)
    assert newcomer.last_read_message_id == before
    await rename(club, owner, group, history_visible=True)
    newcomer = await club.membership(late, group)
    assert newcomer is not None
    assert newcomer.first_visible_id == 0


async def test_the_updates_of_a_joining_and_a_leaving_stand_where_sockets_begin_and_end(
    club: Club,
) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner, username="open_group")
    await join_chat(club.db, club.tools, user_id=guest, chat_id=group)
    await leave_chat(club.db, club.tools, user_id=guest, chat_id=group)
    log = await club.updates(chat_scope(group))
    changes = [update for update in log if update.type == "members_changed"]
    assert [
        (update.data["user_ids"], update.data["_joined"], update.data["_left"])
        for update in changes
    ] == [([guest], [guest], []), ([guest], [], [guest])]
    assert [update.type for update in log].count("new_message") == 3
    created, removed = await club.updates(user_scope(guest))
    assert created.data == {"chat_id": group, "seq": changes[0].seq - 1}
    assert removed.data == {"chat_id": group, "seq": changes[1].seq, "reason": "left"}


async def test_in_a_channel_only_its_admins_and_the_person_are_told(club: Club) -> None:
    owner, admin, reader, guest = await club.town.settle_many(4)
    channel = await club.channel(owner, admin, reader, username="news_channel")
    await club.put(owner, channel, admin, Role.ADMIN)
    club.clock.advance(minutes=2)
    await join_chat(club.db, club.tools, user_id=guest, chat_id=channel)
    await leave_chat(club.db, club.tools, user_id=guest, chat_id=channel)
    assert await types(club, user_scope(guest)) == ["chat_created", "chat_removed"]
    for watcher in (owner, admin):
        assert (await types(club, user_scope(watcher)))[-2:] == ["members_changed"] * 2
    assert await types(club, user_scope(reader)) == ["chat_created"]
    # The number of members, once in a minute.
    assert await types(club, chat_scope(channel)) == ["chat_updated"]
    club.clock.advance(minutes=1)
    await join_chat(club.db, club.tools, user_id=guest, chat_id=channel)
    assert await types(club, chat_scope(channel)) == ["chat_updated"] * 2
    assert await members_count(club, channel) == (4, 4)


async def test_only_leaving_a_channel_is_counted_as_a_removal_that_nobody_is_told_of(
    club: Club,
) -> None:
    owner, one, other, late = await club.town.settle_many(4)
    channel = await club.channel(owner, one, other, username="news_channel")
    group = await club.group(owner, one, other)
    await join_chat(club.db, club.tools, user_id=late, chat_id=channel)
    await leave_chat(club.db, club.tools, user_id=one, chat_id=channel)
    await remove_member(club.db, club.tools, actor_id=owner, chat_id=channel, user_id=late)
    await club.put(owner, channel, other, Role.BANNED)
    await club.put(owner, channel, late, Role.BANNED)
    for leaver in (one, other):
        await leave_chat(club.db, club.tools, user_id=leaver, chat_id=group)
    scopes = [chat_scope(channel), chat_scope(group)]
    heads = await club.db.read(lambda tx: read_heads(tx, scopes))
    assert [heads[scope].removals for scope in scopes] == [3, 0]
    told = [(await club.updates(user_scope(person)))[-1] for person in (one, other)]
    assert [update.data.get("_ended") for update in told] == [None, None]
    ended = [
        update.data["_ended"]
        for person in (one, late, other)
        for update in await club.updates(user_scope(person))
        if update.type == "chat_removed" and update.subject_id == channel
    ]
    assert ended == [[channel, 1], [channel, 2], [channel, 3]]


async def test_large_groups_are_joined_without_a_service_message(club: Club) -> None:
    owner, *people = await club.town.settle_many(3)
    group = await club.group(owner, username="crowd_group")
    many = update(ChatRow).where(ChatRow.id == group).values(members_count=199)
    await club.db.write(lambda tx: tx.execute(many))
    for person in people:
        await join_chat(club.db, club.tools, user_id=person, chat_id=group)
    log = await types(club, chat_scope(group))
    assert log == ["new_message", "members_changed", "new_message", "members_changed"]


async def test_who_is_removed_is_outside_until_they_rejoin(club: Club) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner, guest)
    await club.say(owner, group)
    await remove_member(club.db, club.tools, actor_id=owner, chat_id=group, user_id=guest)
    with pytest.raises(ChatNotFound):
        await club.db.read(lambda tx: get_membership(tx, guest, group))
    with pytest.raises(MemberNotFound):
        await remove_member(club.db, club.tools, actor_id=owner, chat_id=group, user_id=guest)
    missed = await club.say(owner, group)
    await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[guest])
    membership = await club.membership(guest, group)
    assert membership is not None
    assert membership.first_visible_id > missed
    assert membership.is_current


async def test_a_banned_person_finds_every_door_closed_until_the_ban_ends(club: Club) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner, username="strict_group")
    invite = await create_invite(
        club.db, user_id=owner, chat_id=group, expires_at=None, max_uses=None
    )
    await join_chat(club.db, club.tools, user_id=guest, chat_id=group)
    until = club.clock.now()
    with pytest.raises(ChatInvalid):
        await club.put(owner, group, guest, Role.BANNED, until=until)
    club.clock.advance(seconds=-60)
    await club.put(owner, group, guest, Role.BANNED, until=until)
    with pytest.raises(ChatForbidden):
        await join_chat(club.db, club.tools, user_id=guest, chat_id=group)
    with pytest.raises(ChatForbidden):
        await join_by_invite(club.db, club.tools, user_id=guest, code=invite["code"])
    with pytest.raises(ChatForbidden):
        await preview_invite(club.db, club.tools.keyring, viewer=guest, code=invite["code"])
    with pytest.raises(ChatForbidden):
        await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[guest])
    club.clock.advance(seconds=60)
    await join_chat(club.db, club.tools, user_id=guest, chat_id=group)
    assert await members_count(club, group) == (2, 2)


async def test_a_ban_is_lifted_to_outside_or_to_inside(club: Club) -> None:
    owner, guest, never = await club.town.settle_many(3)
    group = await club.group(owner, guest)
    for person in (guest, never):
        await club.put(owner, group, person, Role.BANNED)
        assert (await club.put(owner, group, person, Role.LEFT))["role"] == "left"
        await club.put(owner, group, person, Role.BANNED)
        assert (await club.put(owner, group, person, Role.MEMBER))["role"] == "member"
    assert await members_count(club, group) == (3, 3)


async def test_people_who_do_not_want_it_are_left_out(club: Club) -> None:
    owner, willing, shy, angry = await club.town.settle_many(4)
    await update_privacy(club.db, user_id=shy, changes={"add_to_groups": Audience.NOBODY})
    await block_user(club.db, club.tools.keyring, blocker=angry, user_id=owner)
    group = await club.group(owner, willing, shy, angry)
    assert await members_count(club, group) == (2, 2)
    added = await add_members(
        club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[willing, shy, angry]
    )
    assert [view["user"]["id"] for view in added.members] == [willing]
    assert set(added.not_added) == {shy, angry}
    with pytest.raises(ChatForbidden):
        await add_members(club.db, club.tools, actor_id=owner, chat_id=group, user_ids=[angry])
    with pytest.raises(ChatForbidden):
        await club.pair(owner, angry)
    await club.pair(owner, shy)


async def test_a_full_chat_takes_nobody_in(club: Club) -> None:
    owner, one, other = await club.town.settle_many(3)
    group = await club.group(owner, one, username="small_group")
    small = type(club.tools)(keyring=club.tools.keyring, rules=club.tools.rules, max_members=2)
    with pytest.raises(ChatFull):
        await join_chat(club.db, small, user_id=other, chat_id=group)
    with pytest.raises(ChatFull):
        await add_members(club.db, small, actor_id=owner, chat_id=group, user_ids=[other])
    new = NewChat(type=ChatType.GROUP, title="Group", member_ids=(one, other))
    with pytest.raises(ChatFull):
        await create_chat(club.db, small, owner_id=owner, new=new)


async def test_who_is_in_too_many_chats_comes_into_no_more(club: Club) -> None:
    owner, busy, other = await club.town.settle_many(3)
    public = await club.group(owner, username="one_too_many")
    await _fill_up(club, busy)
    with pytest.raises(TooManyChats):
        await club.group(busy)
    with pytest.raises(TooManyChats):
        await club.pair(busy, other)
    with pytest.raises(TooManyChats):
        await join_chat(club.db, club.tools, user_id=busy, chat_id=public)
    assert await club.role(busy, await club.group(other, busy)) is None
    # Being written to by somebody new always works.
    await club.pair(other, busy)


async def _fill_up(club: Club, user_id: UserId) -> None:
    async def work(tx: Tx) -> None:
        ids = await tx.reserve_ids(ChatRow, 5000)
        chats = [
            {
                "id": chat_id,
                "type": "group",
                "permissions": 0,
                "history_visible": True,
                "members_count": 1,
                "created_at": tx.now,
            }
            for chat_id in ids
        ]
        members = [
            {
                "chat_id": chat_id,
                "user_id": user_id,
                "role": "owner",
                "joined_at": tx.now,
                "joined_seq": 0,
            }
            for chat_id in ids
        ]
        await tx.execute(insert(ChatRow), chats)
        await tx.execute(insert(ParticipantRow), members)

    await club.db.write(work)


async def test_a_private_chat_is_emptied_for_one_and_comes_back_with_a_message(
    club: Club,
) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat = await club.pair(anna, bruno)
    old = await club.say(bruno, chat)
    await _delete(club, anna, chat)
    with pytest.raises(ChatNotFound):
        await _delete(club, anna, chat)
    with pytest.raises(ChatNotFound):
        await get_chat(club.db, club.tools.keyring, viewer=anna, chat_id=chat)
    theirs = await get_chat(club.db, club.tools.keyring, viewer=bruno, chat_id=chat)
    assert theirs.view["last_message"] is not None
    new = await club.say(bruno, chat)
    mine = await get_chat(club.db, club.tools.keyring, viewer=anna, chat_id=chat)
    assert (mine.view["unread_count"], new > old) == (1, True)


async def test_a_deleted_private_chat_is_opened_again_empty(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat = await club.pair(anna, bruno)
    await club.say(bruno, chat)
    await _delete(club, anna, chat)
    assert await club.pair(anna, bruno) == chat
    mine = await get_chat(club.db, club.tools.keyring, viewer=anna, chat_id=chat)
    assert (mine.view["last_message"], mine.view["unread_count"]) == (None, 0)
    told = await types(club, user_scope(anna))
    assert [kind for kind in told if kind.startswith("chat_")] == [
        "chat_created",
        "chat_removed",
        "chat_created",
    ]


async def test_a_chat_that_is_opened_again_on_many_devices_at_once_is_told_once(
    club: Club,
) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat = await club.pair(anna, bruno)
    for _ in range(5):
        await club.say(bruno, chat)
        await _delete(club, anna, chat)
        before = len(await types(club, user_scope(anna)))
        assert await club.pair(anna, bruno) == chat
        await _delete(club, anna, chat)
        await asyncio.gather(*(club.pair(anna, bruno) for _ in range(6)))
        told = (await types(club, user_scope(anna)))[before:]
        assert told == ["chat_created", "chat_removed", "chat_created"]


async def test_deleting_a_private_chat_for_both_leaves_no_text_behind(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat = await club.pair(anna, bruno)
    await club.say(anna, chat, "secret")
    await delete_chat(club.db, club.tools, user_id=anna, chat_id=chat, for_everyone=True)
    bodies = select(MessageRow.body).where(MessageRow.chat_id == chat)
    assert await club.db.read(lambda tx: tx.scalars(bodies)) == [None]
    for person in (anna, bruno):
        with pytest.raises(ChatNotFound):
            await get_chat(club.db, club.tools.keyring, viewer=person, chat_id=chat)


async def _delete(club: Club, user_id: UserId, chat_id: ChatId) -> None:
    await delete_chat(club.db, club.tools, user_id=user_id, chat_id=chat_id, for_everyone=False)


async def test_a_deleted_group_gives_its_username_and_its_key_away(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    group = await club.group(anna, bruno, username="taken_name")
    with pytest.raises(UsernameTaken):
        await club.group(bruno, username="TAKEN_name")
    await _delete(club, anna, group)
    await club.group(bruno, username="Taken_Name")
    keys = await club.db.read(lambda tx: club.tools.keyring.load(tx, [f"chat:{group}"]))
    assert keys == {}


async def test_two_who_want_one_username_at_once_do_not_both_get_it(club: Club) -> None:
    people: Sequence[UserId] = await club.town.settle_many(6)
    outcomes = await race(*(club.group(person, username="wanted_name") for person in people))
    assert outcomes == {"done": 1, "username_taken": 5}


async def test_a_public_group_cannot_hide_its_history(club: Club) -> None:
    owner = await club.town.settle()
    group = await club.group(owner)
    await rename(club, owner, group, username="now_public")
    chat = await get_chat(club.db, club.tools.keyring, viewer=owner, chat_id=group)
    assert chat.view["history_visible"] is True
    with pytest.raises(ChatInvalid):
        await rename(club, owner, group, history_visible=False)
    await rename(club, owner, group, username=None, history_visible=False)


async def test_a_change_that_changes_nothing_is_not_told(club: Club) -> None:
    owner = await club.town.settle()
    group = await club.group(owner)
    before = await types(club, chat_scope(group))
    await rename(club, owner, group, title="Group", description=None)
    assert await types(club, chat_scope(group)) == before


async def test_an_expired_or_revoked_link_opens_nothing(club: Club) -> None:
    owner, guest = await club.town.settle_many(2)
    group = await club.group(owner)
    end = club.clock.now()
    club.clock.advance(seconds=-1)
    invite = await create_invite(
        club.db, user_id=owner, chat_id=group, expires_at=end, max_uses=None
    )
    club.clock.advance(seconds=1)
    with pytest.raises(InviteNotFound):
        await join_by_invite(club.db, club.tools, user_id=guest, code=invite["code"])
    with pytest.raises(InviteNotFound):
        await preview_invite(club.db, club.tools.keyring, viewer=guest, code=invite["code"])


async def test_members_who_come_by_a_link_again_use_nothing_up(club: Club) -> None:
    owner, guest, other = await club.town.settle_many(3)
    group = await club.group(owner)
    invite = await create_invite(club.db, user_id=owner, chat_id=group, expires_at=None, max_uses=2)
    for _ in range(3):
        await join_by_invite(club.db, club.tools, user_id=guest, code=invite["code"])
    await join_by_invite(club.db, club.tools, user_id=other, code=invite["code"])
    assert await members_count(club, group) == (3, 3)
