"""Reads of the simulated database: each takes its time, and every statement sees what is committed then."""

from collections.abc import Callable, Generator, Mapping
from typing import Any

from app.features.gateway.course import (
    AwaitRoom,
    Need,
    ReadFollowings,
    ReadPages,
    ReadStanding,
)
from app.features.gateway.fanout import Filled, Gaps
from app.features.gateway.logbook import Pages
from app.features.gateway.queries import Following, Standing
from app.features.updates.log import Head
from app.kernel.scopes import Scope, user_scope
from tests.unit.simulation.log import Log, Pair, is_of_chat
from tests.unit.simulation.schedule import Schedule
from tests.unit.simulation.weather import Weather

# Time passes at each `yield`; what is returned is the answer.
Reading = Generator[None, None, Any]
FindSuspects = Callable[[Gaps, Pages, Mapping[Scope, Head]], set[Pair]]


class Database:
    """Asks of `log`, at moments that chance chooses."""

    def __init__(self, log: Log, schedule: Schedule, weather: Weather) -> None:
        self.log = log
        self.schedule = schedule
        self.weather = weather
        self.is_away = False

    def read(
        self,
        reading: Reading,
        done: Callable[[Any], None],
        failed: Callable[[], None],
        *,
        is_wanted: Callable[[], bool],
    ) -> None:
        """Exactly one of `done` and `failed` is called, later; neither if nobody wants to know any more."""

        def go_on() -> None:
            if not is_wanted():
                reading.close()
                return
            if self.is_away or self.schedule.chance(self.weather.read_failure):
                reading.close()
                self._later(failed)
                return
            try:
                next(reading)
            except StopIteration as end:
                answer = end.value
                self._later(lambda: done(answer))
            else:
                self._later(go_on)

        self._later(go_on)

    def _later(self, action: Callable[[], None]) -> None:
        self.schedule.within(self.weather.read_delay, action)

    def meet_with_epoch(self, need: Need) -> Reading:
        """The answer, and of which epoch it is."""
        answer = yield from self.meet(need)
        yield
        return answer, self.log.epoch

    def meet(self, need: Need) -> Reading:
        """The statements behind a need of a course."""
        match need:
            case ReadStanding(user_id, chat_id):
                if chat_id is None:
                    return one_statement(lambda: self.log.read_standing(user_id))
                return self._read_standing_in((user_id, chat_id))
            case ReadFollowings():
                return self.read_followings(need.pairs)
            case ReadPages(ranges, limit, followings):
                return self.read_pages(ranges, limit, followings.pairs)
            case AwaitRoom():
                raise AssertionError(need)

    def read_followings(self, pairs: list[Pair]) -> Reading:
        return one_statement(lambda: self.log.read_followings(pairs))

    def read_pages(
        self, ranges: Mapping[Scope, tuple[int, int]], limit: int, pairs: list[Pair]
    ) -> Reading:
        limit = min(limit, self.weather.page_rows)
        rows = self.log.read_rows(ranges, limit)
        yield
        pages = self.log.fill(ranges, rows, limit)
        yield
        return pages, self.log.read_followings(pairs)

    def read_gaps(self, gaps: Gaps, find_suspects: FindSuspects) -> Reading:
        rows = self.log.read_rows(gaps.ranges, self.weather.page_rows)
        yield
        pages = self.log.fill(gaps.ranges, rows, self.weather.page_rows)
        yield
        heads = self.log.read_heads(gaps.chats)
        suspects = find_suspects(gaps, pages, heads)
        yield
        return Filled(pages, heads, suspects, self.log.read_followings(suspects))

    def read_heads(self, scopes: list[Scope]) -> Reading:
        chats = self.log.read_heads(scope for scope in scopes if is_of_chat(scope))
        yield
        return chats | self.log.read_heads(scope for scope in scopes if not is_of_chat(scope))

    def _read_standing_in(self, pair: Pair) -> Reading:
        seq = self.log.head(user_scope(pair[0]))
        yield
        found: list[Following] = list(self.log.read_followings([pair]).values())
        return Standing(seq, {following.chat_id: following for following in found})


def one_statement(statement: Callable[[], Any]) -> Reading:
    yield
    return statement()
