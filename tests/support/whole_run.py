"""What is judged when all tests are over, in one process or in several: which answers they saw.

A worker of pytest-xdist hands what it saw to the process that started it; that one judges.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import missing
from tests.support.openapi import FAULTS, SEEN, OpenApi

# Only with all of these directories every answer is provoked.
_WHOLE = {"auth", "users", "chats", "messages", "gateway", "inbox", "contract", "security"}


@dataclass
class WholeRun:
    """The pytest plugin. `document` builds the OpenAPI document that every server has served."""

    document: Callable[[], Mapping[str, Any]]
    versions: dict[str, str]
    is_whole: bool = False
    complaints: list[str] = field(default_factory=list[str])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        options = session.config.option
        collected = {item.path.parent.name for item in session.items}
        self.is_whole = collected >= _WHOLE and not (options.keyword or options.markexpr)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Of pytest-xdist: a worker is through."""
        told = getattr(node, "workeroutput", {}).get("whole_run")
        if told is None:
            return
        self.is_whole |= told["is_whole"]
        self.versions |= told["versions"]
        missing.REASONS.update(told["missing"])
        SEEN.update((operation, status) for operation, status in told["seen"])
        FAULTS.update(dict.fromkeys(told["faults"]))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["whole_run"] = {
                "is_whole": self.is_whole,
                "versions": self.versions,
                "missing": missing.REASONS,
                "seen": sorted(SEEN),
                "faults": sorted(FAULTS),
            }
        elif SEEN or FAULTS:
            openapi = OpenApi(self.document())
            # A run that was cut short has not seen everything.
            is_over = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
            self.complaints = list_complaints(openapi, is_whole=self.is_whole and is_over)
            if self.complaints and is_over:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what ran and what could not, and what the answers lacked."""
        if self.versions:
            told = ", ".join(f"{name} {version}" for name, version in self.versions.items())
            terminalreporter.write_line(f"real servers: {told}")
        for what, reason in missing.REASONS.items():
            terminalreporter.write_line(f"NOT RUN: {what}: {reason}", yellow=True)
        for complaint in self.complaints:
            terminalreporter.write_line(f"FAILED answers: {complaint}", red=True)


def list_complaints(openapi: OpenApi, *, is_whole: bool) -> list[str]:
    """Answers that differ from the document; of a whole run also those that nothing provoked."""
    unseen: Iterable[str] = openapi.unseen() if is_whole else ()
    return [*openapi.faults, *(f"{answer} is documented and was never seen" for answer in unseen)]
