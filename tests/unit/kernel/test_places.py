"""Places: of each account so many, of all so many; whoever waits gets the one that comes free."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.kernel.ids import UserId
from app.kernel.places import Places
from app.kernel.problems import RateLimited, Unavailable

pytestmark = pytest.mark.anyio

ANNA, BRUNO, CLARA = UserId(1), UserId(2), UserId(3)


def places(*, per_owner: int = 2, in_all: int = 3, patience_seconds: float = 60.0) -> Places:
    return Places(
        per_owner=per_owner,
        in_all=in_all,
        refuse_owner=RateLimited,
        refuse_all=Unavailable,
        patience_seconds=patience_seconds,
    )


@pytest.fixture
async def held(anyio_backend: str) -> AsyncIterator[AsyncExitStack]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield stack


async def test_an_account_has_so_many_and_all_have_so_many(held: AsyncExitStack) -> None:
    some = places(patience_seconds=0.01)
    for owner_id in (ANNA, ANNA):
        await held.enter_async_context(some.take(owner_id))
    with pytest.raises(RateLimited):
        await held.enter_async_context(some.take(ANNA))
    await held.enter_async_context(some.take(BRUNO))
    with pytest.raises(Unavailable):
        await held.enter_async_context(some.take(CLARA))
    # A refusal has taken nothing.
    await held.aclose()
    for owner_id in (ANNA, ANNA, CLARA):
        await held.enter_async_context(some.take(owner_id))


async def test_who_waits_gets_the_place_that_comes_free(held: AsyncExitStack) -> None:
    some = places(per_owner=1)
    await held.enter_async_context(some.take(ANNA))

    async def wait() -> bool:
        async with some.take(ANNA):
            return True

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    await held.aclose()
    assert await waiting
