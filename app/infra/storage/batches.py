"""Pieces of any size, gathered to what is worth a step of its own."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence


async def gather_batches(chunks: AsyncIterable[bytes], size: int) -> AsyncGenerator[list[bytes]]:
    """Lists of pieces of at least `size` bytes together, but the last."""
    batch: list[bytes] = []
    waiting = 0
    async for chunk in chunks:
        batch.append(chunk)
        waiting += len(chunk)
        if waiting >= size:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


async def take(batches: AsyncIterator[list[bytes]], size: int) -> list[bytes]:
    """The next pieces, `size` bytes or more; fewer: there are no others."""
    taken: list[bytes] = []
    missing = size
    while missing > 0:
        batch = await anext(batches, None)
        if batch is None:
            break
        taken += batch
        missing -= count_bytes(batch)
    return taken


def count_bytes(pieces: Sequence[bytes]) -> int:
    return sum(map(len, pieces))
