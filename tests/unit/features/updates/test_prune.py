"""The log forgets from below, without a hole, whatever clocks said and however many workers forget."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert, select, update

from app.features.updates import prune
from app.features.updates.log import create_scopes, lock_scopes, read_seqs
from app.features.updates.models import ScopeRow, UpdateRow
from app.features.updates.prune import PASS_EVERY, claim_pass, prune_updates
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, chat_scope, user_scope
from tests.support.databases import SetClock
from tests.support.plans import Explain

pytestmark = pytest.mark.anyio
OLD, YOUNG = timedelta(days=40), timedelta(days=1)
KEEP = timedelta(days=30)


async def write(db: Database, scope: Scope, ages: Sequence[timedelta], clock: SetClock) -> None:
    """A scope whose updates say that they are so old."""

    async def work(tx: Tx) -> None:
        await create_scopes(tx, [scope])
        await tx.execute(
            update(ScopeRow)
            .where(ScopeRow.kind == int(scope.kind), ScopeRow.id == scope.id)
            .values(seq=len(ages))
        )
        rows = [
            {
                "kind": int(scope.kind),
                "scope_id": scope.id,
                "seq": seq,
                "type": "new_message",
                "created_at": clock.now() - age,
            }
            for seq, age in enumerate(ages, start=1)
        ]
        if rows:
            await tx.execute(insert(UpdateRow), rows)

    await db.write(work)


async def kept(db: Database) -> dict[Scope, list[int]]:
    statement = select(UpdateRow.kind, UpdateRow.scope_id, UpdateRow.seq).order_by(
        UpdateRow.kind, UpdateRow.scope_id, UpdateRow.seq
    )
    found: dict[Scope, list[int]] = {}
    for kind, scope_id, seq in await db.read(lambda tx: tx.all(statement)):
        scope = chat_scope(scope_id) if kind == 1 else user_scope(scope_id)
        found.setdefault(scope, []).append(seq)
    return found


def limit(clock: SetClock) -> datetime:
    return clock.now() - KEEP


async def test_what_is_too_old_goes_and_numbers_go_on(db: Database, clock: SetClock) -> None:
    chat, user, quiet = chat_scope(ChatId(1)), user_scope(UserId(5)), chat_scope(ChatId(2))
    await write(db, chat, [OLD] * 3 + [YOUNG] * 2, clock)
    await write(db, user, [OLD] * 4, clock)
    await write(db, quiet, [], clock)
    assert await prune_updates(db, before=limit(clock)) == 7
    assert await kept(db) == {chat: [4, 5]}
    assert await prune_updates(db, before=limit(clock)) == 0

    async def work(tx: Tx) -> None:
        (await lock_scopes(tx, [user])).append(user, "read")

    await db.write(work)
    assert await kept(db) == {chat: [4, 5], user: [5]}
    assert await db.read(lambda tx: read_seqs(tx, [chat, user])) == {chat: 5, user: 5}


async def test_clocks_that_lied_make_no_hole(db: Database, clock: SetClock) -> None:
    rng = random.Random(1)
    scopes = [chat_scope(ChatId(number)) for number in range(1, 40)]
    lengths = {scope: rng.randrange(30) for scope in scopes}
    for scope in scopes:
        await write(db, scope, rng.choices([OLD, YOUNG, -OLD], [8, 1, 1], k=lengths[scope]), clock)
    await prune_updates(db, before=limit(clock))
    for scope, seqs in (await kept(db)).items():
        assert seqs == list(range(seqs[0], lengths[scope] + 1))


async def test_many_rows_and_scopes_go_in_many_small_transactions(
    db: Database, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_ROWS_A_SCOPE", 7)
    monkeypatch.setattr(prune, "_ROWS", prune._ROWS.limit(7))
    monkeypatch.setattr(prune, "_SCOPES_A_READ", 3)
    monkeypatch.setattr(prune, "_SCOPES", prune._SCOPES.limit(3))
    monkeypatch.setattr(prune, "_SCOPES_A_WRITE", 2)
    scopes = [chat_scope(ChatId(number)) for number in range(1, 12)]
    for number, scope in enumerate(scopes):
        await write(db, scope, [OLD] * 3 * number + [YOUNG] * (number % 2), clock)
    assert await prune_updates(db, before=limit(clock)) == 3 * sum(range(11))
    assert await kept(db) == {
        scope: [3 * number + 1] for number, scope in enumerate(scopes) if number % 2
    }


async def test_several_workers_at_once_forget_each_row_once(db: Database, clock: SetClock) -> None:
    scopes = [chat_scope(ChatId(number)) for number in range(1, 30)]
    for scope in scopes:
        await write(db, scope, [OLD] * 20 + [YOUNG], clock)

    async def append(scope: Scope) -> None:
        async def work(tx: Tx) -> None:
            (await lock_scopes(tx, [scope])).append(scope, "new_message")

        await db.write(work)

    passes = [prune_updates(db, before=limit(clock)) for _ in range(4)]
    counts, *_ = await asyncio.gather(asyncio.gather(*passes), *map(append, scopes))
    assert sum(counts) == 20 * len(scopes)
    assert await kept(db) == {scope: [21, 22] for scope in scopes}


async def test_one_worker_takes_a_pass_and_the_next_one_comes_hours_later(
    db: Database, clock: SetClock
) -> None:
    claims = await asyncio.gather(*(claim_pass(db) for _ in range(8)))
    assert sum(claims) == 1
    clock.advance(seconds=PASS_EVERY.total_seconds() - 1)
    assert not await claim_pass(db)
    clock.advance(seconds=1)
    assert await claim_pass(db)


async def test_a_pass_that_a_wrong_clock_dated_ahead_stops_nobody(
    db: Database, clock: SetClock
) -> None:
    clock.advance(days=400)
    assert await claim_pass(db)
    clock.advance(days=-400)
    assert await claim_pass(db)


# PostgreSQL plans by statistics, which a test has not got.
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
async def test_no_statement_of_a_pass_reads_the_whole_log(db: Database) -> None:
    of_scope = {"of_kind": 1, "of_id": 7, "after_id": 0, "upto": 3}
    for statement in (prune._SCOPES, prune._ROWS, prune._DELETE):
        names = statement.compile().params.keys() & of_scope.keys()
        parameters = {name: of_scope[name] for name in names}
        rows = await db.read(lambda tx, it=statement, them=parameters: tx.all(Explain(it), them))
        plan = [str(row[3]) for row in rows]
        assert plan
        assert not [line for line in plan if line.startswith("SCAN")], plan
