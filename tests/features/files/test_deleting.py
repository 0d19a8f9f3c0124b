"""Deleting a file that nothing shows."""

import pytest

from tests.support.people import API, Backend

pytestmark = pytest.mark.anyio


async def test_a_deleted_file_is_gone_at_once_on_every_door(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(b"text")
    path = file["url"].removeprefix(API)
    await anna.delete(f"{path}?why=1&why=2", expect=422, code="query_malformed")
    await anna.delete(path, expect=204)
    await anna.download(file, expect=404)
    await anna.download(file, expect=404, If_None_Match="*")
    assert (await anna.call("HEAD", path)).status_code == 404
    await anna.delete(path, expect=404, code="file_not_found")


async def test_only_the_uploader_deletes_it(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    file = await anna.upload(b"text")
    path = file["url"].removeprefix(API)
    await bruno.delete(path, expect=404, code="file_not_found")
    await anna.delete(path.replace("document", "photo"), expect=404, code="file_not_found")
    assert (await anna.download(file)).content == b"text"
