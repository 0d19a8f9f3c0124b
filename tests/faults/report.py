"""Writes the figures of a run of schedules into docs/reliability.md, between its markers."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.schedules import Result

BEGIN = "<!-- figures of make faults: begin -->"
END = "<!-- figures of make faults: end -->"


@dataclass(slots=True)
class Run:
    """All schedules of one run, and the planted bugs: bug -> the anomaly that caught it, or None."""

    seconds: float
    versions: Mapping[str, str]
    results: Sequence[Result]
    bugs: Mapping[str, str | None] = field(default_factory=dict[str, str | None])


def count_faults(results: Sequence[Result]) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.faults)
    return total


def write_report(path: Path, run: Run) -> None:
    """Put the figures between the markers; the prose around them stays.

    Raises:
        ValueError: the page has no markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        msg = f"{path} lacks the markers of the figures"
        raise ValueError(msg)
    figures = "\n".join(_lines(run))
    path.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


def _lines(run: Run) -> list[str]:
    results = run.results
    calls: Counter[str] = Counter()
    for result in results:
        calls.update(result.calls)
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    failed = [result.seed for result in results if result.anomalies]
    lines = [
        (
            f"{len(results)} schedules in {run.seconds / 60:.0f} minutes on {os.cpu_count()} cores "
            f"({platform.machine()}, Python {platform.python_version()}, {versions}); "
            f"seeds {results[0].seed} to {results[-1].seed}."
        ),
        "",
        "| what | number |",
        "| --- | --- |",
        f"| sends begun | {sum(result.sends for result in results):,} |",
        *(
            f"| calls: {name.replace(' ', ', ')} | {count:,} |"
            for name, count in sorted(calls.items())
        ),
        *(
            f"| fault: {name} | {count:,} |"
            for name, count in sorted(count_faults(results).items())
        ),
        f"| anomalies | {sum(len(result.anomalies) for result in results)} |",
        "",
        _describe_healing([result.whole_seconds for result in results]),
        "",
        *_describe_endings(results),
    ]
    if failed:
        lines += ["", f"Failed seeds: {', '.join(map(str, failed))}."]
    if run.bugs:
        lines += ["", *_table_of_bugs(run.bugs)]
    return lines


def _describe_healing(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return (
        "After everything was mended, the slowest of the devices was whole after "
        f"{statistics.median(ordered):.1f} s (median of the schedules), "
        f"{ordered[int(len(ordered) * 0.99)]:.1f} s (99th percentile), {ordered[-1]:.1f} s (slowest)."
    )


def _describe_endings(results: Sequence[Result]) -> list[str]:
    """How long revoked sessions lived on."""
    lines: list[str] = []
    endings = [ending for result in results for ending in result.endings]
    for what in sorted({ending.what for ending in endings}):
        for allowed in sorted({ending.allowed_seconds for ending in endings}):
            seconds = sorted(
                it.seconds for it in endings if it.what == what and it.allowed_seconds == allowed
            )
            if seconds:
                lines.append(
                    f"- Revoked {what}s where {allowed:.0f} s is allowed: {len(seconds)}, "
                    f"median {statistics.median(seconds):.2f} s, slowest {seconds[-1]:.2f} s."
                )
    return lines


def _table_of_bugs(bugs: Mapping[str, str | None]) -> list[str]:
    return [
        "| planted bug | caught as |",
        "| --- | --- |",
        *(f"| {name} | {caught or 'NOT CAUGHT'} |" for name, caught in bugs.items()),
    ]
