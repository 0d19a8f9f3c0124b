"""The disk of the files is not mounted: nothing is taken for missing, nothing is kept in its place."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import BACKENDS
from tests.support.audit import run_admin, wait_for_log
from tests.support.lone_servers import lone_server
from tests.support.people import API, Backend, Deployment
from tests.support.rows import change_rows, read_values
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

_DOOMED = "SELECT object_name FROM doomed_objects WHERE is_taken"


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, {}) as made:
        yield made


class Disk:
    """What is mounted at VAR_DIR/files, as far as a path can tell."""

    def __init__(self, deployment: Deployment) -> None:
        self.place = deployment.nodes[0].var_dir / "files"
        self._away = self.place.with_name("away")

    def unmount(self) -> None:
        self.place.rename(self._away)
        self.place.mkdir()

    def mount(self) -> None:
        assert [it for it in self.place.rglob("*") if it.is_file()] == [], "nothing was kept there"
        shutil.rmtree(self.place)
        self._away.rename(self.place)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_disk_that_goes_is_away_and_not_empty(backend: Backend) -> None:
    anna = await backend.sign_up()
    kept, deleted = await anna.upload(b"kept"), await anna.upload(b"deleted")
    disk = Disk(backend.deployment)
    disk.unmount()
    path = kept["url"].removeprefix(API)
    assert refusal(await anna.call("GET", path)) == (503, "storage_unavailable")
    for content in (b"new", b"x" * 1_000_000):
        await anna.upload(content, expect=503, code="storage_unavailable")
    await anna.delete(deleted["url"].removeprefix(API), expect=204)
    await change_rows(backend.deployment, "UPDATE files SET ended_at = 1 WHERE ended_at > 0")

    async def is_tried() -> bool:
        return bool(await read_values(backend.deployment, _DOOMED))

    await eventually(is_tried, timeout_seconds=60, what="a job wants to delete it")
    await wait_for_log(backend.deployment, "object_not_deleted")
    assert await is_tried(), "it is still to be deleted"
    disk.mount()
    assert (await anna.download(kept)).content == b"kept"
    assert (await anna.download(await anna.upload(b"new"))).content == b"new"


async def test_a_start_without_the_files_is_refused_unless_they_are_given_up(
    backend: Backend,
) -> None:
    anna = await backend.sign_up()
    kept = await anna.upload(b"kept")
    [server], disk = backend.deployment.nodes, Disk(backend.deployment)
    server.stop()
    disk.unmount()
    server.launch()
    assert server.wait_for_exit() != 0
    assert "VAR_DIR: the file storage is empty, and this database has files" in server.output()
    checked = await run_admin(backend.deployment, "check")
    assert "the file storage is empty" in checked.stdout
    disk.mount()
    server.start()
    assert (await anna.download(kept)).content == b"kept"
    server.stop()
    disk.unmount()
    adopted = await run_admin(backend.deployment, "storage", "adopt")
    assert (adopted.returncode, adopted.stdout.strip()) == (0, "ok"), adopted.stderr
    server.start()
    await wait_for_log(backend.deployment, "admin_act", act="storage_adopted")
    await anna.get(kept["url"].removeprefix(API), expect=404)
    assert (await anna.download(await anna.upload(b"new"))).content == b"new"
