"""People who call any worker they like, and the rows by which they are judged."""

import asyncio
import itertools
import json
import random
import sqlite3
from contextlib import closing
from typing import Any

import asyncpg

from tests.faults.cluster import Cluster
from tests.faults.promises.races.lines import Answer, Door, run_all
from tests.support.people import API, Json

_AT_ONCE = 8
_numbers = itertools.count(1)


class Caller:
    """A signed-in account; a call goes to a random worker unless one is named."""

    def __init__(self, callers: "Callers", number: int, tokens: Json) -> None:
        self._callers = callers
        self.number = number
        self.id: int = tokens["user"]["id"]
        self.token: str = tokens["access_token"]

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        door: Door | None = None,
        cut_after: float | None = None,
    ) -> Answer:
        """Whatever is answered.

        Raises:
            NoAnswer
        """
        door = door or self._callers.any_door()
        return await door.ask(method, API + path, body, token=self.token, cut_after=cut_after)

    async def get(self, path: str, *, door: Door | None = None) -> Json:
        """What must be answered with success."""
        return expect(await self.call("GET", path, door=door))

    async def post(self, path: str, body: object = None, *, door: Door | None = None) -> Json:
        return expect(await self.call("POST", path, body, door=door))

    async def group(self, *members: "Caller", **options: object) -> int:
        """The id of a new group of mine."""
        ids = [member.id for member in members]
        body = {"type": "group", "title": "Together", "member_ids": ids, **options}
        return (await self.post("/chats/", body))["id"]

    async def private(self, other: "Caller") -> int:
        return (await self.post("/chats/", {"type": "private", "user_id": other.id}))["id"]


class Callers:
    """Signs people up; `doors` are the workers' own, in their order."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.random = random.Random(42)
        self.doors = [Door(worker.address[1]) for worker in cluster.workers]

    def any_door(self) -> Door:
        return self.random.choice(self.doors)

    def two_doors(self) -> tuple[Door, Door]:
        """Of two different workers, where there are as many."""
        first = self.random.randrange(len(self.doors))
        return self.doors[first], self.doors[(first + 1) % len(self.doors)]

    async def sign_up(self, count: int) -> list[Caller]:
        made: list[Caller] = []

        async def sign_up_one() -> None:
            made.append(await self._sign_up(next(_numbers)))

        await run_all([sign_up_one] * count, at_once=_AT_ONCE)
        return made

    async def restart_workers(self, count: int) -> None:
        """Kill so many of them at once, and start them again."""
        killed = self.cluster.workers[:count]
        for worker in killed:
            worker.kill()
        self.close()
        await asyncio.gather(*(worker.start() for worker in killed))

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database holds; values stand for `$1`, `$2` ..."""
        file = self.cluster.sqlite_file
        if file is not None:
            named = {str(place): value for place, value in enumerate(values, 1)}
            with closing(sqlite3.connect(file, timeout=10)) as database:
                return database.execute(statement, named).fetchall()
        connection = await asyncpg.connect(self.cluster.postgres_url, timeout=10)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    @staticmethod
    def parse(stored: object) -> Json:
        """A column of JSON, which one of the databases hands out as text."""
        return json.loads(stored) if isinstance(stored, str | bytes) else stored

    def close(self) -> None:
        for door in self.doors:
            door.close()

    async def _sign_up(self, number: int) -> Caller:
        door = self.any_door()
        phone = f"+49160{number:07d}"
        sent = expect(await door.ask("POST", f"{API}/auth/send-verification", {"phone": phone}))
        body = {
            "verification_id": sent["verification_id"],
            "code": self.cluster.codes(sent["phone"])[-1],
            "first_name": f"Person {number}",
        }
        return Caller(self, number, expect(await door.ask("POST", f"{API}/auth/verify-code", body)))


def expect(answer: Answer, status: int | None = None) -> Json:
    """The body of a success, or of what was expected."""
    fits = answer.is_success if status is None else answer.status == status
    assert fits, f"{answer.status} {answer.body}, expected {status or 'success'}"
    return answer.body
