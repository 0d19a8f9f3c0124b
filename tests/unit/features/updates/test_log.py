"""The numbering: gapless, in the order of commits, on both databases, with real transactions."""

import asyncio

import pytest
from sqlalchemy import select

from app.features.updates.log import (
    Head,
    create_scopes,
    lock_scopes,
    read_heads,
    read_seqs,
    try_lock_scopes,
)
from app.features.updates.models import ScopeRow, UpdateRow
from app.features.updates.read import find_oldest, read_log
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import chat_scope, user_scope

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("scopes")]
CHAT, OTHER, USER = chat_scope(ChatId(1)), chat_scope(ChatId(2)), user_scope(UserId(5))


@pytest.fixture
async def scopes(db: Database) -> None:
    await db.write(lambda tx: create_scopes(tx, [USER, OTHER, CHAT]))


async def seqs(db: Database) -> dict[int, int]:
    async def work(tx: Tx) -> dict[int, int]:
        rows = await tx.all(select(ScopeRow.id, ScopeRow.seq).where(ScopeRow.kind == 1))
        return dict(rows)  # pyright: ignore[reportArgumentType]

    return await db.read(work)


async def test_parallel_changes_take_one_number_each_and_leave_no_hole(db: Database) -> None:
    async def change(number: int) -> int:
        async def work(tx: Tx) -> int:
            log = await lock_scopes(tx, [CHAT])
            seq = log.append(CHAT, "new_message", subject_id=number, content={"n": number})
            if number % 5 == 0:
                raise RuntimeError("rolled back")
            return seq

        return await db.write(work)

    outcomes = await asyncio.gather(*(change(n) for n in range(40)), return_exceptions=True)
    given = sorted(outcome for outcome in outcomes if isinstance(outcome, int))
    assert given == list(range(1, 33))
    rows = await db.read(lambda tx: read_log(tx, {CHAT: (0, 100)}, limit=1000))
    assert [row.seq for row in rows] == given


async def test_announcements_leave_after_the_commit_in_order(db: Database) -> None:
    heard: list[Announcement] = []
    known: list[int] = []

    def listen(announcements: object) -> None:
        heard.extend(announcements)  # pyright: ignore[reportArgumentType]

    db.on_commit = listen

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [CHAT, USER])
        log.append(CHAT, "members_changed", joined=[UserId(7)], left=[UserId(8)])
        log.append(USER, "read", content={"chat_id": 1})
        known.append(len(heard))

    await db.write(work)
    assert known == [0]
    assert [(a.scope, a.seq) for a in heard] == [(CHAT, 1), (USER, 1)]
    assert heard[0].joined == (7,)
    assert heard[0].left == (8,)
    assert heard[0].frame is None
    assert heard[1].frame == b'{"type":"read","scope":"user","seq":1,"data":{"chat_id":1}}'


async def test_a_removal_that_no_update_tells_of_is_known_by_its_revision(db: Database) -> None:
    heard: list[Announcement] = []
    db.on_commit = heard.extend

    async def say(tx: Tx) -> None:
        (await lock_scopes(tx, [CHAT])).append(CHAT, "new_message", content={})

    async def remove(tx: Tx) -> None:
        log = await lock_scopes(tx, [CHAT, USER])
        ended = (ChatId(1), log.count_removal(CHAT))
        log.append(USER, "chat_removed", data={"chat_id": 1}, content={}, ended=ended)

    async def fail(tx: Tx) -> None:
        (await lock_scopes(tx, [CHAT])).count_removal(CHAT)
        raise RuntimeError("rolled back")

    await db.write(say)
    await db.write(remove)
    with pytest.raises(RuntimeError, match="rolled back"):
        await db.write(fail)
    await db.write(say)
    assert [(a.scope, a.seq, a.removals, a.ended) for a in heard] == [
        (CHAT, 1, 0, None),
        (USER, 1, 0, (1, 1)),
        (CHAT, 2, 1, None),
    ]
    heads = await db.read(lambda tx: read_heads(tx, [CHAT, USER, OTHER]))
    assert heads == {CHAT: Head(2, 1), USER: Head(1, 0), OTHER: Head(0, 0)}
    (told,) = await db.read(lambda tx: read_log(tx, {USER: (0, 1)}, limit=10))
    assert told.data == {"chat_id": 1, "_ended": [1, 1]}


async def test_a_failed_change_announces_nothing(db: Database) -> None:
    heard: list[object] = []
    db.on_commit = heard.extend

    async def work(tx: Tx) -> None:
        (await lock_scopes(tx, [CHAT])).append(CHAT, "chat_updated", content={})
        raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError, match="rolled back"):
        await db.write(work)
    assert heard == []
    assert (await seqs(db))[1] == 0


async def test_try_lock_leaves_out_what_another_holds(db: Database) -> None:
    if db.dialect == "sqlite":
        return  # one writer: nobody else can hold anything
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(tx: Tx) -> None:
        await lock_scopes(tx, [CHAT])
        held.set()
        await release.wait()

    holder = asyncio.create_task(db.write(hold))
    await held.wait()

    async def attempt(tx: Tx) -> tuple[bool, bool]:
        log = await try_lock_scopes(tx, [CHAT, OTHER])
        return log.is_locked(CHAT), log.is_locked(OTHER)

    assert await db.write(attempt) == (False, True)
    release.set()
    await holder


async def test_a_scope_that_does_not_exist_is_not_locked(db: Database) -> None:
    async def work(tx: Tx) -> bool:
        return (await lock_scopes(tx, [chat_scope(ChatId(99))])).is_locked(chat_scope(ChatId(99)))

    assert await db.write(work) is False


async def test_reading_is_bounded_and_ordered_by_scope(db: Database) -> None:
    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [CHAT, OTHER])
        for number in range(4):
            log.append(CHAT, "new_message", subject_id=number)
            log.append(OTHER, "new_message", subject_id=number)

    await db.write(work)
    rows = await db.read(lambda tx: read_log(tx, {OTHER: (0, 2), CHAT: (2, 9)}, limit=3))
    assert [(row.scope.id, row.seq) for row in rows] == [(1, 3), (1, 4), (2, 1)]
    assert await db.read(lambda tx: find_oldest(tx, [CHAT, OTHER, USER])) == {CHAT: 1, OTHER: 1}
    assert await db.read(lambda tx: read_seqs(tx, [CHAT, USER])) == {CHAT: 4, USER: 0}


async def test_the_work_of_a_caller_who_goes_away_is_finished(db: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [CHAT])
        inside.set()
        await go_on.wait()
        log.append(CHAT, "new_message", subject_id=1)

    task = asyncio.create_task(db.write(work))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()

    async def count(tx: Tx) -> int:
        return len(await tx.scalars(select(UpdateRow.seq)))

    async with asyncio.timeout(30):
        while await db.read(count) != 1:  # noqa: ASYNC110 - a condition of the database
            await asyncio.sleep(0)
    assert (await seqs(db))[1] == 1
