"""A channel's subscribers learn its number of members at most once a minute, and always the last one."""

import asyncio

import pytest

from app.features.chats import queries
from app.features.chats.delete import delete_chat
from app.features.chats.join import join_chat
from app.features.chats.leave import leave_chat
from app.features.chats.tell_counts import tell_due_counts
from app.infra.database.database import Database
from app.kernel.ids import ChatId
from app.kernel.scopes import chat_scope
from tests.support.clubs import Club
from tests.support.plans import Explain

pytestmark = pytest.mark.anyio


async def told(club: Club, channel: ChatId) -> int:
    """How often the channel was told of."""
    return len(await club.updates(chat_scope(channel)))


async def test_the_last_change_of_a_quiet_minute_is_told_when_it_is_over(club: Club) -> None:
    owner, *people = await club.town.settle_many(4)
    channel = await club.channel(owner, username="news_channel")
    for person in people:
        await join_chat(club.db, club.tools, user_id=person, chat_id=channel)
    club.clock.advance(seconds=30)
    await leave_chat(club.db, club.tools, user_id=people[0], chat_id=channel)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 1
    club.clock.advance(seconds=29)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 1
    club.clock.advance(seconds=1)
    await asyncio.gather(*(tell_due_counts(club.db) for _ in range(4)))
    assert await told(club, channel) == 2
    club.clock.advance(seconds=600)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 2


async def test_between_two_tellings_is_a_minute_whoever_tells(club: Club) -> None:
    owner, *people = await club.town.settle_many(4)
    channel = await club.channel(owner, username="news_channel")
    await join_chat(club.db, club.tools, user_id=people[0], chat_id=channel)
    await join_chat(club.db, club.tools, user_id=people[1], chat_id=channel)
    club.clock.advance(seconds=61)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 2
    # Told by the job a moment ago: this one waits for its minute.
    await join_chat(club.db, club.tools, user_id=people[2], chat_id=channel)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 2
    club.clock.advance(seconds=61)
    # A change that comes when the minute is over is told at once, and nothing is left for the job.
    await leave_chat(club.db, club.tools, user_id=people[2], chat_id=channel)
    await tell_due_counts(club.db)
    assert await told(club, channel) == 3


async def test_a_channel_that_was_deleted_meanwhile_is_not_told_of(club: Club) -> None:
    owner, *people = await club.town.settle_many(3)
    channel = await club.channel(owner, username="news_channel")
    for person in people:
        await join_chat(club.db, club.tools, user_id=person, chat_id=channel)
    await delete_chat(club.db, club.tools, user_id=owner, chat_id=channel, for_everyone=False)
    before = await told(club, channel)
    club.clock.advance(seconds=120)
    await tell_due_counts(club.db)
    assert await told(club, channel) == before
    assert await club.db.read(lambda tx: queries.find_due_counts(tx, limit=10)) == []


async def test_more_channels_than_one_read_finds_are_all_told_of(
    club: Club, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.features.chats.tell_counts._CHATS_A_READ", 2)
    owner, *people = await club.town.settle_many(3)
    channels = [await club.channel(owner, username=f"channel_{n}") for n in range(5)]
    for channel in channels:
        for person in people:
            await join_chat(club.db, club.tools, user_id=person, chat_id=channel)
    club.clock.advance(seconds=60)
    await tell_due_counts(club.db)
    assert [await told(club, channel) for channel in channels] == [2] * 5


# PostgreSQL plans by statistics, which a test has not got.
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_what_is_due_is_found_by_the_index(db: Database, club: Club) -> None:
    parameters = {"by": club.clock.now(), "count": 5}
    rows = await db.read(lambda tx: tx.all(Explain(queries.DUE_COUNTS), parameters))
    assert "ix_chats_count_due" in str(rows[0][3])
