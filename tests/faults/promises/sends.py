"""Load: people who send without a pause, and a note of what the server said to each send."""

import asyncio
import itertools
from contextlib import AsyncExitStack
from typing import Self

import httpx

from tests.support.people import API, Json, Person, new_id

_FAILED_PAUSE_SECONDS = 0.1


class Sends:
    """`acknowledged`: client id -> message id. `unknown`: no answer, or none that is definite."""

    def __init__(self, sender: Person, chat: Json, *, at_once: int = 8) -> None:
        self._sender = sender
        self._chat = chat
        self._at_once = at_once
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.acknowledged: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.refused: list[str] = []

    async def __aenter__(self) -> Self:
        self._is_over = False
        self._tasks = [asyncio.create_task(self._repeat()) for _ in range(self._at_once)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """What is under way ends; nothing new begins."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _repeat(self) -> None:
        headers = {"Authorization": f"Bearer {self._sender.access_token}"}
        async with httpx.AsyncClient(
            base_url=self._sender.client.base_url, headers=headers, timeout=20, trust_env=False
        ) as client:
            while not self._is_over:
                await self._send(client)

    async def _send(self, client: httpx.AsyncClient) -> None:
        client_id = new_id()
        body = {
            "chat_id": self._chat["id"],
            "text": f"message {next(self._numbers)}",
            "client_message_id": client_id,
        }
        try:
            answer = await client.post(f"{API}/messages/", json=body)
        except httpx.TransportError:
            self.unknown.add(client_id)
            await asyncio.sleep(_FAILED_PAUSE_SECONDS)
            return
        if answer.status_code == httpx.codes.CREATED:
            self.acknowledged[client_id] = answer.json()["id"]
        elif answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            self.unknown.add(client_id)
            await asyncio.sleep(_FAILED_PAUSE_SECONDS)
        else:
            self.refused.append(f"{answer.status_code} {answer.text[:200]}")
