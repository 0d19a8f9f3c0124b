"""What `make mutants` found: the share of changed rules that tests noticed; fails under 90 %."""

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST_PERCENT = 90
# What mutmut writes for a mutant: the exit code of pytest. 36 and 152 are its timeouts.
_SURVIVED, _NO_TESTS = 0, (5, 33)


def main() -> int:
    totals: Counter[str] = Counter()
    for file in sorted((ROOT / "mutants" / "app").rglob("*.py.meta")):
        codes = json.loads(file.read_text())["exit_code_by_key"]
        kinds = {name: judge(code) for name, code in codes.items()}
        counts = Counter(kinds.values())
        totals += counts
        path = file.relative_to(ROOT / "mutants").with_suffix("")
        print(f"{path}: {counts['killed']} of {counts.total()} noticed")
        for name in sorted(name for name, kind in kinds.items() if kind != "killed"):
            print(f"    {kinds[name]}: {name.rpartition('.')[2]}")
    if not totals:
        print("no mutants: run mutmut first")
        return 1
    percent = 100 * totals["killed"] / totals.total()
    print(f"in all {totals['killed']} of {totals.total()}: {percent:.1f} %")
    return int(percent < LEAST_PERCENT)


def judge(code: int | None) -> str:
    if code is None:
        return "not run"
    if code == _SURVIVED:
        return "survived"
    return "without a test" if code in _NO_TESTS else "killed"


if __name__ == "__main__":
    sys.exit(main())
