"""Whatever gets lost, doubled, delayed, cut, killed or restored: every device applies every update once and in order.

One seed is one run. Even seeds have trouble to their end (safety); odd ones heal, and must come to rest
at the newest number of every scope (liveness). `SIMULATION_SEEDS` is how many are run, on all
processors where they are many; `SIMULATION_SEED` runs just that one.
"""

import gc
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.unit.simulation.world import World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "500"))
SEED = os.environ.get("SIMULATION_SEED")
_AT_ONCE = 100


def simulate(seed: int) -> None:
    """One run; a failure tells how to repeat it, and what happened last."""
    world = World(seed)
    try:
        world.run(heals=seed % 2 == 1)
    except Exception as error:
        story = world.schedule.story()
        message = f"SIMULATION_SEED={seed}: {error!r}\n{world.was_rough}\n{story}"
        raise AssertionError(message) from error


def simulate_all(seeds: Sequence[int]) -> int:
    """How many it were. Garbage is collected between runs, not in them."""
    gc.disable()
    try:
        for seed in seeds:
            simulate(seed)
    finally:
        gc.enable()
        gc.collect()
    return len(seeds)


@pytest.mark.parametrize("heals", [False, True])
def test_every_device_is_whole_whatever_happens(heals: bool) -> None:
    seeds = range(int(heals), SEEDS, 2)
    if SEED is not None:
        seeds = [seed for seed in [int(SEED)] if seed % 2 == int(heals)]
    parts = [seeds[start : start + _AT_ONCE] for start in range(0, len(seeds), _AT_ONCE)]
    if len(parts) <= 5:
        count = sum(map(simulate_all, parts))
    else:
        with ProcessPoolExecutor() as pool:
            count = sum(pool.map(simulate_all, parts))
    assert count == len(seeds)


def test_a_seed_is_a_run() -> None:
    stories = []
    for _ in range(2):
        world = World(1)
        world.run(heals=True)
        stories.append(world.schedule.story(1000))
    assert stories[0] == stories[1]
    assert "heal" in stories[0]
