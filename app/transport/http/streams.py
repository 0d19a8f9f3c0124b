"""Bodies that are read while they come: in constant memory, for as long as they make progress, and at no less than
a pace, which bounds the whole by its size.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from app.transport.http.routing import BODY_SECONDS, CLOSE, BodyTooSlow

# So much in every `BODY_SECONDS` of waiting, or the end: half of what the slowest mobile networks carry,
# and more than somebody who only wants to keep a connection cares to send.
PROGRESS_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Pace:
    """What a body has to keep on the average, `grace_seconds` of waiting aside."""

    bytes_per_second: int
    grace_seconds: float

    def seconds_for(self, size: int) -> float:
        """How long may be waited for so many bytes and the next one."""
        return self.grace_seconds + size / self.bytes_per_second


async def read_stream(
    request: Request, pace: Pace, *, patience_seconds: float = BODY_SECONDS
) -> AsyncGenerator[bytes]:
    """The body in pieces as they arrive. Only waiting for the client counts, not what is done with a piece.

    Whoever refuses it half-way just answers: what still comes is dropped for a moment, so that the client
    reads the answer and not a reset (see `HttpProtocol`).

    Raises:
        BodyTooSlow: body_too_slow
        ClientDisconnect: it was cut off.
    """
    patience, progress = patience_seconds, 0
    waited, size = 0.0, 0
    stream = request.stream()
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(patience, pace.seconds_for(size) - waited)):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTooSlow(headers=CLOSE) from None
        took = time.monotonic() - began
        patience -= took
        waited += took
        progress += len(piece)
        size += len(piece)
        if progress >= PROGRESS_BYTES:
            patience, progress = patience_seconds, 0
        if piece:
            yield piece
