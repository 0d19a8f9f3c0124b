"""`python -m tests.faults` (make faults): seeded schedules of faults under load, and the planted bugs.

With `--url` the client-side faults run against a deployment of yours instead, judged through its API.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from tests.faults.bugs import BUGS
from tests.faults.cluster import run_cluster
from tests.faults.elsewhere import run_elsewhere
from tests.faults.nemesis import Fault
from tests.faults.report import Run, count_faults, write_report
from tests.faults.scenarios import SCENARIOS, catch, play
from tests.faults.schedules import REVOKED, Result, Schedules
from tests.support.postgres import run_postgres
from tests.support.redis_server import run_redis

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "var" / "faults"
REPORT = ROOT / "docs" / "reliability.md"
FULL = 200
SECONDS = 9.5
# What a full run must hold, by the name of the fault. All of the first are `kill -9`.
KILLS = (Fault.WORKER_KILL, Fault.BETRAYED_PUBLISH)
LEAST_KILLS = 300
LEAST: Mapping[str, int] = {
    Fault.REDIS_RESTART: 20,
    Fault.REDIS_PAUSE: 20,
    Fault.REDIS_CUT: 20,
    Fault.PUBLISHES_LOST: 20,
    Fault.PUBLISHES_DOUBLED: 20,
    Fault.POSTGRES_PAUSE: 20,
    Fault.POSTGRES_KILL: 20,
    Fault.COMMIT_ANSWER_LOST: 20,
    Fault.COMMIT_CUT: 20,
    Fault.COMMITS_HELD: 20,
    Fault.LONG_TRANSACTION: 20,
    REVOKED: 100,
}
_SHOWN_ANOMALIES = 5
_WHOLE_MACHINE = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if anything was found, or if too few faults were done to find it."""
    options = _parse(arguments)
    work = run_elsewhere(options, OUTPUT) if options.url else _run(options)
    # Proxies and clients share this process with nobody: a faster loop leaves more to the servers.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, help="run this schedule alone, as it was")
    add("--schedules", type=int, default=FULL, help=f"how many (default {FULL})")
    add("--first-seed", type=int, default=1, help="the seed of the first (default 1)")
    add("--minutes", type=float, help="begin no schedule after so many minutes")
    add(
        "--seconds", type=float, default=10.5, help="load and faults of one schedule (default 10.5)"
    )
    add("--no-bugs", action="store_true", help="leave the planted bugs out")
    add("--no-report", action="store_true", help="do not write docs/reliability.md")
    add("--url", help="a running deployment, for the faults on the way to it")
    add("--code-command", help="with --url: prints the newest sign-in code of the phone {phone}")
    return parser.parse_args(arguments)


async def _run(options: argparse.Namespace) -> int:
    seeds = [options.seed] if options.seed is not None else _list_seeds(options)
    started = time.monotonic()
    results, versions = await _run_schedules(options, seeds, started)
    caught: dict[str, str | None] = {}
    if not options.no_bugs and options.seed is None:
        caught = await _plant_bugs()
    run = Run(time.monotonic() - started, versions, results, caught)
    is_full = len(results) >= FULL
    if is_full and not options.no_report:
        write_report(REPORT, run)
    return _conclude(run, is_full=is_full)


async def _plant_bugs() -> dict[str, str | None]:
    """Bug -> the anomaly as which it was caught; the scenarios find nothing in the server as it is."""
    caught: dict[str, str | None] = {}
    with run_postgres() as cluster, run_redis() as redis_url:
        for name in SCENARIOS:
            found = {anomaly.name for anomaly in await play(name, cluster, redis_url)}
            if found:
                caught[f"none, in {name}"] = None
                print(f"scenario {name}: {sorted(found)} in the server as it is", flush=True)
        for bug in BUGS:
            found = {anomaly.name for anomaly in await catch(bug, cluster, redis_url)}
            caught[bug.name] = bug.caught_by if bug.caught_by in found else None
            print(f"planted: {bug.name}: {caught[bug.name] or 'NOT CAUGHT'}", flush=True)
    return caught


def _list_seeds(options: argparse.Namespace) -> list[int]:
    return list(range(options.first_seed, options.first_seed + options.schedules))


async def _run_schedules(
    options: argparse.Namespace, seeds: Sequence[int], started: float
) -> tuple[list[Result], Mapping[str, str]]:
    results: list[Result] = []
    async with (
        run_cluster(OUTPUT / "cluster", forked=False) as cluster,
        Schedules.open(cluster, OUTPUT) as schedules,
    ):
        print(f"set up in {time.monotonic() - started:.0f} s", flush=True)
        for seed in seeds:
            if options.minutes and time.monotonic() - started > options.minutes * 60:
                break
            result = await schedules.run(seed, seconds=options.seconds)
            results.append(result)
            _show(result)
        final = await schedules.judge_everything()
        if final:
            results[-1].anomalies += final
            _show(results[-1])
        return results, cluster.versions


def _show(result: Result) -> None:
    faults = ", ".join(f"{name} {count}" for name, count in sorted(result.faults.items()))
    share = f" with {result.share:.0%} of the machine" if result.share < _WHOLE_MACHINE else ""
    state = "ok" if not result.anomalies else f"{len(result.anomalies)} ANOMALIES"
    print(
        f"seed {result.seed}: {faults}; {result.sends} sends, whole after "
        f"{result.whole_seconds:.1f} s, {result.seconds:.1f} s in all{share}: {state}",
        flush=True,
    )
    kinds = Counter(anomaly.name for anomaly in result.anomalies)
    if kinds:
        print(f"  {dict(kinds)}")
    for anomaly in result.anomalies[:_SHOWN_ANOMALIES]:
        print(f"  {anomaly}")
    if result.anomalies:
        print(f'  again with: make faults args="--seed {result.seed}"', flush=True)


def _conclude(run: Run, *, is_full: bool) -> int:
    totals = count_faults(run.results)
    print("totals: " + ", ".join(f"{name} {count}" for name, count in sorted(totals.items())))
    failed = [result.seed for result in run.results if result.anomalies]
    missing = _list_missing(totals) if is_full else {}
    uncaught = [name for name, anomaly in run.bugs.items() if anomaly is None]
    if failed:
        print(f"failed seeds: {failed}; journals and logs are in {OUTPUT}")
    if missing:
        print(f"too few faults to prove anything: {missing} were wanted")
    if uncaught:
        print(f"planted bugs that nobody caught: {uncaught}")
    print(f"{len(run.results)} schedules in {run.seconds / 60:.1f} minutes")
    return 1 if failed or missing or uncaught else 0


def _list_missing(totals: Mapping[str, int]) -> dict[str, int]:
    missing = {name: least for name, least in LEAST.items() if totals.get(name, 0) < least}
    if sum(totals.get(kill, 0) for kill in KILLS) < LEAST_KILLS:
        missing[" and ".join(KILLS)] = LEAST_KILLS
    return missing


if __name__ == "__main__":
    sys.exit(main())
