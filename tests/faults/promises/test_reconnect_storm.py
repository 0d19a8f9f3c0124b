"""Everybody comes back at once for what they missed, and those who stayed hardly notice."""

from collections.abc import Iterator

import pytest

from benchmarks.storm import Place, measure_storm, run_place, run_swarm, set_scene
from tests.faults.promises.scale import SCALE, scaled
from tests.support import missing

pytestmark = pytest.mark.anyio

SOCKETS = scaled(quick=60, full=2000)
MISSED = scaled(quick=20, full=200)
CALM_SECONDS = scaled(quick=0.5, full=10.0)
REST_SECONDS = scaled(quick=0.0, full=60.0)
# Bars of the full size, on a machine that does nothing else.
RESUMED_SECONDS = 30.0
SEND_P99_MS = 1000.0
MEMORY_GROWTH = 1.1


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    try:
        with run_place(request.param) as opened:
            yield opened
    except missing.Missing as reason:
        missing.skip(request.param, str(reason))


async def test_a_reconnect_storm_is_survived(place: Place) -> None:
    async with run_swarm() as crowd, run_swarm() as others:
        scene = await set_scene(place, crowd, others, sockets=SOCKETS)
        figures = await measure_storm(
            scene, missed=MISSED, calm_seconds=CALM_SECONDS, rest_seconds=REST_SECONDS
        )
    place.server.stop()
    assert place.server.faults() == []
    storm, during = figures["storm"], figures["during"]
    assert storm["resumed"] == SOCKETS
    assert storm["replayed"] == SOCKETS * MISSED
    assert storm["faults"] == {}
    assert storm["statuses"] == {"201": SOCKETS}
    assert during["faults"] == {}
    if SCALE == "full":
        print(
            f"storm on {place.server.name}: {storm | {'hello_at': None}}\nothers: {during['answers']}"
        )
        assert storm["most_seconds"] <= RESUMED_SECONDS
        assert during["answers"]["p99_ms"] <= SEND_P99_MS
        assert figures["after"]["memory"] <= MEMORY_GROWTH * figures["before"]["memory"]
