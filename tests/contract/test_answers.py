"""The judge of answers can fail, and fails the whole run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.openapi import OpenApi
from tests.support.servers import ROOT
from tests.support.whole_run import list_complaints

OK = {"200": {"content": {"application/json": {"schema": {"type": "integer"}}}}}
DOCUMENT = {
    "paths": {
        "/things": {"get": {"responses": {**OK, "503": {}}}},
        "/things/{id}": {"put": {"responses": {**OK, "404": {}, "503": {}}}},
    }
}


def judged(*answers: tuple[str, str, int, object]) -> OpenApi:
    openapi = OpenApi(DOCUMENT, seen=set(), faults={})
    for method, path, status, body in answers:
        openapi.judge(method, path, status, "application/json", body)
    return openapi


def test_a_good_run_leaves_nothing_to_say() -> None:
    openapi = judged(
        ("GET", "/things", 200, 1),
        ("PUT", "/things/7", 200, 1),
        ("PUT", "/things/7", 404, None),
        ("PUT", "/things/7", 503, None),
    )
    assert list_complaints(openapi, is_whole=True) == []


def test_an_answer_that_is_not_documented_is_named() -> None:
    openapi = judged(("GET", "/things", 404, {"code": "gone"}), ("GET", "/things", 200, "one"))
    assert list_complaints(openapi, is_whole=False) == [
        "GET /things answered 404 gone, which is not documented",
        'GET /things 200: the body: "one" is not of type "integer"',
    ]


def test_what_nothing_provoked_is_named_after_a_whole_run_alone() -> None:
    openapi = judged(("GET", "/things", 200, 1), ("GET", "/things", 503, None))
    assert list_complaints(openapi, is_whole=False) == []
    assert list_complaints(openapi, is_whole=True) == [
        "PUT /things/{id} -> 200 is documented and was never seen",
        "PUT /things/{id} -> 404 is documented and was never seen",
    ]


SPOILT = """
from tests.support.openapi import FAULTS
from tests.support.whole_run import WholeRun

def pytest_configure(config):
    config.pluginmanager.register(WholeRun(lambda: {"paths": {}}, {}))

def pytest_runtest_teardown():
    FAULTS["GET /things answered 500"] = None
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_fault_that_any_process_saw_fails_the_run(tmp_path: Path, processes: str) -> None:
    (tmp_path / "conftest.py").write_text(SPOILT)
    (tmp_path / "test_good.py").write_text("def test_good(): pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", processes, "."]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
    assert "FAILED answers: GET /things answered 500" in ran.stdout
