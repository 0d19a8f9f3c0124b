"""Every problem that the server can answer, as docs/decisions/0005 has them."""

import importlib
import re
from collections import Counter

import pytest

from app.admin.problem_list import render_problem_list
from app.kernel.problems import Problem
from tests.architecture.source import APP, ROOT


def list_problems() -> list[type[Problem]]:
    for file in sorted(APP.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] not in {"__init__", "__main__", "main"}:
            importlib.import_module(".".join(parts))
    found: list[type[Problem]] = []
    waiting = list(Problem.__subclasses__())
    while waiting:
        problem = waiting.pop()
        found.append(problem)
        waiting += problem.__subclasses__()
    return [problem for problem in found if problem.__module__.startswith("app.")]


@pytest.fixture(scope="module")
def problems() -> list[type[Problem]]:
    return list_problems()


def test_codes_are_unique(problems: list[type[Problem]]) -> None:
    counts = Counter(problem.code for problem in problems if "code" in vars(problem))
    assert {code: count for code, count in counts.items() if count > 1} == {}


def test_codes_are_words_and_each_has_one_title(problems: list[type[Problem]]) -> None:
    for problem in problems:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", problem.code), problem
        assert ("code" in vars(problem)) == ("title" in vars(problem)), problem


def test_slices_declare_their_problems_in_errors_files(problems: list[type[Problem]]) -> None:
    elsewhere = [
        f"{problem.__module__}.{problem.__name__}"
        for problem in problems
        if problem.__module__.startswith("app.features.")
        and not problem.__module__.endswith(".errors")
    ]
    assert elsewhere == []


def test_the_page_of_problems_names_every_code(problems: list[type[Problem]]) -> None:
    page = (ROOT / "docs" / "problems.md").read_text()
    assert page == render_problem_list(), "write it anew: make docs"
    assert [problem.code for problem in problems if f"| `{problem.code}` |" not in page] == []
