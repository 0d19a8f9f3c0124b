"""Pieces on their way from the task that receives them to the one that sends them on, a few at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

_MOST_WAITING: Final = 1


class GivenUp(Exception):  # noqa: N818 - not an error of anybody
    """What the sending task meets when there will be no more: it must undo what it has begun."""


class Handover:
    """One side asks for room, then puts; the other iterates over `pieces`."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_MOST_WAITING)
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_given_up = False

    async def wait_for_room(self) -> None:
        await self._room.acquire()

    def put(self, piece: bytes) -> None:
        self._waiting.put_nowait(piece)

    def end(self) -> None:
        self._waiting.put_nowait(None)

    def give_up(self) -> None:
        """Raise at once in the sending task, what still waits is dropped."""
        self._is_given_up = True
        self._waiting.put_nowait(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of them in their order.

        Raises:
            GivenUp
        """
        while True:
            piece = await self._waiting.get()
            if self._is_given_up:
                raise GivenUp
            if piece is None:
                return
            self._room.release()
            yield piece
