"""A plain socket that notes every update it is told, in order."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.faults.promises.races.callers import Caller
from tests.faults.promises.races.lines import Door
from tests.support.people import API, Json


@dataclass(slots=True, eq=False)
class Listener:
    """`is_cut`: the server closed it, which no test here wants."""

    updates: list[Json] = field(default_factory=list["Json"])
    is_cut: bool = False

    def new_messages(self, chat_id: int) -> dict[int, int]:
        """`seq` -> message id of what was said in the chat."""
        return {
            update["seq"]: update["data"]["id"]
            for update in self.updates
            if update["scope"] == f"chat:{chat_id}" and update["type"] == "new_message"
        }


def _ignore(update: Json) -> None:
    """Only noted."""


@asynccontextmanager
async def listen(
    caller: Caller, door: Door, on_update: Callable[[Json], None] = _ignore
) -> AsyncIterator[Listener]:
    """From the `hello` on."""
    listener = Listener()
    url = f"ws://127.0.0.1:{door.port}{API}/ws/{caller.token}"
    async with connect(url, compression=None, proxy=None, max_size=None) as socket:
        assert json.loads(await socket.recv())["type"] == "hello"
        task = asyncio.create_task(_read(socket, listener, on_update))
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert not listener.is_cut


async def _read(
    socket: ClientConnection, listener: Listener, on_update: Callable[[Json], None]
) -> None:
    try:
        async for raw in socket:
            frame = json.loads(raw)
            if "seq" in frame:
                listener.updates.append(frame)
                on_update(frame)
    except ConnectionClosed:
        listener.is_cut = True
