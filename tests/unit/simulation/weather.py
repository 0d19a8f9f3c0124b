"""What goes wrong in a run, and how often: chosen by the seed."""

import random
from dataclasses import dataclass


@dataclass
class Weather:
    """Probabilities, and the longest delays in seconds. As made: nothing goes wrong.

    `lost`, `doubled`, `bus_delay`: of a publish to one worker. `unannounced`: a worker dies between
    commit and publish. `read_delay`: of a statement; `read_failure`: of a read. `lag`: until a device takes
    what was sent. `page_rows`: how many rows a read yields at most.
    """

    lost: float = 0.0
    doubled: float = 0.0
    bus_delay: float = 0.005
    unannounced: float = 0.0
    unfilled: float = 0.1
    read_delay: float = 0.005
    read_failure: float = 0.0
    lag: float = 0.01
    failed_apply: float = 0.0
    queue_bytes: int = 65_536
    page_rows: int = 1000
    # How much of each happens beside what people do.
    cuts: float = 0.0
    stalls: float = 0.0
    crashes: float = 0.0
    bus_outages: float = 0.0
    read_outages: float = 0.0
    prunes: float = 0.0
    breaks: float = 0.0
    epochs: float = 0.0
    restores: float = 0.0

    @classmethod
    def rough(cls, rng: random.Random) -> "Weather":
        """Each kind of trouble is there in about half of all runs."""

        def choose(*values: float) -> float:
            return rng.choice((0.0,) * len(values) + values)

        return cls(
            lost=choose(0.05, 0.3, 1.0),
            doubled=choose(0.2),
            bus_delay=rng.choice((0.005, 0.05, 1.0)),
            unannounced=choose(0.05),
            unfilled=rng.choice((0.1, 0.5)),
            read_delay=rng.choice((0.005, 0.05, 0.5)),
            read_failure=choose(0.02, 0.1),
            lag=rng.choice((0.01, 0.1, 1.0)),
            failed_apply=choose(0.02),
            queue_bytes=rng.choice((1_500, 4_000, 65_536)),
            page_rows=rng.choice((2, 5, 1000)),
            cuts=choose(0.5, 2.0),
            stalls=choose(0.5),
            crashes=choose(0.3),
            bus_outages=choose(0.2),
            read_outages=choose(0.2),
            prunes=choose(0.3, 2.0),
            breaks=choose(0.0, 0.2),
            epochs=choose(0.1),
            restores=choose(0.0, 0.0, 0.1),
        )
