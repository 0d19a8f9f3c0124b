"""Reads that are made together, without I/O: who missed the same is served by one read of it.

After an outage thousands of sockets ask for the same updates of the same chats. One read for many of them
costs little more than one for the first.
"""

from bisect import bisect_right
from collections.abc import Mapping
from operator import attrgetter

from app.features.gateway.course import Read, ReadFollowings, ReadPages, ReadStanding
from app.features.gateway.logbook import Pages
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope

# What a batch may read; the need that it begins with may be larger. It bounds how long one batch keeps
# the event loop, and the memory that it takes.
_ROWS = 1000
# Chats of one user, at a guess.
_ROWS_A_STANDING = 50

Span = tuple[int, int]
_seq_of = attrgetter("seq")


class Batch:
    """The needs that one transaction meets: a first one, and those that were taken in.

    `ranges` are read for all of them, by scope: `(after, upto)`.
    """

    def __init__(self, first: Read) -> None:
        self.needs: list[Read] = [first]
        self.ranges: dict[Scope, Span] = dict(_ranges_of(first))
        self._other_rows = _count_others(first)

    @property
    def limit(self) -> int:
        """Rows of the log at most."""
        first = self.needs[0]
        is_as_alone = len(self.needs) == 1 or _count(self.ranges) > _ROWS
        return first.limit if is_as_alone and isinstance(first, ReadPages) else _ROWS

    @property
    def users(self) -> list[UserId]:
        """Whose standing is read in all their chats."""
        standings = (need for need in self.needs if isinstance(need, ReadStanding))
        return [need.user_id for need in standings if need.chat_id is None]

    @property
    def users_of_a_chat(self) -> list[UserId]:
        """Whose standing is read in one of their chats."""
        standings = (need for need in self.needs if isinstance(need, ReadStanding))
        return [need.user_id for need in standings if need.chat_id is not None]

    @property
    def pairs(self) -> list[tuple[UserId, ChatId]]:
        """Whose membership is read, behind all else."""
        return [pair for need in self.needs for pair in _pairs_of(need)]

    def accepts(self, need: Read) -> bool:
        """Take it in, if that does not make the batch too large."""
        ranges = _unite(self.ranges, _ranges_of(need))
        is_the_same = isinstance(need, ReadPages) and need.ranges.items() <= self.ranges.items()
        rows = _count(ranges) + self._other_rows + _count_others(need)
        if rows > _ROWS and not is_the_same:
            return False
        self.needs.append(need)
        self.ranges = ranges
        self._other_rows += _count_others(need)
        return True

    def cut_out(self, pages: Pages, need: ReadPages) -> Pages:
        """What `need` asks for, of the pages of `ranges`; scopes that these do not reach are absent."""
        updates: dict[Scope, list[Announcement]] = {}
        room = need.limit
        for scope in sorted(need.ranges):
            after, upto = need.ranges[scope]
            reach = self._find_reach(pages, scope)
            if room <= 0 or reach <= after:
                return Pages(updates, is_cut=True)
            found = pages.updates[scope]
            start = bisect_right(found, after, key=_seq_of)
            end = bisect_right(found, upto, key=_seq_of)
            updates[scope] = found[start : min(end, start + room)]
            room -= len(updates[scope])
            if reach < upto:
                return Pages(updates, is_cut=True)
        return Pages(updates, is_cut=room <= 0)

    def _find_reach(self, pages: Pages, scope: Scope) -> int:
        """Up to which number the pages hold all that the log does; -1: they do not reach the scope."""
        found = pages.updates.get(scope)
        if found is None:
            return -1
        is_cut_here = pages.is_cut and found and scope == next(reversed(pages.updates))
        return found[-1].seq if is_cut_here else self.ranges[scope][1]


def _ranges_of(need: Read) -> Mapping[Scope, Span]:
    return need.ranges if isinstance(need, ReadPages) else {}


def _pairs_of(need: Read) -> list[tuple[UserId, ChatId]]:
    match need:
        case ReadStanding(user_id, chat_id):
            return [] if chat_id is None else [(user_id, chat_id)]
        case ReadFollowings():
            return need.pairs
        case ReadPages():
            return need.followings.pairs


def _unite(one: Mapping[Scope, Span], other: Mapping[Scope, Span]) -> dict[Scope, Span]:
    united = dict(one)
    for scope, (after, upto) in other.items():
        known = united.get(scope, (after, upto))
        united[scope] = min(after, known[0]), max(upto, known[1])
    return united


def _count(ranges: Mapping[Scope, Span]) -> int:
    return sum(upto - after for after, upto in ranges.values())


def _count_others(need: Read) -> int:
    """Rows beside those of the log."""
    match need:
        case ReadStanding():
            return _ROWS_A_STANDING
        case ReadFollowings(_, scopes):
            return len(scopes)
        case ReadPages():
            return len(need.followings.scopes)
