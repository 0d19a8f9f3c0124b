"""Whom somebody's coming and going concerns, for many people at once."""

from itertools import pairwise

import pytest

from app.features.chats.changes import Tools
from app.features.chats.create import create_private_chat
from app.features.gateway.news import find_audiences
from app.features.users.block import block_user
from app.features.users.policy import Audience
from app.features.users.privacy import update_privacy
from app.infra.database.database import Database
from app.kernel.ids import UserId
from app.kernel.rules import Rules
from tests.support.databases import SetClock
from tests.support.statements import recorded_statements
from tests.support.town import Town, build_town

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(db: Database, clock: SetClock) -> Town:
    return await build_town(db, clock)


async def pair(town: Town, one: UserId, other: UserId) -> None:
    tools = Tools(keyring=town.keyring, rules=Rules(), max_members=10)
    await create_private_chat(town.db, tools, user_id=one, peer_id=other)


async def find(town: Town, *people: UserId) -> dict[UserId, list[UserId]]:
    return await town.db.read(lambda tx: find_audiences(tx, people))


async def test_each_is_told_to_peers_and_to_those_who_keep_them(town: Town) -> None:
    anna, bruno, clara, david = await town.settle_many(4)
    await pair(town, anna, bruno)
    await pair(town, anna, anna)
    await town.befriend(clara, anna)
    await town.befriend(anna, david)
    assert await find(town, anna, bruno, clara, david) == {
        anna: sorted([bruno, clara]),
        bruno: [anna],
        david: [anna],
    }


async def test_privacy_and_blocks_on_either_side_hide(town: Town) -> None:
    anna, bruno, clara, david, emil = await town.settle_many(5)
    for other in (bruno, clara, david, emil):
        await pair(town, anna, other)
    await block_user(town.db, town.keyring, blocker=anna, user_id=bruno)
    await block_user(town.db, town.keyring, blocker=clara, user_id=anna)
    assert (await find(town, anna))[anna] == sorted([david, emil])
    assert await find(town, bruno, clara) == {}
    await town.befriend(anna, david)
    await update_privacy(town.db, user_id=anna, changes={"last_seen": Audience.CONTACTS})
    assert await find(town, anna) == {anna: [david]}
    await update_privacy(town.db, user_id=anna, changes={"last_seen": Audience.NOBODY})
    assert await find(town, anna, emil) == {emil: [anna]}


async def test_many_people_take_as_many_statements_as_one(town: Town) -> None:
    people = await town.settle_many(8)
    for one, other in pairwise(people):
        await pair(town, one, other)
    with recorded_statements(town.db) as few:
        await find(town, people[0])
    with recorded_statements(town.db) as many:
        audiences = await find(town, *people)
    assert len(many) == len(few) == 5
    assert audiences[people[3]] == sorted([people[2], people[4]])


async def test_a_stranger_is_nobodys_news(town: Town) -> None:
    anna, _ = await town.settle_many(2)
    assert await find(town, anna, UserId(7)) == {}
