"""An operator signs people out at the command line (ASVS 7.4.5): tokens and sockets end at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.support.audit import run_admin, wait_for_log
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Person
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with lone_server(request, directory, {}) as made:
        yield made


async def expect_end(person: Person) -> None:
    async def is_over() -> bool:
        return (await person.call("GET", "/users/me")).status_code == 401

    await eventually(is_over, what="the end of the session")
    body = {"refresh_token": person.tokens["refresh_token"]}
    await person.backend.stranger().post("/auth/refresh-token", body, expect=401)


async def test_an_operator_signs_one_person_out_and_then_everybody(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    other = await backend.sign_in(anna.phone)
    socket, neighbour = await other.connect(), await bruno.connect()
    for unclear in ((), ("--everyone", "--user", str(anna.id)), ("--user", "0")):
        assert (await run_admin(backend.deployment, "sessions", "end", *unclear)).returncode == 2
    nobody = await run_admin(backend.deployment, "sessions", "end", "--user", "999999999999")
    assert (nobody.returncode, nobody.stdout.strip()) == (0, "0 sessions ended")
    done = await run_admin(backend.deployment, "sessions", "end", "--user", str(anna.id))
    assert (done.returncode, done.stdout.strip()) == (0, "2 sessions ended")
    await socket.expect_close(4401)
    for device in (anna, other):
        await expect_end(device)
    await neighbour.settle()
    await bruno.get("/users/me", expect=200)
    again = await backend.sign_in(anna.phone)
    done = await run_admin(backend.deployment, "sessions", "end", "--everyone")
    assert (done.returncode, done.stdout.strip()) == (0, "2 sessions ended")
    await neighbour.expect_close(4401)
    for device in (again, bruno):
        await expect_end(device)
    await wait_for_log(backend.deployment, "admin_act", count=3, act="sessions_ended")
