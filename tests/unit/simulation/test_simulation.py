"""Whatever gets lost, doubled, delayed, cut or killed: every device applies every update once and in order.

One seed is one run. Even seeds have trouble to their end (safety); odd ones heal, and must come to rest
at the newest number of every scope (liveness). `SIMULATION_SEEDS` is how many are run,
`SIMULATION_SEED` runs just that one.
"""

import os

import pytest

from tests.unit.simulation.world import World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "500"))
SEED = os.environ.get("SIMULATION_SEED")


def simulate(seed: int) -> World:
    """One run; a failure tells how to repeat it, and what happened last."""
    world = World(seed)
    try:
        world.run(heals=seed % 2 == 1)
    except Exception as error:
        story = world.schedule.story()
        raise AssertionError(
            f"SIMULATION_SEED={seed}: {error!r}\n{world.was_rough}\n{story}"
        ) from error
    return world


@pytest.mark.parametrize("heals", [False, True])
def test_every_device_is_whole_whatever_happens(heals: bool) -> None:
    seeds = range(int(heals), SEEDS, 2) if SEED is None else [int(SEED)]
    for seed in seeds:
        if (seed % 2 == 1) == heals:
            simulate(seed)
