"""What the storage has to say at a start: only what nobody but an operator can mend refuses it."""

from pathlib import Path

import pytest

from app.infra.storage.soundness import list_storage_faults
from tests.support.databases import settings_for
from tests.unit.infra.storage.stores import files_at, run_store


async def test_a_directory_is_made_and_found_sound(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "var")
    assert await list_storage_faults(settings, must_answer=True) == []
    assert (tmp_path / "var" / "files").is_dir()


async def test_a_directory_that_cannot_be_used_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"")
    [fault] = await list_storage_faults(settings_for(tmp_path))
    assert fault.startswith("VAR_DIR: ")


@pytest.mark.parametrize("status", [500, 503, 507, 429])
async def test_a_store_that_fails_or_is_full_is_a_fault_only_where_it_must_answer(
    tmp_path: Path, status: int
) -> None:
    async with run_store(status) as url:
        settings = settings_for(tmp_path, files=files_at(url))
        assert await list_storage_faults(settings) == []
        [fault] = await list_storage_faults(settings, must_answer=True)
    assert fault.startswith("STORAGE_URL: the file storage ")


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (404, "NoSuchBucket"), (401, "")],
)
async def test_a_store_that_refuses_us_is_always_a_fault(
    tmp_path: Path, status: int, code: str
) -> None:
    async with run_store(status, code) as url:
        [fault] = await list_storage_faults(settings_for(tmp_path, files=files_at(url)))
    assert fault.startswith("STORAGE_URL: ")
    assert code in fault
