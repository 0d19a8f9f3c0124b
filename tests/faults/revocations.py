"""Ended sessions under faults: a throw-away device is signed in, revoked by another, and watched on every worker.

Its sockets must close with 4401 and its token be refused within a second of the answer; within two
while Redis is away or other workers do not run.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx
from messenger_client import Problem, SessionEnded, Unreachable
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.faults.checkers import Ending
from tests.faults.journal import Journal, Outcome
from tests.faults.world import Device, MemoryRecord, Person, Record

API = "/api/v1"
_WATCHED_SECONDS = 6.0
_POLL_SECONDS = 0.1
_TRIES = 6
_RETRY_SECONDS = 0.3
_OPENING_SECONDS = 2.0
_ENDED = 4401
ALLOWED_SECONDS = 1.0
ALLOWED_WITHOUT_BUS_SECONDS = 2.0
_NO_ANSWER = (OSError, TimeoutError, httpx.HTTPError, ConnectionClosed, InvalidHandshake)

# The seconds that are allowed on this worker, if it ran from one moment to another, else None.
Allowance = Callable[[str, float, float], float | None]


@dataclass(slots=True)
class Watched:
    """What one worker let the ended session do. Times are of the monotonic clock."""

    worker_url: str
    opened: bool = False
    closed_at: float | None = None
    close_code: int | None = None
    last_accepted_at: float | None = None
    refused_at: float | None = None

    @property
    def is_over(self) -> bool:
        return self.refused_at is not None and (not self.opened or self.closed_at is not None)


class Town(Protocol):
    """Where people sign in."""

    people: list[Person]

    async def codes(self, phone: str, /) -> str:
        """The newest sign-in code."""
        ...

    def make_device(self, person: Person, name: str, record: Record, /) -> Device:
        """Not signed in yet."""
        ...


class Revoker:
    """One revocation a schedule. `revoked` counts those that were acknowledged."""

    def __init__(
        self,
        world: Town,
        journal: Journal,
        seed: int,
        *,
        worker_urls: Sequence[str],
        allowance: Allowance,
    ) -> None:
        self._world = world
        self._journal = journal
        self._random = random.Random(f"revocation {seed}")
        self._worker_urls = worker_urls
        self._allowance = allowance
        self._person: Person = self._random.choice(world.people)
        self._token = ""
        self._session_id = 0
        self.revoked = 0
        self.endings: list[Ending] = []

    async def prepare(self) -> None:
        """Sign the throw-away device in."""
        record = MemoryRecord()
        device = self._world.make_device(self._person, f"throw-away {self._person.number}", record)
        await device.sign_in(self._world.codes)
        tokens = await record.load_tokens()
        assert tokens is not None
        self._token = tokens.access_token
        sessions = await device.client.call("GET", "/auth/sessions")
        self._session_id = next(it["id"] for it in sessions["items"] if it["is_current"])
        await device.crash()

    async def run(self, seconds: float) -> None:
        """At some moment of the schedule: revoke, and watch what the session can still do."""
        watched_seconds = min(_WATCHED_SECONDS, seconds / 2)
        await asyncio.sleep(self._random.uniform(0.5, max(0.6, seconds - watched_seconds)))
        watched = [Watched(url) for url in self._worker_urls]
        sockets = [asyncio.create_task(self._hold_socket(it)) for it in watched]
        async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
            await _wait(lambda: all(it.opened for it in watched), _OPENING_SECONDS)
            probes = [asyncio.create_task(self._probe(http, it)) for it in watched]
            revoked_at = await self._revoke()
            if revoked_at is not None:
                await _wait(lambda: all(it.is_over for it in watched), watched_seconds)
                self._measure(watched, revoked_at)
            for task in (*sockets, *probes):
                task.cancel()
            await asyncio.gather(*sockets, *probes, return_exceptions=True)

    async def _revoke(self) -> float | None:
        """When it was known to be done; None: it could not be had in time."""
        device = self._random.choice(self._person.devices)
        call = self._journal.begin(
            device.name, self._person.id, "revoke", session_id=self._session_id
        )
        path = f"/auth/sessions/{self._session_id}"
        for _ in range(_TRIES):
            try:
                await device.client.call("DELETE", path)
            except (Unreachable, SessionEnded, RuntimeError):
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except Problem as problem:
                if problem.status != httpx.codes.NOT_FOUND:
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                # An earlier try, whose answer was lost, has done it.
            revoked_at = time.monotonic()
            await self._journal.end(call, Outcome.OK)
            self.revoked += 1
            return revoked_at
        await self._journal.end(call, Outcome.UNKNOWN)
        return None

    def _measure(self, watched: Sequence[Watched], revoked_at: float) -> None:
        """Of the workers that ran all the time."""
        name = f"user {self._person.id}"
        now = time.monotonic()
        for it in watched:
            allowed = self._allowance(it.worker_url, revoked_at, now)
            if allowed is None:
                continue
            if it.refused_at is not None or it.last_accepted_at is not None:
                accepted_at = it.last_accepted_at or revoked_at
                self.endings.append(
                    Ending(name, "token", max(0.0, accepted_at - revoked_at), allowed)
                )
            if it.opened and (it.close_code in {_ENDED, None}):
                closed_at = now if it.closed_at is None else it.closed_at
                self.endings.append(
                    Ending(name, "socket", max(0.0, closed_at - revoked_at), allowed)
                )

    async def _hold_socket(self, it: Watched) -> None:
        url = it.worker_url.replace("http", "ws", 1) + f"{API}/ws/{self._token}"
        try:
            async with connect(url, compression=None, proxy=None, open_timeout=2) as socket:
                it.opened = True
                async for _ in socket:
                    continue
                it.close_code = socket.close_code
        except _NO_ANSWER:
            it.close_code = 1006
        it.closed_at = time.monotonic()

    async def _probe(self, http: httpx.AsyncClient, it: Watched) -> None:
        """Ask again and again; a request counts by the moment at which it was begun."""
        headers = {"Authorization": f"Bearer {self._token}"}
        while it.refused_at is None:
            begun = time.monotonic()
            try:
                answer = await http.get(f"{it.worker_url}{API}/users/me", headers=headers)
            except _NO_ANSWER:
                pass
            else:
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    it.refused_at = begun
                elif answer.is_success:
                    it.last_accepted_at = begun
            await asyncio.sleep(_POLL_SECONDS)


async def _wait(holds: Callable[[], bool], timeout_seconds: float) -> None:
    """Until it holds, or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if holds():
            return
        await asyncio.sleep(0.02)
