"""Messages that are stored without a cipher, by `ENCRYPT_MESSAGES=false`, still die with their chat."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment
from tests.support.rows import read_values

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
def plain_deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    """A server that does not encrypt messages."""
    with lone_server(request, directory, {"ENCRYPT_MESSAGES": "false"}) as deployment:
        yield deployment


@pytest.fixture
async def plain(plain_deployment: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(plain_deployment, stack)


async def test_a_deleted_group_leaves_no_text_in_its_rows(plain: Backend) -> None:
    anna, bruno = await plain.people(2)
    group, other = await anna.group("Group", [bruno]), await anna.group("Other", [bruno])
    message = await anna.say(group, "plain-marker-gone")
    await anna.say(other, "plain-marker-kept")
    assert b"plain-marker-gone" in await stored_bodies(plain.deployment)
    await anna.delete(f"/chats/{group['id']}", expect=204)
    bodies = await stored_bodies(plain.deployment)
    assert b"plain-marker-kept" in bodies
    assert b"plain-marker-gone" not in bodies
    await bruno.get(f"/messages/{message['id']}", expect=404)


async def stored_bodies(deployment: Deployment) -> bytes:
    bodies = await read_values(deployment, "SELECT body FROM messages WHERE body IS NOT NULL")
    return b"\0".join(body for body in bodies if isinstance(body, bytes))
