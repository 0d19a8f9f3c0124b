"""The body of a request, cut into parts. What breaks it ends the part at hand like its end would, so that what
had come by then can be kept.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from starlette.requests import ClientDisconnect

from app.features.files.resumable.errors import UploadOverrun, UploadStalled
from app.kernel.problems import Problem
from app.transport.http.routing import CLOSE, BodyTooSlow

# On a slow line a part is smaller: more than these seconds of sending are never lost to a kill.
PART_SECONDS: Final = 15.0


class Incoming:
    """`most`: how many bytes it may have. `may_go_on` is asked at each piece: False ends the body there, a
    `Problem` breaks it.

    `broken` is what ended it before its end, if anything did; `is_cut` says that we did.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        most: int,
        may_go_on: Callable[[], bool],
        part_seconds: float = PART_SECONDS,
    ) -> None:
        self.broken: Exception | None = None
        self.is_cut = False
        self._pieces = pieces
        self._left = most
        self._may_go_on = may_go_on
        self._part_seconds = part_seconds
        self._waiting = b""
        self._is_over = False

    async def has_more(self) -> bool:
        """Whether anything is there for a further part; waits for it.

        Raises:
            UploadOverrun: upload_overrun
        """
        while not self._waiting and not self._is_over:
            await self._fetch()
        return bool(self._waiting)

    async def part(self, size: int) -> AsyncGenerator[bytes]:
        """The next bytes, at most `size` of them.

        Raises:
            UploadOverrun: upload_overrun; nothing of this part is to be kept.
        """
        began = time.monotonic()
        left = size
        while left > 0 and await self.has_more():
            piece, self._waiting = self._waiting[:left], self._waiting[left:]
            left -= len(piece)
            if self._left == 0 and not self._waiting:
                # Whether the last part is the last one is known at the end of the body only.
                await self.has_more()
            yield piece
            if time.monotonic() - began > self._part_seconds:
                return

    async def _fetch(self) -> None:
        try:
            piece = await anext(self._pieces)
            self.is_cut = not self._may_go_on()
        except StopAsyncIteration:
            self._is_over = True
            return
        except BodyTooSlow:
            self._break(UploadStalled(headers=CLOSE))
            return
        except (ClientDisconnect, Problem) as broken:
            self._break(broken)
            return
        if len(piece) > self._left:
            raise UploadOverrun(headers=CLOSE)
        self._left -= len(piece)
        self._waiting = piece
        self._is_over = self.is_cut

    def _break(self, broken: Exception) -> None:
        self._is_over = True
        self.broken = broken
