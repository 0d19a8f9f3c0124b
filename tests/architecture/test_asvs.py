"""The table of ASVS 5.0 in docs/security.md: whole, equal to its CSV, and of tests that exist."""

import re

from scripts.asvs import PAGE, STATUSES, put_into, read_rows, render
from tests.architecture.source import ROOT

ROWS = read_rows()
# Level 1 has 70 requirements and level 2 adds 183.
_REQUIREMENTS = 253


def test_every_requirement_of_level_one_and_two_has_one_answer() -> None:
    ids = [one for row in ROWS for one in row.ids]
    assert len(ids) == len(set(ids)) == _REQUIREMENTS
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", one) for one in ids)


def test_every_answer_names_its_proof_or_its_reason() -> None:
    for row in ROWS:
        assert row.status in STATUSES, row
        assert row.places or row.status != "covered", row
        assert row.reason or row.status == "covered", row


def test_what_is_named_exists() -> None:
    missing: list[str] = []
    for place in sorted({place for row in ROWS for place in row.places}):
        file, _, test = place.partition("::")
        path = ROOT / file
        if not path.exists() or (test and f"def {test}(" not in path.read_text()):
            missing.append(place)
    assert missing == []


def test_the_page_holds_the_table() -> None:
    page = PAGE.read_text()
    assert page == put_into(page, render(ROWS)), "write it anew: make docs"
