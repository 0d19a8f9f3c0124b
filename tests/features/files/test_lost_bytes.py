"""Bytes that the storage has lost or damaged: whoever sends them again has them again."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment
from tests.support.photos import make_photo
from tests.support.rows import read_values
from tests.support.uploads import list_objects

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, {}) as made:
        yield made


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [(damage, 503, "file_unreadable"), (Path.unlink, 404, "file_not_found")],
    ids=["damaged", "missing"],
)
async def test_what_is_sent_again_is_stored_anew(
    backend: Backend, spoil: Callable[[Path], None], status: int, code: str
) -> None:
    anna = await backend.sign_up()
    content, var_dir = os.urandom(300_000), backend.deployment.nodes[0].var_dir
    lost = await anna.upload(content)
    [path] = list_objects(var_dir)
    spoil(path)
    # Nobody has noticed so far.
    taken_for_it = await anna.upload(content)
    for file in (lost, taken_for_it, lost):
        answer = await anna.download(file, expect=status)
        assert answer.json()["code"] == code
    for _ in range(2):
        again = await anna.upload(content)
        assert (await anna.download(again)).content == content
    blobs = await read_values(backend.deployment, "SELECT id FROM blobs")
    assert len(blobs) == 2, "equal ones share their bytes again"


async def test_a_photo_without_its_small_picture_is_made_anew(backend: Backend) -> None:
    anna = await backend.sign_up()
    photo, var_dir = make_photo(), backend.deployment.nodes[0].var_dir
    lost = await anna.upload(photo)
    for path in list_objects(var_dir):
        path.unlink()
    await anna.download(lost, thumbnail="small", expect=404)
    again = await anna.upload(photo)
    await anna.download(again)
    await anna.download(again, thumbnail="small")
