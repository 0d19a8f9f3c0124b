"""`python -m tests.faults` (make faults): seeded schedules of faults under load, and the planted bugs.

With `--url` the client-side faults run against a deployment of yours instead, judged through its API.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.bugs import BUGS
from tests.faults.cluster import run_cluster
from tests.faults.elsewhere import run_elsewhere
from tests.faults.report import Run, count_faults, write_report
from tests.faults.scenarios import catch
from tests.faults.schedules import Result, Schedules

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "var" / "faults"
REPORT = ROOT / "docs" / "reliability.md"
FULL = 200
# What a full run must hold, by the name of the fault.
LEAST: Mapping[str, int] = {
    "worker killed": 300,
    "redis restarted": 20,
    "redis paused": 20,
    "postgres paused": 20,
    "postgres killed": 20,
    "session revoked": 100,
}
_SHOWN_ANOMALIES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if anything was found, or if too few faults were done to find it."""
    options = _parse(arguments)
    if options.url:
        return asyncio.run(run_elsewhere(options))
    return asyncio.run(_run(options))


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
    shutil.rmtree(OUTPUT / "world", ignore_errors=True)
    results, versions = await _run_schedules(options, seeds, started)
    caught: dict[str, str | None] = {}
    if not options.no_bugs and options.seed is None:
        for bug in BUGS:
            caught[bug.name] = await catch(bug, OUTPUT / "bugs")
            print(f"planted: {bug.name}: {caught[bug.name] or 'NOT CAUGHT'}", flush=True)
    run = Run(time.monotonic() - started, versions, results, caught)
    is_full = len(results) >= FULL
    if is_full and not options.no_report:
        write_report(REPORT, run)
    return _conclude(run, is_full=is_full)


def _list_seeds(options: argparse.Namespace) -> list[int]:
    return list(range(options.first_seed, options.first_seed + options.schedules))


async def _run_schedules(
    options: argparse.Namespace, seeds: Sequence[int], started: float
) -> tuple[list[Result], Mapping[str, str]]:
    results: list[Result] = []
    async with (
        run_cluster(OUTPUT / "cluster") as cluster,
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
    state = "ok" if not result.anomalies else f"{len(result.anomalies)} ANOMALIES"
    print(
        f"seed {result.seed}: {faults}; {result.sends} sends, whole after "
        f"{result.whole_seconds:.1f} s, {result.seconds:.1f} s in all: {state}",
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
    missing = {name: least for name, least in LEAST.items() if is_full and totals[name] < least}
    uncaught = [name for name, anomaly in run.bugs.items() if anomaly is None]
    if failed:
        print(f"failed seeds: {failed}; journals and logs are in {OUTPUT}")
    if missing:
        print(f"too few faults to prove anything: {missing} were wanted")
    if uncaught:
        print(f"planted bugs that nobody caught: {uncaught}")
    print(f"{len(run.results)} schedules in {run.seconds / 60:.1f} minutes")
    return 1 if failed or missing or uncaught else 0


if __name__ == "__main__":
    sys.exit(main())
