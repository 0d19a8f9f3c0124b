"""The list of devices, attacked: ending them wants a fresh proof, and nobody reaches another's."""

import pytest

from tests.support.people import Backend, Person
from tests.support.rows import change_rows

pytestmark = pytest.mark.anyio


async def session_id_of(person: Person) -> int:
    sessions = (await person.get("/auth/sessions"))["items"]
    return next(item["id"] for item in sessions if item["is_current"])


async def make_stale(person: Person) -> None:
    """As if its holder had proved to be the owner an hour ago."""
    session_id = await session_id_of(person)
    past = (
        f"UPDATE sessions SET authenticated_at = authenticated_at - 3600000 WHERE id = {session_id}"
    )
    assert await change_rows(person.backend.deployment, past) == 1


async def test_an_old_session_cannot_end_the_others(backend: Backend) -> None:
    anna = await backend.sign_up()
    other = await backend.sign_in(anna.phone)
    other_id = await session_id_of(other)
    await make_stale(anna)
    wanted = {"expect": 403, "code": "fresh_authentication_required"}
    await anna.delete(f"/auth/sessions/{other_id}", **wanted)
    await anna.delete("/auth/sessions", **wanted)
    await other.get("/users/me", expect=200)
    await anna.post("/auth/logout", expect=204)


async def test_staleness_tells_nothing_of_other_sessions(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    foreign = await session_id_of(anna)
    await make_stale(eve)
    answers = [
        await eve.delete(f"/auth/sessions/{session_id}", expect=403)
        for session_id in (foreign, 2**53 - 1)
    ]
    assert answers[0] == answers[1]


async def test_devices_are_listed_with_a_coarse_place(backend: Backend) -> None:
    anna = await backend.sign_up()
    (session,) = (await anna.get("/auth/sessions"))["items"]
    assert session["place"] == "127.0.x.x"
    await backend.stranger().post(
        "/auth/refresh-token", {"refresh_token": anna.tokens["refresh_token"]}, expect=200
    )
    (session,) = (await anna.get("/auth/sessions"))["items"]
    assert session["place"] == "127.0.x.x"
