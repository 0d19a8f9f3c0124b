"""Needs that are met together: each gets what it would have got alone, and nobody waits for nothing."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from app.features.gateway.batch import Batch
from app.features.gateway.course import ReadFollowings, ReadPages, ReadStanding
from app.features.gateway.logbook import Pages
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, chat_scope

CHATS = [chat_scope(ChatId(number)) for number in (1, 2, 3)]
# Above every number of a log, as a replay asks that reads on.
TO_THE_END = 2**53
ANNA = UserId(1)


def read(
    ranges: Mapping[Scope, tuple[int, int]], *, limit: int, heads: Mapping[Scope, int], pruned: int
) -> Pages:
    """As `read_pages`, of a log that holds the numbers above `pruned` up to the head of each scope."""
    rows = [
        Announcement(scope, seq)
        for scope in sorted(ranges)
        for seq in range(1, heads[scope] + 1)
        if max(ranges[scope][0], pruned) < seq <= ranges[scope][1]
    ][:limit]
    is_cut = len(rows) >= limit
    updates: dict[Scope, list[Announcement]] = {
        scope: [] for scope in sorted(ranges) if not is_cut or scope <= rows[-1].scope
    }
    for row in rows:
        updates[row.scope].append(row)
    return Pages(updates, is_cut)


def ask(ranges: Mapping[Scope, tuple[int, int]], limit: int = 500) -> ReadPages:
    return ReadPages(ranges, limit, ReadFollowings(ANNA, tuple(ranges)))


spans = st.tuples(st.integers(0, 12), st.integers(0, 12) | st.just(TO_THE_END)).filter(
    lambda span: span[0] < span[1]
)
needs = st.builds(
    ask, st.dictionaries(st.sampled_from(CHATS), spans, min_size=1), st.integers(1, 40)
)


@given(
    asked=st.lists(needs, min_size=1, max_size=6),
    heads=st.fixed_dictionaries({chat: st.integers(0, 12) for chat in CHATS}),
    pruned=st.integers(0, 4),
)
def test_each_gets_the_beginning_of_what_it_would_have_got_alone(
    asked: list[ReadPages], heads: dict[Scope, int], pruned: int
) -> None:
    batch = Batch(asked[0])
    taken = [asked[0], *(need for need in asked[1:] if batch.accepts(need))]
    assert batch.needs == taken
    pages = read(batch.ranges, limit=batch.limit, heads=heads, pruned=pruned)
    for need in taken:
        found = batch.cut_out(pages, need)
        alone = read(need.ranges, limit=need.limit, heads=heads, pruned=pruned)
        if not found.is_cut:
            assert found.updates == alone.updates
        last = next(reversed(found.updates), None)
        for scope, updates in found.updates.items():
            whole = alone.updates[scope]
            assert updates == (whole[: len(updates)] if scope == last else whole)
            # Nobody takes it for pruned.
            assert updates or not whole
    first = batch.cut_out(pages, asked[0])
    alone = read(asked[0].ranges, limit=asked[0].limit, heads=heads, pruned=pruned)
    assert first.updates
    assert any(first.updates.values()) or not any(alone.updates.values())


def test_a_thousand_rows_are_enough_but_the_same_rows_cost_nothing() -> None:
    chat, other, third = CHATS
    batch = Batch(ask({chat: (0, 700)}))
    assert batch.accepts(ask({chat: (500, 800)}))
    assert not batch.accepts(ask({other: (0, 250)}))
    assert batch.accepts(ask({other: (0, 100)}))
    assert batch.ranges == {chat: (0, 800), other: (0, 100)}
    for _ in range(2000):
        assert batch.accepts(ask({chat: (0, 800)}))
    assert not batch.accepts(ask({third: (0, 1)}))


def test_who_missed_more_than_that_takes_along_who_missed_the_same() -> None:
    chat = CHATS[0]
    batch = Batch(ask({chat: (0, 5000)}))
    assert not batch.accepts(ask({chat: (4999, 5000)}))
    assert batch.accepts(ask({chat: (0, 5000)}))
    assert batch.limit == 500


def test_standings_count_by_a_guess() -> None:
    batch = Batch(ReadStanding(ANNA, None))
    assert sum(batch.accepts(ReadStanding(UserId(number), None)) for number in range(2, 100)) == 19
    assert batch.users == [UserId(number) for number in range(1, 21)]
