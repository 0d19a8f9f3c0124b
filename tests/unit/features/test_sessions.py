"""Sessions: rotation without two live branches, exact caps, an end that every worker learns of."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.end import end_other_sessions, end_session
from app.features.sessions.errors import (
    RefreshTokenInvalid,
    SessionNotFound,
    TokenRefused,
    TooManyTickets,
)
from app.features.sessions.jobs import prune
from app.features.sessions.list import SessionPage, list_sessions
from app.features.sessions.models import RefreshTokenRow, SessionRow, TicketRow
from app.features.sessions.open import MAX_SESSIONS, SessionTokens
from app.features.sessions.revocations import RevocationList
from app.features.sessions.tickets import (
    MAX_UNUSED_TICKETS,
    Wish,
    create_ticket,
    create_tickets,
    use_ticket,
    use_tickets,
)
from app.features.updates.models import UpdateRow
from app.infra.bus.memory import MemoryBus
from app.infra.database.tx import Tx
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.cursors import CursorCodec
from app.kernel.ids import ChatId, SessionId, UserId
from tests.support.statements import recorded_statements
from tests.unit.features.conftest import World


def current(user_id: UserId, tokens: SessionTokens, world: World) -> CurrentSession:
    return CurrentSession(user_id, tokens.session_id, world.clock.now())


async def listed(world: World, caller: CurrentSession, **page: object) -> SessionPage:
    arguments = {"limit": 100, "cursor": None} | page
    return await list_sessions(
        world.db, world.keyring, CursorCodec(b"c" * 32), caller=caller, **arguments
    )


async def is_live(world: World, tokens: SessionTokens) -> bool:
    """Asked of the database, as a worker does whose poll is too old."""
    fresh = RevocationList(MemoryBus(), keep=timedelta(minutes=30))
    return not await fresh.is_revoked(world.db, tokens.session_id)


async def test_refresh_tokens_rotate(world: World) -> None:
    opened = await world.open(await world.new_user())
    token = opened.refresh_token
    seen = {token}
    for _ in range(4):
        pair = await world.refresh(token)
        assert pair.session_id == opened.session_id
        token = pair.refresh_token
        seen.add(token)
    assert len(seen) == 5
    assert world.events.names() == []


async def test_a_retry_gets_the_same_successor_while_it_is_unused(world: World) -> None:
    opened = await world.open(await world.new_user())
    first = await world.refresh(opened.refresh_token)
    world.clock.advance(seconds=29)
    again = await world.refresh(opened.refresh_token)
    assert again.refresh_token == first.refresh_token
    await world.refresh(first.refresh_token)
    assert await is_live(world, opened)


async def test_a_late_replay_ends_the_session(world: World) -> None:
    user_id = await world.new_user()
    opened, other = await world.open(user_id), await world.open(user_id)
    pair = await world.refresh(opened.refresh_token)
    world.clock.advance(seconds=31)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(opened.refresh_token)
    assert world.events.names() == ["session_ended", "refresh_token_replayed"]
    assert world.revocations.is_denied(opened.session_id)
    assert not await is_live(world, opened)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(pair.refresh_token)
    assert await is_live(world, other)


async def test_a_replay_after_the_successor_was_used_ends_the_session(world: World) -> None:
    opened = await world.open(await world.new_user())
    pair = await world.refresh(opened.refresh_token)
    last = await world.refresh(pair.refresh_token)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(opened.refresh_token)
    assert not await is_live(world, opened)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(last.refresh_token)


async def test_parallel_refreshes_leave_one_live_branch(world: World) -> None:
    opened = await world.open(await world.new_user())
    pairs = await asyncio.gather(*(world.refresh(opened.refresh_token) for _ in range(20)))
    assert len({pair.refresh_token for pair in pairs}) == 1

    async def unused(tx: Tx) -> int | None:
        statement = select(func.count()).where(RefreshTokenRow.used_at.is_(None))
        return await tx.scalar(statement)

    assert await world.db.read(unused) == 1
    assert world.events.names() == []


async def test_retry_and_use_of_the_successor_at_once_leave_at_most_one_branch(
    world: World,
) -> None:
    opened = await world.open(await world.new_user())
    pair = await world.refresh(opened.refresh_token)
    outcomes = await asyncio.gather(
        *(world.refresh(opened.refresh_token) for _ in range(5)),
        *(world.refresh(pair.refresh_token) for _ in range(5)),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, SessionTokens | RefreshTokenInvalid)

    async def unused(tx: Tx) -> int | None:
        statement = select(func.count()).where(RefreshTokenRow.used_at.is_(None))
        return await tx.scalar(statement)

    assert (await world.db.read(unused) or 0) <= 1


async def test_sessions_end_when_idle_and_in_all(world: World) -> None:
    opened = await world.open(await world.new_user())
    token = opened.refresh_token
    for _ in range(6):
        world.clock.advance(days=29)
        token = (await world.refresh(token)).refresh_token
    world.clock.advance(days=7)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(token)
    idle = await world.open(await world.new_user("+447400123457"))
    world.clock.advance(days=30)
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(idle.refresh_token)


async def test_near_its_end_a_session_gets_shorter_access_tokens(world: World) -> None:
    opened = await world.open(await world.new_user())
    token = opened.refresh_token
    for _ in range(6):
        world.clock.advance(days=29)
        token = (await world.refresh(token)).refresh_token
    world.clock.advance(days=5, hours=23, minutes=55)
    assert (await world.refresh(token)).expires_in == 300


@pytest.mark.parametrize(
    "wrong",
    ["", "x", "rt_" + "A" * 43, new_token(Purpose.TICKET)],
    ids=["empty", "short", "unknown", "a ticket"],
)
async def test_what_is_no_refresh_token_is_refused(world: World, wrong: str) -> None:
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(wrong)


async def test_the_successor_is_not_stored_in_the_clear(world: World) -> None:
    opened = await world.open(await world.new_user())
    pair = await world.refresh(opened.refresh_token)

    async def stored(tx: Tx) -> bytes:
        rows = await tx.all(select(RefreshTokenRow.hash, RefreshTokenRow.successor))
        return b"".join(part for row in rows for part in row if part)

    blob = await world.db.read(stored)
    for token in (opened.refresh_token, pair.refresh_token):
        assert token.encode() not in blob
        assert token.removeprefix("rt_").encode() not in blob


async def test_an_ended_session_is_over_for_good(world: World) -> None:
    user_id = await world.new_user()
    opened = await world.open(user_id)
    ticket = await create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)
    heard: list[SessionId] = []
    world.revocations.add_listener(heard.extend)
    ending = {"user_id": user_id, "session_id": opened.session_id}
    await end_session(world.db, world.revocations, **ending)
    assert heard == [opened.session_id]
    with pytest.raises(RefreshTokenInvalid):
        await world.refresh(opened.refresh_token)
    assert await use_ticket(world.db, ticket) is None
    assert await use_ticket(world.db, "no ticket at all") is None
    with pytest.raises(TokenRefused):
        await create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)
    with pytest.raises(SessionNotFound):
        await end_session(world.db, world.revocations, **ending)


async def test_nobody_ends_the_session_of_another(world: World) -> None:
    mine = await world.new_user()
    theirs = await world.open(await world.new_user("+447400123457"))
    for session_id in (theirs.session_id, SessionId(999_999)):
        with pytest.raises(SessionNotFound):
            await end_session(
                world.db,
                world.revocations,
                user_id=mine,
                session_id=session_id,
            )
    assert await is_live(world, theirs)


async def test_ending_all_others_keeps_this_one(world: World) -> None:
    user_id = await world.new_user()
    opened = [await world.open(user_id) for _ in range(4)]
    await end_other_sessions(
        world.db,
        world.revocations,
        user_id=user_id,
        session_id=opened[1].session_id,
    )
    assert [await is_live(world, tokens) for tokens in opened] == [False, True, False, False]
    assert len((await listed(world, current(user_id, opened[1], world)))["items"]) == 1


async def test_the_cap_ends_the_session_that_was_unused_for_longest(world: World) -> None:
    user_id = await world.new_user()
    first = await world.open(user_id)
    world.clock.advance(seconds=1)
    second = await world.open(user_id)
    world.clock.advance(seconds=1)
    await world.refresh(first.refresh_token)
    await asyncio.gather(*(world.open(user_id) for _ in range(MAX_SESSIONS - 1)))
    page = await listed(world, current(user_id, first, world))
    ids = {item["id"] for item in page["items"]}
    assert len(ids) == MAX_SESSIONS
    assert first.session_id in ids
    assert second.session_id not in ids
    assert world.revocations.is_denied(second.session_id)


async def test_other_devices_are_told(world: World) -> None:
    user_id = await world.new_user()
    opened = await world.open(user_id)
    await end_session(
        world.db,
        world.revocations,
        user_id=user_id,
        session_id=opened.session_id,
    )

    async def logged(tx: Tx) -> list[object]:
        statement = select(UpdateRow.data).where(UpdateRow.type == "sessions_changed")
        return list(await tx.scalars(statement.order_by(UpdateRow.seq)))

    assert await world.db.read(logged) == [
        {"opened": [opened.session_id], "ended": []},
        {"opened": [], "ended": [opened.session_id]},
    ]


async def test_device_names_are_sealed_and_listed(world: World) -> None:
    user_id = await world.new_user()
    opened = await world.open(user_id, "Anna's phone")

    async def stored(tx: Tx) -> bytes | None:
        return await tx.scalar(select(SessionRow.device_name))

    assert b"Anna" not in (await world.db.read(stored) or b"")
    (item,) = (await listed(world, current(user_id, opened, world)))["items"]
    assert item["device_name"] == "Anna's phone"
    assert item["is_current"]


async def test_a_walk_through_my_devices_sees_each_once(world: World) -> None:
    user_id = await world.new_user()
    opened = [await world.open(user_id) for _ in range(7)]
    me = current(user_id, opened[0], world)
    seen: list[int] = []
    cursor = None
    while True:
        page = await listed(world, me, limit=3, cursor=cursor)
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await world.open(user_id)
    assert seen == sorted((tokens.session_id for tokens in opened), reverse=True)


async def test_a_ticket_is_used_once(world: World) -> None:
    user_id = await world.new_user()
    opened = await world.open(user_id)
    ticket = await create_ticket(world.db, [], session_id=opened.session_id, chat_id=ChatId(7))
    uses = await asyncio.gather(*(use_ticket(world.db, ticket) for _ in range(20)))
    (used,) = [use for use in uses if use is not None]
    assert (used.user_id, used.session_id, used.chat_id) == (user_id, opened.session_id, 7)


async def test_a_ticket_lives_30_seconds(world: World) -> None:
    opened = await world.open(await world.new_user())
    ticket = await create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)
    world.clock.advance(seconds=30)
    assert await use_ticket(world.db, ticket) is None


async def test_unused_tickets_are_capped(world: World) -> None:
    opened = await world.open(await world.new_user())
    outcomes = await asyncio.gather(
        *(
            create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)
            for _ in range(MAX_UNUSED_TICKETS + 5)
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManyTickets)]
    assert len(refused) == 5
    assert refused[0].retry_after in {30, 31}
    world.clock.advance(seconds=30)
    await create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)


async def test_many_tickets_take_as_many_statements_as_one(world: World) -> None:
    user_id = await world.new_user()
    opened = [await world.open(user_id) for _ in range(30)]

    async def come(sessions: list[SessionTokens]) -> int:
        """Tickets made and used, each by one group; answers the statements of both."""
        wishes = [Wish(new_token(Purpose.TICKET), it.session_id, None, doors=[]) for it in sessions]
        hashes = [hash_token(wish.ticket, Purpose.TICKET) or b"" for wish in wishes]
        with recorded_statements(world.db) as statements:
            assert await world.db.write(lambda tx: create_tickets(tx, wishes, may_wait=False)) == [
                None
            ] * len(wishes)
            used = await world.db.write(
                lambda tx: use_tickets(tx, [*hashes, hashes[0], b"guess"], may_wait=False)
            )
        assert [it and it.session_id for it in used] == [
            *(it.session_id for it in sessions),
            None,
            None,
        ]
        return len(statements)

    assert await come(opened) <= await come(opened[:1])


async def test_an_ended_session_in_a_group_of_tickets_refuses_itself_alone(world: World) -> None:
    user_id = await world.new_user()
    over, alive = await world.open(user_id), await world.open(user_id)
    ending = {"user_id": user_id, "session_id": over.session_id}
    await end_session(world.db, world.revocations, **ending)
    outcomes = await asyncio.gather(
        *(
            create_ticket(world.db, [], session_id=it.session_id, chat_id=None)
            for it in (over, alive, over)
        ),
        return_exceptions=True,
    )
    assert [isinstance(it, TokenRefused) for it in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], str)
    assert await use_ticket(world.db, outcomes[1]) is not None


async def test_workers_learn_from_the_table_without_a_bus(world: World) -> None:
    user_id = await world.new_user()
    opened = [await world.open(user_id) for _ in range(3)]
    other = RevocationList(MemoryBus(), keep=timedelta(minutes=30))
    await other.poll(world.db)
    heard: list[SessionId] = []
    other.add_listener(heard.extend)
    for tokens in opened[:2]:
        await end_session(
            world.db,
            world.revocations,
            user_id=user_id,
            session_id=tokens.session_id,
        )
    assert not await other.is_revoked(world.db, opened[0].session_id)
    await other.poll(world.db)
    await other.poll(world.db)
    assert heard == [tokens.session_id for tokens in opened[:2]]
    assert await other.is_revoked(world.db, opened[0].session_id)
    assert not await other.is_revoked(world.db, opened[2].session_id)


async def test_a_worker_that_has_not_polled_asks_the_database(world: World) -> None:
    user_id = await world.new_user()
    opened = await world.open(user_id)
    blind = RevocationList(MemoryBus(), keep=timedelta(minutes=30))
    assert not await blind.is_revoked(world.db, opened.session_id)
    await end_session(
        world.db,
        world.revocations,
        user_id=user_id,
        session_id=opened.session_id,
    )
    assert await blind.is_revoked(world.db, opened.session_id)


async def test_last_use_is_written_at_most_once_a_minute(world: World) -> None:
    opened = await world.open(await world.new_user())

    async def last_used(tx: Tx) -> object:
        return await tx.scalar(select(SessionRow.last_used_at))

    start = world.clock.now()
    world.clock.advance(seconds=50)
    world.activity.touch(opened.session_id, world.clock.now())
    await world.activity.flush(world.db, world.clock.now())
    assert await world.db.read(last_used) == start
    world.clock.advance(seconds=70)
    world.activity.touch(opened.session_id, world.clock.now())
    await world.activity.flush(world.db, world.clock.now())
    assert await world.db.read(last_used) == world.clock.now()


async def test_what_is_over_is_forgotten(world: World) -> None:
    user_id = await world.new_user()
    kept = await world.open(user_id)
    for _ in range(3):
        opened = await world.open(user_id)
        await world.refresh(opened.refresh_token)
        await create_ticket(world.db, [], session_id=opened.session_id, chat_id=None)
    token = kept.refresh_token
    for _ in range(3):
        world.clock.advance(days=15)
        token = (await world.refresh(token)).refresh_token
    await prune(world.db)

    async def count(tx: Tx) -> list[int | None]:
        tables = (SessionRow, RefreshTokenRow, TicketRow)
        return [await tx.scalar(select(func.count()).select_from(table)) for table in tables]

    assert await world.db.read(count) == [1, 2, 0]
    await world.refresh(token)
