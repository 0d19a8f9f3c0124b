"""Sends that survive everything: kept in the store until the server's definite answer, tried with one id."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from messenger_client.api import Api
from messenger_client.backoff import Backoff
from messenger_client.options import Options
from messenger_client.problems import Problem, Unreachable
from messenger_client.store import Outgoing, Store

_TOO_MANY = 429


class Outbox:
    """Sends into one chat go one after the other, so that they arrive in the order of the calls."""

    def __init__(self, api: Api, store: Store, options: Options) -> None:
        self._api = api
        self._store = store
        self._options = options
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._loading = asyncio.Lock()
        self._is_loaded = False
        self._under_way: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def send(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Deliver one message, however long it takes; answers the Message.

        The send goes on when the caller is cancelled, and after a restart by `resend`.

        Raises:
            Problem: the server refused it.
            SessionEnded: it stays in the store.
        """
        client_message_id = str(body.get("client_message_id") or uuid.uuid4())
        send = Outgoing(client_message_id, {**body, "client_message_id": client_message_id})
        async with self._loading:
            if not self._is_loaded:
                # What an earlier run left behind goes first.
                await self._start_all()
            await self._store.put_outgoing(send)
        return await asyncio.shield(self._start(send))

    async def resend(self) -> None:
        """Go on with what an earlier run left behind."""
        async with self._loading:
            await self._start_all()

    async def _start_all(self) -> None:
        for send in await self._store.list_outgoing():
            self._start(send)
        self._is_loaded = True

    async def close(self) -> None:
        """Stop trying; what has no answer stays in the store."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, send: Outgoing) -> "asyncio.Task[dict[str, Any]]":
        task = self._under_way.get(send.client_message_id)
        if task is None or task.done():
            turn = self._turns.setdefault(send.body["chat_id"], asyncio.Lock())
            task = asyncio.create_task(self._deliver(send, turn))
            self._under_way[send.client_message_id] = task
            task.add_done_callback(lambda done: self._end(send.client_message_id, done))
        return task

    def _end(self, client_message_id: str, task: "asyncio.Task[dict[str, Any]]") -> None:
        if self._under_way.get(client_message_id) is task:
            del self._under_way[client_message_id]
        if not task.cancelled():
            task.exception()  # the caller may have gone

    async def _deliver(self, send: Outgoing, turn: asyncio.Lock) -> dict[str, Any]:
        async with turn:
            backoff = Backoff(self._options.backoff_first, self._options.backoff_most)
            while True:
                pause = await self._try(send, backoff)
                if isinstance(pause, dict):
                    return pause
                await asyncio.sleep(pause)

    async def _try(self, send: Outgoing, backoff: Backoff) -> dict[str, Any] | float:
        """The Message, or the seconds to wait before the next try."""
        try:
            message: dict[str, Any] = await self._api.call("POST", "/messages/", send.body)
        except Unreachable as error:
            return backoff.next(at_least=error.retry_after or 0.0)
        except Problem as problem:
            if problem.status == _TOO_MANY:
                return backoff.next(at_least=problem.retry_after or 1.0)
            await self._store.remove_outgoing(send.client_message_id)
            raise
        await self._store.remove_outgoing(send.client_message_id)
        return message
