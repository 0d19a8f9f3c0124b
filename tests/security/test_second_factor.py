"""The second factor, attacked from outside: every door asks for it, and it is guessed by nobody."""

import asyncio

import pytest

from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


async def with_password(backend: Backend, password: str = PASSWORD) -> Person:
    anna = await backend.sign_up()
    await anna.put("/auth/two-step", {"password": password}, expect=200)
    return anna


async def first_step(backend: Backend, phone: str, **fields: str) -> Json:
    verification_id, code = await backend.ask_code(phone)
    body = {"verification_id": verification_id, "code": code, **fields}
    return await backend.stranger().post("/auth/verify-code", body, expect=200)


async def second_step(backend: Backend, token: str, **proof: object) -> Json:
    expected = {name: proof.pop(name) for name in ("expect", "code") if name in proof}
    body = {"password_token": token, **proof}
    return await backend.stranger().post("/auth/verify-password", body, **expected)


async def sign_in(backend: Backend, phone: str, **proof: object) -> Person:
    half = await first_step(backend, phone)
    answer = await second_step(backend, half["password_token"], **proof, expect=200)
    return Person(backend, answer, phone=phone)


async def test_a_code_alone_does_not_sign_in(backend: Backend) -> None:
    anna = await with_password(backend)
    half = await first_step(backend, anna.phone, device_name="Laptop")
    assert half["password_required"] is True
    assert half["methods"] == ["password"]
    assert not half.keys() & {"access_token", "refresh_token", "user"}
    answer = await second_step(backend, half["password_token"], password=PASSWORD, expect=200)
    assert answer["user"]["id"] == anna.id
    assert answer["is_new_user"] is False
    sessions = (await anna.get("/auth/sessions"))["items"]
    assert sessions[0]["device_name"] == "Laptop"


async def test_a_wrong_password_costs_one_of_five_tries(backend: Backend) -> None:
    anna = await with_password(backend)
    token = (await first_step(backend, anna.phone))["password_token"]
    for left in (4, 3, 2, 1, 0):
        problem = await second_step(
            backend, token, password="wrong horse", expect=400, code="password_invalid"
        )
        assert problem["attempts_left"] == left
    await second_step(backend, token, password=PASSWORD, expect=400, code="password_token_expired")


async def test_a_password_token_is_used_once_under_parallel_tries(backend: Backend) -> None:
    anna = await with_password(backend)
    token = (await first_step(backend, anna.phone))["password_token"]
    body = {"password_token": token, "password": PASSWORD}
    tries = [backend.stranger().call("POST", "/auth/verify-password", body) for _ in range(20)]
    statuses = [answer.status_code for answer in await asyncio.gather(*tries)]
    assert sorted(statuses) == [200] + [400] * 19
