"""Five real schedules: workers, PostgreSQL and Redis hurt under load, and the log as the judge.

Seeds and lengths are chosen so that together every kind of fault is planned.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.cluster import run_cluster
from tests.faults.nemesis import Fault, count_planned
from tests.faults.schedules import Schedules
from tests.support import missing

SEEDS = (7, 103, 177, 247, 277)
SECONDS = 8.0
SENDS_PER_SECOND = 25
CROWD = 40


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="messenger-schedules-") as path:
        yield Path(path)


def test_together_the_schedules_hold_every_kind_of_fault() -> None:
    assert set(count_planned(SEEDS, SECONDS)) == set(Fault)


@pytest.mark.slow
async def test_no_update_is_lost_doubled_or_out_of_order_whatever_fails(directory: Path) -> None:
    try:
        async with (
            run_cluster(directory / "cluster") as cluster,
            Schedules.open(cluster, directory, crowd=CROWD) as schedules,
        ):
            for seed in SEEDS:
                result = await schedules.run(seed, seconds=SECONDS, rate=SENDS_PER_SECOND)
                found = [str(anomaly) for anomaly in result.anomalies]
                assert not found, f"seed {seed}, {dict(result.faults)}: {found[:10]}"
            assert await schedules.judge_everything() == []
    except missing.Missing as reason:
        missing.skip("real servers", str(reason))
