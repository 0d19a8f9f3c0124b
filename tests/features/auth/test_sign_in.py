"""Signing in by a code that is sent to a phone."""

import asyncio

import pytest

from tests.support.people import Backend, Json, Person, is_time
from tests.support.rows import change_rows

pytestmark = pytest.mark.anyio


async def try_code(stranger: Person, verification_id: str, digits: str, **expected: object) -> Json:
    body = {"verification_id": verification_id, "code": digits, "first_name": "Anna"}
    return await stranger.post("/auth/verify-code", body, **expected)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06d}"


async def test_a_code_is_sent_and_its_length_and_life_are_told(backend: Backend) -> None:
    phone = backend.deployment.next_phone()
    sent = await backend.stranger().post("/auth/send-verification", {"phone": phone}, expect=200)
    assert sent.keys() == {"verification_id", "phone", "expires_in", "resend_after", "code_length"}
    assert sent["phone"] == phone
    assert (sent["code_length"], sent["expires_in"]) == (6, 300)
    assert len(backend.deployment.codes(phone)[-1]) == 6


async def test_a_new_phone_gets_an_account(backend: Backend) -> None:
    anna = await backend.sign_up(first_name="Anna", last_name="Schmidt", device_name="Laptop")
    assert anna.tokens["token_type"] == "bearer"
    assert anna.tokens["expires_in"] == 15 * 60
    me = await anna.get("/users/me")
    assert (me["first_name"], me["last_name"], me["phone"]) == ("Anna", "Schmidt", anna.phone)
    assert is_time(me["created_at"])
    assert 0 < me["id"] < 10**12


async def test_a_known_phone_signs_in_to_its_account(backend: Backend) -> None:
    anna = await backend.sign_up(first_name="Anna")
    again = await backend.sign_in(anna.phone, first_name="Other")
    assert not again.tokens["is_new_user"]
    assert again.id == anna.id
    assert again.user["first_name"] == "Anna"


async def test_any_spelling_of_a_phone_is_the_same_account(backend: Backend) -> None:
    anna = await backend.sign_up()
    local = anna.phone.removeprefix("+49")
    for spelling in (f"+49 {local[:3]} {local[3:]}", f"+49 (0){local[:3]}-{local[3:]}"):
        again = await backend.sign_in(spelling)
        assert (again.id, again.phone) == (anna.id, anna.phone)


@pytest.mark.parametrize(
    "phone",
    ["", "1", "anna", "+49", "+4917012", "01701234567", "+999123456789", "+49170123456789012345"],
)
async def test_what_is_no_phone_is_refused(backend: Backend, phone: str) -> None:
    problem = await backend.stranger().post("/auth/send-verification", {"phone": phone}, expect=422)
    assert problem["errors"][0]["field"].endswith("phone")


@pytest.mark.parametrize("phone", ["+493012345678", "+499001234567", "+870773111632"])
async def test_numbers_that_take_no_sms_are_refused(backend: Backend, phone: str) -> None:
    await backend.stranger().post("/auth/send-verification", {"phone": phone}, expect=422)
    assert backend.deployment.codes(phone) == []


async def test_known_and_unknown_phones_are_answered_alike(backend: Backend) -> None:
    anna = await backend.sign_up()
    answers = []
    for phone in (anna.phone, backend.deployment.next_phone()):
        body = {"phone": phone}
        answer = await backend.stranger().post("/auth/send-verification", body, expect=200)
        answers.append({k: v for k, v in answer.items() if k not in {"verification_id", "phone"}})
    assert answers[0] == answers[1]


async def test_a_wrong_code_costs_one_of_five_tries(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    stranger = backend.stranger()
    for left in (4, 3, 2, 1, 0):
        problem = await try_code(
            stranger, verification_id, wrong(code), expect=400, code="code_invalid"
        )
        assert problem["attempts_left"] == left
    await try_code(stranger, verification_id, code, expect=400, code="code_expired")


async def test_a_code_is_used_once(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    await try_code(backend.stranger(), verification_id, code, expect=200)
    await try_code(backend.stranger(), verification_id, code, expect=400, code="code_expired")


async def test_a_code_is_used_once_under_fifty_parallel_tries(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": code, "first_name": "Anna"}
    strangers = [backend.stranger() for _ in range(10)]
    tries = [strangers[n % 10].call("POST", "/auth/verify-code", body) for n in range(50)]
    statuses = [answer.status_code for answer in await asyncio.gather(*tries)]
    assert sorted(statuses) == [200] + [400] * 49


async def test_fifty_parallel_guesses_count_as_five_tries(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": wrong(code)}
    strangers = [backend.stranger() for _ in range(10)]
    tries = [strangers[n % 10].call("POST", "/auth/verify-code", body) for n in range(50)]
    codes = [answer.json()["code"] for answer in await asyncio.gather(*tries)]
    assert codes.count("code_invalid") == 5
    assert codes.count("code_expired") == 45


async def test_a_newer_code_replaces_the_older(backend: Backend) -> None:
    phone = backend.deployment.next_phone()
    first_id, first_code = await backend.ask_code(phone)
    second_id, second_code = await backend.ask_code(phone)
    await try_code(backend.stranger(), first_id, first_code, expect=400, code="code_expired")
    await try_code(backend.stranger(), second_id, second_code, expect=200)


async def test_a_code_belongs_to_its_own_request(backend: Backend) -> None:
    anna_id, anna_code = await backend.ask_code(backend.deployment.next_phone())
    other_id, other_code = await backend.ask_code(backend.deployment.next_phone())
    if anna_code == other_code:  # one time in a million
        pytest.skip("both phones were sent the same code")
    await try_code(backend.stranger(), anna_id, other_code, expect=400, code="code_invalid")
    await try_code(backend.stranger(), other_id, other_code, expect=200)


async def test_an_invented_request_is_like_an_expired_one(backend: Backend) -> None:
    await try_code(backend.stranger(), "x" * 22, "123456", expect=400, code="code_expired")


async def test_a_code_expires_after_five_minutes(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    past = f"UPDATE phone_verifications SET expires_at = 1 WHERE public_id = '{verification_id}'"
    assert await change_rows(backend.deployment, past) == 1
    await try_code(backend.stranger(), verification_id, code, expect=400, code="code_expired")


async def test_a_stranger_cannot_lock_a_phone_out(backend: Backend) -> None:
    phone = backend.deployment.next_phone()
    stranger = backend.stranger()
    for _ in range(6):
        verification_id, code = await backend.ask_code(phone)
        for _ in range(6):
            await try_code(stranger, verification_id, wrong(code), expect=400)
    await backend.sign_up(phone)


@pytest.mark.parametrize(
    "code", ["12345", "1234567", "12345x", "", "\uff11\uff12\uff13\uff14\uff15\uff16", " 23456"]
)
async def test_a_code_has_six_digits(backend: Backend, code: str) -> None:
    verification_id, _ = await backend.ask_code(backend.deployment.next_phone())
    await try_code(backend.stranger(), verification_id, code, expect=422)


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\u202eb", "a\nb", "a\u0007b"])
async def test_a_name_is_a_visible_line_of_text(backend: Backend, name: str) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": code, "first_name": name}
    await backend.stranger().post("/auth/verify-code", body, expect=422)
