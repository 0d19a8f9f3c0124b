"""Reads of the simulated database: each takes its time, and every statement sees what is committed then."""

from collections.abc import Callable, Generator, Mapping
from typing import Any

from app.features.gateway.batch import Batch
from app.features.gateway.course import Read, ReadFollowings, ReadPages, ReadStanding
from app.features.gateway.fanout import Filled, Gaps
from app.features.gateway.logbook import Pages
from app.features.gateway.queries import Standing
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

    def meet_with_epoch(self, batch: Batch) -> Reading:
        """The answers to the needs of a batch, and of which epoch they are."""
        answers = yield from self.meet(batch)
        yield
        return answers, self.log.epoch

    def meet(self, batch: Batch) -> Reading:
        """The statements behind needs of courses."""
        standings = {user_id: self.log.read_standing(user_id) for user_id in batch.users}
        yield
        seqs = {user_id: self.log.head(user_scope(user_id)) for user_id in batch.users_of_a_chat}
        yield
        limit = min(batch.limit, self.weather.page_rows)
        rows = self.log.read_rows(batch.ranges, limit)
        yield
        pages = self.log.fill(batch.ranges, rows, limit)
        yield
        followings = self.log.read_followings(batch.pairs)

        def find(need: Read) -> Any:
            match need:
                case ReadStanding(user_id, None):
                    return standings[user_id]
                case ReadStanding(user_id, _):
                    own = [it for pair, it in followings.items() if pair == (user_id, need.chat_id)]
                    return Standing(seqs[user_id], {it.chat_id: it for it in own})
                case ReadFollowings():
                    return followings
                case ReadPages():
                    return batch.cut_out(pages, need), followings

        return [find(need) for need in batch.needs]

    def read_followings(self, pairs: list[Pair]) -> Reading:
        return one_statement(lambda: self.log.read_followings(pairs))

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


def one_statement(statement: Callable[[], Any]) -> Reading:
    yield
    return statement()
