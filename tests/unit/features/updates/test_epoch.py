"""The epoch: one for all workers, kept over restarts, and new when it is asked for."""

import asyncio

import pytest

from app.features.updates.epoch import ensure_epoch, load_epoch, renew_epoch
from app.infra.database.database import Database

pytestmark = pytest.mark.anyio


async def test_workers_that_start_together_agree_and_later_ones_find_it(db: Database) -> None:
    epochs = set(await asyncio.gather(*(ensure_epoch(db) for _ in range(6))))
    assert len(epochs) == 1
    assert {await ensure_epoch(db), await db.read(load_epoch)} == epochs


async def test_a_new_epoch_is_kept_also_before_the_first_start(db: Database) -> None:
    first = await db.write(renew_epoch)
    assert await ensure_epoch(db) == first
    second = await db.write(renew_epoch)
    assert second != first
    assert await db.read(load_epoch) == second
