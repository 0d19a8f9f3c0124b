"""What the scanner has to say at a start: nothing refuses it, and `check` wants an answer."""

from pathlib import Path

from structlog.testing import capture_logs

from app.infra.scanner.soundness import list_scanner_faults
from app.settings import FileSettings
from tests.support.clamd import ClamdServer


async def test_one_that_does_not_answer_is_a_fault_only_where_it_must(directory: Path) -> None:
    server = ClamdServer(directory / "clamd.ctl")
    files = FileSettings.model_validate({"CLAMD_ADDRESS": server.address})
    with capture_logs() as lines:
        assert await list_scanner_faults(files) == []
    assert [line["event"] for line in lines] == ["scanner_failed", "scanner_silent"]
    [fault] = await list_scanner_faults(files, must_answer=True)
    assert fault == "CLAMD_ADDRESS: clamd does not answer"
    with server:
        assert await list_scanner_faults(files, must_answer=True) == []


async def test_without_one_nobody_is_asked() -> None:
    assert await list_scanner_faults(FileSettings.model_validate({}), must_answer=True) == []
