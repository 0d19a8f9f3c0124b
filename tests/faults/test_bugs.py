"""Planted bugs are caught, each by its checker; three quick ones here, all ten in `make faults`."""

from pathlib import Path

import pytest

from tests.faults.bugs import BUGS, Bug, Patch, PatchMisses, plant
from tests.faults.scenarios import SCENARIOS, catch, play
from tests.support.postgres import Postgres

QUICK = ("ack before commit", "seq by Redis INCR", "no unique client_message_id")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_source_still_has_the_place_for_every_bug(bug: Bug, tmp_path: Path) -> None:
    assert bug.scenario in SCENARIOS
    planted = plant(bug, tmp_path / "code")
    for patch in bug.patches:
        text = (planted / patch.file).read_text()
        compile(text, patch.file, "exec")
        assert patch.new in text


def test_a_bug_that_does_not_fit_the_source_fails(tmp_path: Path) -> None:
    patch = Patch("app/features/updates/log.py", "no such line\n", "")
    with pytest.raises(PatchMisses):
        plant(Bug("x", "retries", "duplicate", (patch,)), tmp_path / "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
async def test_a_planted_bug_is_caught_by_its_checker(
    name: str, postgres: Postgres, redis_url: str
) -> None:
    bug = next(it for it in BUGS if it.name == name)
    found = {anomaly.name for anomaly in await catch(bug, postgres, redis_url)}
    assert bug.caught_by in found


@pytest.mark.slow
async def test_the_server_as_it_is_shows_nothing_on_the_same_stage(
    postgres: Postgres, redis_url: str
) -> None:
    assert await play("commits_lost", postgres, redis_url) == []
