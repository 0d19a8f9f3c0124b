"""A cancelled call never mixes answers: a third are cut after a few milliseconds, and nobody reads another's."""

import asyncio
import json
import re
from collections import Counter

import pytest
from redis.asyncio import Redis

from tests.faults.promises.races.callers import Caller, Callers, expect
from tests.faults.promises.races.lines import NoAnswer, run_all
from tests.faults.promises.scale import scaled
from tests.support.people import new_id
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

USERS = scaled(quick=6, full=200)
CALLS = scaled(quick=200, full=50_000)
AT_ONCE = scaled(quick=16, full=48)
# DATABASE_POOL_SIZE.
POOL = 10
_CUT_SHARE = 0.3
_CUT_SECONDS = 0.05
_MARKER = re.compile(r"marker-\d+-x")
_SOON_SECONDS = 20.0
_FEW = 3


class Marked:
    """An account in whose answers stands its own marker and no other."""

    def __init__(self, callers: Callers, caller: Caller) -> None:
        self._callers = callers
        self.caller = caller
        self.marker = f"marker-{caller.number}-x"
        self.chat_id = 0

    async def settle(self) -> None:
        """Put the marker wherever a call may read it."""
        expect(await self.caller.call("PUT", "/users/me", {"bio": self.marker}))
        body = {"type": "group", "title": self.marker}
        self.chat_id = (await self.caller.post("/chats/", body))["id"]
        expect(await self.caller.call("POST", "/messages/", self._message()))

    async def call(self, outcomes: Counter[str]) -> None:
        """One call of any kind, perhaps cut on the way."""
        rng = self._callers.random
        method, path, body = rng.choice(self._kinds())
        cut_after = rng.uniform(0, _CUT_SECONDS) if rng.random() < _CUT_SHARE else None
        try:
            answer = await self.caller.call(method, path, body, cut_after=cut_after)
        except NoAnswer:
            assert cut_after is not None, f"{method} {path} was never answered"
            outcomes["cut"] += 1
            return
        said = json.dumps(expect(answer))
        assert set(_MARKER.findall(said)) == {self.marker}, (self.marker, method, path, said)
        outcomes["answered"] += 1

    def _kinds(self) -> list[tuple[str, str, object]]:
        return [
            ("GET", "/users/me", None),
            ("GET", "/chats/", None),
            ("GET", f"/chats/{self.chat_id}", None),
            ("GET", f"/messages/chat/{self.chat_id}?limit=5", None),
            ("POST", "/messages/", self._message()),
            ("PUT", "/users/me", {"bio": self.marker}),
            ("PUT", f"/chats/{self.chat_id}", {"title": self.marker}),
        ]

    def _message(self) -> dict[str, object]:
        return {"chat_id": self.chat_id, "text": self.marker, "client_message_id": new_id()}


async def test_nobody_reads_what_another_was_answered(callers: Callers) -> None:
    people = [Marked(callers, caller) for caller in await callers.sign_up(USERS)]
    await run_all([person.settle for person in people], at_once=8)
    outcomes: Counter[str] = Counter()

    async def call() -> None:
        await callers.random.choice(people).call(outcomes)

    await run_all([call] * (CALLS // 2), at_once=AT_ONCE)
    clients = await count_redis_clients(callers)
    await run_all([call] * (CALLS // 2), at_once=AT_ONCE)
    assert outcomes["cut"] > CALLS // 20
    assert outcomes["answered"] > CALLS // 2

    await eventually(
        lambda: is_none_left_open(callers),
        timeout_seconds=_SOON_SECONDS,
        what="no transaction left open",
    )
    assert await count_redis_clients(callers) <= clients + _FEW
    await use_whole_pools(callers, people)


async def is_none_left_open(callers: Callers) -> bool:
    rows = await callers.rows(
        "SELECT query FROM pg_stat_activity "
        "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    return not rows


async def count_redis_clients(callers: Callers) -> int:
    assert callers.cluster.redis is not None
    async with Redis.from_url(callers.cluster.redis.url) as redis:
        info = await redis.info("clients")
    return int(info["connected_clients"])


async def use_whole_pools(callers: Callers, people: list[Marked]) -> None:
    """A connection that was not given back would be missed now."""
    for door in callers.doors:
        writers = (people * POOL)[:POOL]
        calls = [
            person.caller.call("PUT", "/users/me", {"bio": person.marker}, door=door)
            for person in writers
        ]
        for answer in await asyncio.gather(*calls):
            expect(answer)
