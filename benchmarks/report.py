"""Writes the figures of a benchmark run as the page docs/benchmarks.md."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Figures = dict[str, dict[str, Any]]

# The floor and two other servers on a machine like ours: where our own floor is far below, the
# machine was slower or busy, and only the ratios say anything.
_REFERENCE_FLOOR = {"pairs": 3342.0, "group": 44_691.0, "history": 1560.0}
_ROWS = (
    ("pairs", "acknowledged_per_second", "messages/s, 20 pairs, acknowledged and delivered"),
    ("group", "deliveries_per_second", "deliveries/s into a 500-member group"),
    ("history", "requests_per_second", "requests/s, newest 50 of a 10,000-message chat"),
    ("chat_list", "requests_per_second", "requests/s, chat list of a user in 500 chats"),
    ("idle", "kib_per_connection", "KiB of memory an idle connection (1,000 open)"),
)
_OTHERS = "\n## Finding people among a million\n"
_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL + Redis"}


def write_report(path: Path, figures: Mapping[str, Figures]) -> None:
    """One table a database, the floor and the ratio beside each figure."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: the real server as a process on default settings (rate limits raised), driven",
        "over HTTP and WebSocket by another process on the same machine, bodies of 100 bytes. The floor is",
        "`benchmarks/floor.py`: a bare ASGI WebSocket app on the same server with one INSERT a message, no",
        "checks, no encryption, no numbering. Ratios are ours to the floor's in the same run; single figures",
        "depend on the machine.",
        "",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
    ]
    for name, measured in figures.items():
        lines += ["", f"## {_DATABASES[name]}", "", *_table(measured)]
    # What other benchmarks wrote into the page stays.
    _, mark, others = path.read_text(encoding="utf-8").partition(_OTHERS)
    path.write_text("\n".join(lines) + "\n" + mark + others, encoding="utf-8")


def _table(measured: Figures) -> list[str]:
    lines = [
        "| work | ours | p50 / p99 ms | floor | p50 / p99 ms | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    notes: list[str] = []
    for row, key, label in _ROWS:
        ours, floor = measured["server"].get(row), measured["floor"].get(row)
        if ours is None:
            continue
        ratio = f"{ours[key] / floor[key]:.2f}" if floor else "-"
        lines.append(
            f"| {label} | {ours[key]:,.0f} | {_latency(ours)} | {_figure(floor, key)} | {_latency(floor)} | {ratio} |"
        )
        expected = _REFERENCE_FLOOR.get(row)
        if floor and expected and floor[key] < 0.7 * expected:
            notes.append(
                f"The floor of this run reached {floor[key]:,.0f} in the row '{label}', below 0.7 of the "
                f"{expected:,.0f} measured elsewhere on two cores."
            )
    return [*lines, "", *notes] if notes else lines


def _figure(row: Mapping[str, float] | None, key: str) -> str:
    return f"{row[key]:,.0f}" if row else "-"


def _latency(row: Mapping[str, float] | None) -> str:
    return f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}" if row and "p50_ms" in row else "-"
