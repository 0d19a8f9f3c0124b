"""Tokens, devices and tickets: how a session lives and how it ends."""

import asyncio

import pytest

from tests.support.people import Backend, Json, Person
from tests.support.rows import change_rows
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def refresh(person: Person, refresh_token: str, **expected: object) -> Json:
    body = {"refresh_token": refresh_token}
    return await person.backend.stranger().post("/auth/refresh-token", body, **expected)


async def must_be_signed_out(person: Person) -> None:
    """On every node; how soon, tests/faults/promises/test_revocation.py judges."""
    for node in person.backend.deployment.nodes:
        person.client.base_url = node.base_url

        async def refused() -> bool:
            return (await person.call("GET", "/users/me")).status_code == 401

        await eventually(refused, what="the end of the session")


@pytest.mark.parametrize("token", ["x", "a.b.c", "x y", "x" * 5000])
async def test_what_is_no_token_opens_nothing(backend: Backend, token: str) -> None:
    stranger = backend.stranger()
    headers = {"Authorization": f"Bearer {token}"}
    answer = await stranger.call("GET", "/users/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].lower().startswith("bearer")


async def test_without_a_token_there_is_no_answer(backend: Backend) -> None:
    for path in ("/users/me", "/chats/", "/auth/sessions", "/users/contacts"):
        await backend.stranger().get(path, expect=401, code="unauthenticated")


async def test_one_kind_of_token_does_not_stand_for_another(backend: Backend) -> None:
    anna = await backend.sign_up()
    ticket = await anna.ticket()
    for token in (anna.tokens["refresh_token"], ticket):
        headers = {"Authorization": f"Bearer {token}"}
        answer = await backend.stranger().call("GET", "/users/me", headers=headers)
        assert answer.status_code == 401
    for token in (anna.access_token, ticket):
        await refresh(anna, token, expect=401)


async def test_a_changed_token_opens_nothing(backend: Backend) -> None:
    anna = await backend.sign_up()
    head, payload, signature = anna.access_token.split(".")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    for token in (f"{head}.{payload}.{flipped}", f"{head}.{payload}.", f"{head}.{payload}"):
        headers = {"Authorization": f"Bearer {token}"}
        answer = await backend.stranger().call("GET", "/users/me", headers=headers)
        assert answer.status_code == 401


async def test_a_refresh_token_is_replaced_by_its_use(backend: Backend) -> None:
    anna = await backend.sign_up()
    pair = await refresh(anna, anna.tokens["refresh_token"], expect=200)
    assert {"access_token", "refresh_token", "token_type", "expires_in"} <= pair.keys()
    assert pair["refresh_token"] != anna.tokens["refresh_token"]
    anna.tokens = pair | {"user": anna.user}
    assert (await anna.get("/users/me"))["id"] == anna.id
    await refresh(anna, pair["refresh_token"], expect=200)


async def test_a_lost_answer_is_fetched_again_while_unused(backend: Backend) -> None:
    anna = await backend.sign_up()
    first = await refresh(anna, anna.tokens["refresh_token"], expect=200)
    again = await refresh(anna, anna.tokens["refresh_token"], expect=200)
    assert again["refresh_token"] == first["refresh_token"]
    await refresh(anna, first["refresh_token"], expect=200)


async def test_parallel_refreshes_get_the_same_successor(backend: Backend) -> None:
    anna = await backend.sign_up()
    calls = [refresh(anna, anna.tokens["refresh_token"], expect=200) for _ in range(8)]
    answers = await asyncio.gather(*calls)
    assert len({answer["refresh_token"] for answer in answers}) == 1


async def test_replay_after_the_successor_was_used_ends_the_session(backend: Backend) -> None:
    anna = await backend.sign_up()
    first = await refresh(anna, anna.tokens["refresh_token"], expect=200)
    second = await refresh(anna, first["refresh_token"], expect=200)
    await refresh(anna, anna.tokens["refresh_token"], expect=401)
    await refresh(anna, second["refresh_token"], expect=401)
    await must_be_signed_out(anna)


async def test_replay_after_thirty_seconds_ends_the_session(backend: Backend) -> None:
    anna = await backend.sign_up()
    first = await refresh(anna, anna.tokens["refresh_token"], expect=200)
    sessions = await anna.get("/auth/sessions")
    session_id = sessions["items"][0]["id"]
    later = (
        "UPDATE refresh_tokens SET used_at = used_at - 31000"
        f" WHERE session_id = {session_id} AND used_at IS NOT NULL"
    )
    assert await change_rows(backend.deployment, later) == 1
    await refresh(anna, anna.tokens["refresh_token"], expect=401)
    await refresh(anna, first["refresh_token"], expect=401)
    await must_be_signed_out(anna)


async def test_an_expired_refresh_token_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    session_id = (await anna.get("/auth/sessions"))["items"][0]["id"]
    past = f"UPDATE refresh_tokens SET expires_at = 1 WHERE session_id = {session_id}"
    assert await change_rows(backend.deployment, past) == 1
    await refresh(anna, anna.tokens["refresh_token"], expect=401)


async def test_logout_ends_the_tokens_and_sockets_of_this_device_alone(backend: Backend) -> None:
    anna = await backend.sign_up()
    phone = await backend.sign_in(anna.phone)
    sockets = [await anna.connect() for _ in range(3)]
    other = await phone.connect()
    await anna.post("/auth/logout", expect=204)
    for socket in sockets:
        await socket.expect_close(4401)
    await refresh(anna, anna.tokens["refresh_token"], expect=401)
    await must_be_signed_out(anna)
    await other.settle()
    await phone.get("/users/me", expect=200)


async def test_my_devices_are_listed(backend: Backend) -> None:
    anna = await backend.sign_up(device_name="Laptop")
    await backend.sign_in(anna.phone, device_name="Phone")
    sessions = await anna.get("/auth/sessions")
    assert sorted(item["device_name"] for item in sessions["items"]) == ["Laptop", "Phone"]


async def test_another_device_is_ended(backend: Backend) -> None:
    anna = await backend.sign_up(device_name="Laptop")
    phone = await backend.sign_in(anna.phone, device_name="Phone")
    socket = await phone.connect()
    sessions = (await anna.get("/auth/sessions"))["items"]
    session_id = next(item["id"] for item in sessions if item["device_name"] == "Phone")
    await anna.delete(f"/auth/sessions/{session_id}", expect=204)
    await socket.expect_close(4401)
    await must_be_signed_out(phone)
    await anna.delete(f"/auth/sessions/{session_id}", expect=404)
    assert len((await anna.get("/auth/sessions"))["items"]) == 1


async def test_all_other_devices_are_ended_at_once(backend: Backend) -> None:
    anna = await backend.sign_up()
    others = [await backend.sign_in(anna.phone) for _ in range(2)]
    await anna.delete("/auth/sessions", expect=204)
    for other in others:
        await must_be_signed_out(other)
    await anna.get("/users/me", expect=200)


async def test_the_devices_of_others_are_as_if_they_were_not(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    session_id = (await anna.get("/auth/sessions"))["items"][0]["id"]
    foreign = await eve.delete(f"/auth/sessions/{session_id}", expect=404)
    invented = await eve.delete(f"/auth/sessions/{2**53 - 1}", expect=404)
    assert foreign == invented
    await anna.get("/users/me", expect=200)


async def test_other_devices_are_told_of_a_sign_in(backend: Backend) -> None:
    anna = await backend.sign_up()
    socket = await anna.connect()
    await backend.sign_in(anna.phone, device_name="Phone")
    await socket.expect("sessions_changed", scope="user")


async def test_a_ticket_opens_one_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    answer = await anna.post("/auth/ws-ticket", {}, expect=201)
    assert answer.keys() == {"ticket", "expires_in"}
    assert answer["expires_in"] == 30
    await anna.connect(token=answer["ticket"])
    second = await anna.connect(token=answer["ticket"], hello=False)
    await second.expect_close(4401)


async def test_twenty_parallel_uses_of_a_ticket_open_one_socket(backend: Backend) -> None:
    anna = await backend.sign_up()
    ticket = await anna.ticket()
    tries = [anna.connect(token=ticket, hello=False) for _ in range(20)]
    sockets = await asyncio.gather(*tries)

    async def decided() -> bool:
        return all(socket.close_code or socket.frames for socket in sockets)

    await eventually(decided, what="the fate of all sockets")
    assert sorted(socket.close_code or 0 for socket in sockets) == [0] + [4401] * 19


async def test_a_ticket_expires(backend: Backend) -> None:
    anna = await backend.sign_up()
    ticket = await anna.ticket()
    session_id = (await anna.get("/auth/sessions"))["items"][0]["id"]
    past = f"UPDATE ws_tickets SET expires_at = 1 WHERE session_id = {session_id}"
    assert await change_rows(backend.deployment, past) == 1
    socket = await anna.connect(token=ticket, hello=False)
    await socket.expect_close(4401)


async def test_a_session_holds_at_most_twenty_unused_tickets(backend: Backend) -> None:
    anna = await backend.sign_up()
    for _ in range(30):
        await anna.call("POST", "/auth/ws-ticket", {})
    session_id = (await anna.get("/auth/sessions"))["items"][0]["id"]
    touched = f"UPDATE ws_tickets SET expires_at = expires_at WHERE session_id = {session_id}"
    assert await change_rows(backend.deployment, touched) <= 20


async def test_a_ticket_for_one_chat_opens_nothing_else(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await anna.connect(token=await anna.ticket(chat["id"]), hello=False)
    assert socket.close_code is not None or await refused_with(socket, {4401, 4403})


async def refused_with(socket: Json, codes: set[int]) -> bool:
    async def closed() -> bool:
        return socket.close_code is not None

    await eventually(closed, what="the refusal")
    return socket.close_code in codes


async def test_a_ticket_for_a_chat_of_others_is_not_given(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    await eve.post("/auth/ws-ticket", {"chat_id": chat["id"]}, expect=404)
    await eve.post("/auth/ws-ticket", {"chat_id": 2**53 - 1}, expect=404)
