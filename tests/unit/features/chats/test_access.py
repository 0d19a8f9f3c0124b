"""The way to a chat is one's membership; all that is not mine answers as what never was."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import update

from app.features.chats.access import (
    CHAT_COLUMNS,
    find_any_membership,
    find_chat,
    find_membership,
    get_member,
    get_membership,
    load_chat_memberships,
    load_memberships,
    make_pair_key,
    parse_pair_key,
    require,
)
from app.features.chats.add_members import add_members
from app.features.chats.delete import delete_chat
from app.features.chats.errors import ChatForbidden, ChatNotFound, MemberNotFound
from app.features.chats.leave import leave_chat
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import (
    DEFAULT_GROUP_PERMISSIONS,
    GROUP_RIGHTS,
    NONE,
    PRIVATE_RIGHTS,
    ChatType,
    Permission,
    Role,
)
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from tests.support.clubs import Club

pytestmark = pytest.mark.anyio
T = TypeVar("T")
NEVER = ChatId(2**53 - 2)


async def ask(club: Club, question: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
    return await club.db.read(question)


async def refuses(
    club: Club, problem: type[Exception], question: Callable[[Tx], Coroutine[Any, Any, object]]
) -> None:
    with pytest.raises(problem):
        await ask(club, question)


async def test_a_member_gets_the_membership_as_it_is_now(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna, bruno)
    mine = await ask(club, lambda tx: get_membership(tx, anna, chat_id))
    theirs = await ask(club, lambda tx: find_membership(tx, bruno, chat_id))
    assert theirs is not None
    assert (mine.role, mine.rights) == (Role.OWNER, GROUP_RIGHTS)
    assert (theirs.role, theirs.rights) == (Role.MEMBER, DEFAULT_GROUP_PERMISSIONS)
    assert (mine.user_id, theirs.user_id) == (anna, bruno)
    assert mine.chat == theirs.chat
    chat = mine.chat
    assert (chat.id, chat.type, chat.owner_id) == (chat_id, ChatType.GROUP, anna)
    assert (chat.permissions, chat.members_count) == (DEFAULT_GROUP_PERMISSIONS, 2)
    assert (chat.history_visible, chat.is_public, chat.pair) == (False, False, None)
    assert chat.created_at == mine.joined_at == club.clock.now()
    assert (mine.joined_seq, mine.cleared_id, mine.closed_id) == (0, 0, None)
    assert theirs.restricted_until is None
    message_id = await club.say(anna, chat_id)
    again = await ask(club, lambda tx: get_membership(tx, anna, chat_id))
    assert again.chat.last_message_id == again.last_read_message_id == message_id


@pytest.mark.parametrize("who", ["stranger", "left", "banned", "deleted", "never"])
async def test_who_is_not_in_the_chat_finds_none(club: Club, who: str) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna, *([] if who == "stranger" else [bruno]))
    if who == "left":
        await leave_chat(club.db, club.tools, user_id=bruno, chat_id=chat_id)
    if who == "banned":
        await club.put(anna, chat_id, bruno, Role.BANNED)
    if who == "deleted":
        await delete_chat(club.db, club.tools, user_id=anna, chat_id=chat_id, for_everyone=False)
    asked = NEVER if who == "never" else chat_id
    assert await ask(club, lambda tx: find_membership(tx, bruno, asked)) is None
    assert await ask(club, lambda tx: load_memberships(tx, [(bruno, asked)])) == {}
    await refuses(club, ChatNotFound, lambda tx: get_membership(tx, bruno, asked))
    await refuses(club, MemberNotFound, lambda tx: get_member(tx, bruno, asked))
    # Only the past of somebody who was in a chat that is still there is kept.
    past = await ask(club, lambda tx: find_any_membership(tx, bruno, asked))
    expected = {"left": Role.LEFT, "banned": Role.BANNED}.get(who)
    assert (None if past is None else past.role) is expected
    of_chat = await ask(club, lambda tx: load_chat_memberships(tx, asked, [bruno]))
    assert set(of_chat) == ({bruno} if expected else set())
    assert past is None or past.rights == NONE


async def test_many_memberships_are_those_asked_for_and_no_others(club: Club) -> None:
    anna, bruno, clara = await club.town.settle_many(3)
    one, other = await club.group(anna, bruno, clara), await club.group(bruno, anna)
    assert await ask(club, lambda tx: load_memberships(tx, [])) == {}
    pairs = [(anna, one), (bruno, other), (clara, other), (anna, NEVER)]
    found = await ask(club, lambda tx: load_memberships(tx, pairs))
    assert {key: it.role for key, it in found.items()} == {
        (anna, one): Role.OWNER,
        (bruno, other): Role.OWNER,
    }
    assert await ask(club, lambda tx: load_chat_memberships(tx, one, [])) == {}
    await club.put(anna, one, clara, Role.BANNED)
    of_one = await ask(club, lambda tx: load_chat_memberships(tx, one, [anna, clara]))
    assert {key: it.role for key, it in of_one.items()} == {
        anna: Role.OWNER,
        clara: Role.BANNED,
    }
    member = await ask(club, lambda tx: get_member(tx, bruno, one))
    assert (member.user_id, member.chat.id) == (bruno, one)


async def test_a_restriction_is_judged_at_the_moment_of_asking(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna, bruno)
    until = club.clock.now() + timedelta(hours=1)
    await club.put(anna, chat_id, bruno, Role.RESTRICTED, Permission.SEND_MEDIA, until=until)
    during = await club.membership(bruno, chat_id)
    assert during is not None
    assert (during.role, during.rights) == (Role.RESTRICTED, Permission.SEND_MEDIA)
    assert during.restricted_until == until
    club.clock.moment = until
    after = await club.membership(bruno, chat_id)
    assert after is not None
    assert (after.role, after.rights) == (Role.MEMBER, DEFAULT_GROUP_PERMISSIONS)
    assert after.restricted_until is None


async def test_a_ban_tells_its_end_while_it_lasts(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna, bruno)
    until = club.clock.now() + timedelta(hours=1)
    await club.put(anna, chat_id, bruno, Role.BANNED, until=until)
    during = await club.membership(bruno, chat_id)
    assert during is not None
    assert (during.role, during.restricted_until) == (Role.BANNED, until)
    club.clock.moment = until
    after = await club.membership(bruno, chat_id)
    assert after is not None
    assert (after.role, after.restricted_until) == (Role.LEFT, None)


async def test_an_end_belongs_to_restrictions_alone(club: Club) -> None:
    """A row of a plain member with an old end in it, as a hand-written repair may leave it."""
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna, bruno)
    end = club.clock.now() + timedelta(hours=1)

    async def leave_an_end(tx: Tx) -> None:
        where = (ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == bruno)
        await tx.execute(update(ParticipantRow).where(*where).values(restricted_until=end))

    await club.db.write(leave_an_end)
    plain = await club.membership(bruno, chat_id)
    assert plain is not None
    assert (plain.role, plain.restricted_until) == (Role.MEMBER, None)


async def test_what_newcomers_see_begins_with_their_joining_only_where_history_hides(
    club: Club,
) -> None:
    anna, bruno = await club.town.settle_many(2)
    chat_id = await club.group(anna)
    old = await club.say(anna, chat_id)
    await add_members(club.db, club.tools, actor_id=anna, chat_id=chat_id, user_ids=[bruno])
    newcomer = await ask(club, lambda tx: get_membership(tx, bruno, chat_id))
    assert newcomer.first_visible_id > old
    assert newcomer.joined_seq > 0

    async def show(tx: Tx) -> None:
        await tx.execute(update(ChatRow).where(ChatRow.id == chat_id).values(history_visible=True))

    await club.db.write(show)
    now = await ask(club, lambda tx: get_membership(tx, bruno, chat_id))
    assert (now.first_visible_id, now.chat.history_visible) == (0, True)


async def test_a_chat_is_known_from_outside_by_its_facts(club: Club) -> None:
    anna, bruno = await club.town.settle_many(2)
    public = await club.group(anna, username="open_house")
    pair = await club.pair(anna, bruno)
    facts = await ask(club, lambda tx: find_chat(tx, public))
    assert facts is not None
    assert (facts.id, facts.is_public, facts.history_visible, facts.pair) == (
        public,
        True,
        True,
        None,
    )
    private = await ask(club, lambda tx: find_chat(tx, pair))
    assert private is not None
    assert private.pair == (min(anna, bruno), max(anna, bruno))
    assert (private.type, private.owner_id, private.is_public) == (ChatType.PRIVATE, None, False)
    assert private.permissions == PRIVATE_RIGHTS
    assert await ask(club, lambda tx: find_chat(tx, NEVER)) is None
    await delete_chat(club.db, club.tools, user_id=anna, chat_id=public, for_everyone=False)
    assert await ask(club, lambda tx: find_chat(tx, public)) is None
    assert len(CHAT_COLUMNS) == len(set(CHAT_COLUMNS))


def test_a_pair_has_one_key_whoever_asks() -> None:
    assert make_pair_key(UserId(7), UserId(3)) == make_pair_key(UserId(3), UserId(7)) == "3:7"
    assert make_pair_key(UserId(5), UserId(5)) == "5:5"
    assert parse_pair_key("3:7") == (3, 7)
    assert parse_pair_key(None) is None


def test_what_a_rule_refuses_is_forbidden() -> None:
    require(True)
    with pytest.raises(ChatForbidden):
        require(False)
