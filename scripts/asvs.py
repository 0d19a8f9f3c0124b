"""Writes the table of ASVS 5.0 into docs/security.md, between its marks, from docs/security/asvs.csv."""

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "security" / "asvs.csv"
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- asvs: begin -->", "<!-- asvs: end -->"
STATUSES = ("covered", "open", "not applicable")


class Row(NamedTuple):
    """`ids` share one answer; `places` are files or `file::test`."""

    ids: list[str]
    level: str
    requirement: str
    status: str
    places: list[str]
    reason: str


def read_rows(file: Path = TABLE) -> list[Row]:
    with file.open(newline="") as lines:
        return [
            Row(
                it["id"].split(),
                it["level"],
                it["requirement"],
                it["status"],
                it["place"].split(),
                it["reason"],
            )
            for it in csv.DictReader(lines)
        ]


def render(rows: list[Row]) -> str:
    """Counts, then what is covered or open one by one, then what does not apply in groups."""
    counts = {
        status: sum(len(row.ids) for row in rows if row.status == status) for status in STATUSES
    }
    lines = [
        f"{sum(counts.values())} requirements of level 1 and 2: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + ".",
        "",
        "| ASVS | L | in short | | proof |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.status != "not applicable":
            proof = [render_place(place) for place in row.places]
            proof += [row.reason] if row.reason else []
            cells = [", ".join(row.ids), row.level, row.requirement, row.status, "; ".join(proof)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Not applicable:", "", "| ASVS | what | why not |", "| --- | --- | --- |"]
    lines += [
        f"| {', '.join(row.ids)} | {row.requirement} | {row.reason} |"
        for row in rows
        if row.status == "not applicable"
    ]
    return "\n".join(lines)


def render_place(place: str) -> str:
    file, _, test = place.partition("::")
    if not test:
        return f"`{file}`"
    return f"`{test}` in `{file}`"


def put_into(page: str, table: str) -> str:
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"{PAGE.name} has no place for the table: {BEGIN} ... {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", page)


if __name__ == "__main__":
    PAGE.write_text(put_into(PAGE.read_text(), render(read_rows())))
