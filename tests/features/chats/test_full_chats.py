"""A chat takes as many members as the setting says, by whatever door they come. On a server of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, new_id

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
def small_deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, {"MAX_GROUP_MEMBERS": "2"}) as deployment:
        yield deployment


@pytest.fixture
async def small(small_deployment: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    """Chats of at most two."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(small_deployment, stack)


async def test_a_full_chat_takes_nobody_by_any_door(small: Backend) -> None:
    anna, bruno, clara = await small.people(3)
    group = await anna.group("Group", [bruno], username="full_" + new_id()[:8])
    path = f"/chats/{group['id']}"
    invite = await anna.post(f"{path}/invites", {"max_uses": 1}, expect=201)
    await clara.post(f"{path}/join", expect=409, code="chat_full")
    await clara.post(f"/invites/{invite['code']}/join", expect=409, code="chat_full")
    body = {"user_ids": [clara.id]}
    await anna.post(f"{path}/members", body, expect=409, code="chat_full")
    # The refused joining has used nothing up.
    await bruno.post(f"{path}/leave")
    await clara.post(f"/invites/{invite['code']}/join", expect=200)
    assert (await anna.chat(group))["members_count"] == 2


async def test_the_last_place_goes_to_one(small: Backend) -> None:
    anna, *others = await small.people(6)
    group = await anna.group("Group", username="race_" + new_id()[:8])
    asks = [other.call("POST", f"/chats/{group['id']}/join") for other in others]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*asks))
    assert statuses == [200, 409, 409, 409, 409]
    assert len(await anna.walk(f"/chats/{group['id']}/members")) == 2
