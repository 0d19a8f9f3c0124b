"""SECRET_KEY is changed by the steps of docs/security.md, and nobody is signed out."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.lone_servers import lone_server
from tests.support.people import Backend

pytestmark = pytest.mark.anyio

OLD, NEW = secrets.token_urlsafe(40), secrets.token_urlsafe(40)


@pytest.fixture(params=["sqlite"])
async def alone(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Backend]:
    del anyio_backend
    with lone_server(request, directory, {"SECRET_KEY": OLD}) as deployment:
        async with AsyncExitStack() as stack:
            yield Backend(deployment, stack)


def restart(backend: Backend, *, key: str, previous: str = "") -> None:
    server = backend.deployment.nodes[0]
    server.stop()
    server.environment |= {"SECRET_KEY": key, "SECRET_KEY_PREVIOUS": previous}
    server.start()


async def test_signing_keys_change_and_nobody_is_signed_out(alone: Backend) -> None:
    anna = await alone.sign_up()
    restart(alone, key=OLD, previous=NEW)
    await anna.get("/users/me", expect=200)
    restart(alone, key=NEW, previous=OLD)
    await anna.get("/users/me", expect=200)
    bruno = await alone.sign_up()
    restart(alone, key=NEW)
    await bruno.get("/users/me", expect=200)
    # What the old key has signed is over; the session is not.
    await anna.get("/users/me", expect=401)
    body = {"refresh_token": anna.tokens["refresh_token"]}
    pair = await alone.stranger().post("/auth/refresh-token", body, expect=200)
    anna.tokens = pair | {"user": anna.user}
    await anna.get("/users/me", expect=200)
