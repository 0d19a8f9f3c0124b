"""The second factor, attacked from outside: every door asks for it, and it is guessed by nobody."""

import asyncio
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from pyotp.totp import TOTP

from tests.security.test_devices import make_stale, session_id_of
from tests.support.people import Backend, Json, Person
from tests.support.rows import change_rows, dump
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
DAY = 86_400_000


async def with_password(backend: Backend, password: str = PASSWORD) -> Person:
    anna = await backend.sign_up()
    await anna.put("/auth/two-step", {"password": password}, expect=200)
    return anna


async def with_totp(backend: Backend) -> tuple[Person, TOTP, list[str]]:
    anna = await backend.sign_up()
    secret = (await anna.post("/auth/two-step/totp", expect=201))["secret"]
    totp = TOTP(secret)
    answer = await anna.put("/auth/two-step", {"totp": totp.now()}, expect=200)
    return anna, totp, answer["recovery_codes"]


async def first_step(backend: Backend, phone: str, **fields: str) -> Json:
    verification_id, code = await backend.ask_code(phone)
    body = {"verification_id": verification_id, "code": code, **fields}
    return await backend.stranger().post("/auth/verify-code", body, expect=200)


async def password_token(backend: Backend, person: Person) -> str:
    return (await first_step(backend, person.phone))["password_token"]


async def second_step(
    backend: Backend, token: str, proof: Mapping[str, str], **expected: object
) -> Json:
    body = {"password_token": token, **proof}
    return await backend.stranger().post("/auth/verify-password", body, **expected)


async def sign_in(backend: Backend, person: Person, **proof: str) -> Person:
    token = await password_token(backend, person)
    return Person(backend, await second_step(backend, token, proof, expect=200), phone=person.phone)


def next_code(totp: TOTP) -> str:
    """Of the step after this one, which counts too: phones' clocks are off by as much."""
    return totp.at(int(time.time()) + 30)


async def shift(backend: Backend, person: Person, columns: str, table: str, days: float) -> None:
    """As if so many days had passed since."""
    changes = ", ".join(f"{it} = {it} - {int(days * DAY)}" for it in columns.split())
    change = f"UPDATE {table} SET {changes} WHERE user_id = {person.id}"
    assert await change_rows(backend.deployment, change) >= 1


# A8: the doors.


async def test_a_code_alone_does_not_sign_in(backend: Backend) -> None:
    anna = await with_password(backend)
    half = await first_step(backend, anna.phone, device_name="Laptop")
    assert half["password_required"] is True
    assert half["methods"] == ["password"]
    assert not half.keys() & {"access_token", "refresh_token", "user"}
    answer = await second_step(backend, half["password_token"], {"password": PASSWORD}, expect=200)
    assert (answer["user"]["id"], answer["is_new_user"]) == (anna.id, False)
    sessions = (await anna.get("/auth/sessions"))["items"]
    assert sessions[0]["device_name"] == "Laptop"


async def test_a_password_token_opens_no_other_door(backend: Backend) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    stranger = backend.stranger()
    headers = {"Authorization": f"Bearer {token}"}
    for method, path in (
        ("GET", "/users/me"),
        ("POST", "/auth/ws-ticket"),
        ("GET", "/auth/two-step"),
        ("DELETE", "/auth/two-step"),
        ("POST", "/auth/logout"),
    ):
        assert (await stranger.call(method, path, headers=headers)).status_code == 401
    await stranger.post("/auth/refresh-token", {"refresh_token": token}, expect=401)
    socket = await stranger.connect(token=token, hello=False)
    await socket.expect_close(4401)
    await second_step(backend, token, {"password": PASSWORD}, expect=200)


async def test_a_password_token_is_used_once_under_parallel_tries(backend: Backend) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    body = {"password_token": token, "password": PASSWORD}
    tries = [backend.stranger().call("POST", "/auth/verify-password", body) for _ in range(5)]
    statuses = [answer.status_code for answer in await asyncio.gather(*tries)]
    assert sorted(statuses) == [200] + [400] * 4


@pytest.mark.parametrize("lost", ["expired", "invented"])
async def test_what_is_no_password_token_opens_nothing(backend: Backend, lost: str) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    if lost == "expired":
        change = f"UPDATE password_tokens SET expires_at = 1 WHERE user_id = {anna.id}"
        assert await change_rows(backend.deployment, change) == 1
    else:
        token = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    await second_step(
        backend, token, {"password": PASSWORD}, expect=400, code="password_token_expired"
    )


async def test_a_sign_in_that_is_half_done_ends_when_the_factor_changes(backend: Backend) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    await anna.put("/auth/two-step", {"password": "another fine horse"}, expect=200)
    for password in (PASSWORD, "another fine horse"):
        await second_step(
            backend, token, {"password": password}, expect=400, code="password_token_expired"
        )


async def test_signing_in_begun_before_the_factor_does_not_end_without_it(
    backend: Backend,
) -> None:
    anna = await backend.sign_up()
    verification_id, code = await backend.ask_code(anna.phone)
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    body = {"verification_id": verification_id, "code": code}
    answer = await backend.stranger().post("/auth/verify-code", body, expect=200)
    assert answer["password_required"] is True


# Guessing, and A5: nobody locks the owner out.


async def test_a_wrong_password_costs_one_of_five_tries(backend: Backend) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    for left in (4, 3, 2, 1, 0):
        problem = await second_step(
            backend, token, {"password": "wrong horse"}, expect=400, code="password_invalid"
        )
        assert problem["attempts_left"] == left
    await second_step(
        backend, token, {"password": PASSWORD}, expect=400, code="password_token_expired"
    )
    await sign_in(backend, anna, password=PASSWORD)


async def test_fifty_parallel_guesses_count_as_five(backend: Backend) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    body = {"password_token": token, "password": "wrong horse"}
    strangers = [backend.stranger() for _ in range(5)]
    tries = [strangers[n % 5].call("POST", "/auth/verify-password", body) for n in range(25)]
    codes = [answer.json()["code"] for answer in await asyncio.gather(*tries)]
    assert codes.count("password_invalid") == 5
    assert codes.count("password_token_expired") == 20


async def test_further_tokens_bring_no_further_guesses(backend: Backend) -> None:
    anna = await with_password(backend)
    for _ in range(2):
        token = await password_token(backend, anna)
        for _ in range(5):
            await second_step(backend, token, {"totp": "000000"}, expect=400)
    token = await password_token(backend, anna)
    problem = await second_step(
        backend, token, {"password": PASSWORD}, expect=429, code="rate_limited"
    )
    assert problem["status"] == 429
    # The devices of the owner are not concerned.
    await anna.post("/auth/confirm", {"password": PASSWORD}, expect=200)
    await shift(backend, anna, "created_at", "factor_tries", 1)
    await second_step(backend, token, {"password": PASSWORD}, expect=200)


async def test_guesses_in_a_session_are_limited_for_that_session_alone(backend: Backend) -> None:
    anna = await with_password(backend)
    thief = await sign_in(backend, anna, password=PASSWORD)
    for _ in range(5):
        await thief.post(
            "/auth/confirm", {"password": "wrong horse"}, expect=400, code="password_invalid"
        )
    await thief.post("/auth/confirm", {"password": PASSWORD}, expect=429)
    await anna.post("/auth/confirm", {"password": PASSWORD}, expect=200)
    await sign_in(backend, anna, password=PASSWORD)


# A9 and A10: which passwords.


@pytest.mark.parametrize(
    "password", ["password1", "12345678", "QWERTYuiop", "iloveyou", "Telegram2026", "1234567"]
)
async def test_common_and_short_passwords_are_refused(backend: Backend, password: str) -> None:
    anna = await backend.sign_up()
    problem = await anna.put("/auth/two-step", {"password": password}, expect=422)
    assert problem["errors"][0]["field"].endswith("password")
    assert password not in str(problem)
    assert (await anna.get("/auth/two-step"))["is_on"] is False


async def test_my_own_phone_and_name_are_no_passwords(backend: Backend) -> None:
    anna = await backend.sign_up(first_name="Annalena")
    for password in (anna.phone, anna.phone[1:], "annalena1990"):
        await anna.put(
            "/auth/two-step", {"password": password}, expect=422, code="password_too_common"
        )


@pytest.mark.parametrize(
    ("password", "almost"),
    [
        ("x" * 72 + "1", "x" * 72 + "2"),
        ("y" * 127 + "a", "y" * 127 + "b"),
        ("\U0001f40e" * 128, "\U0001f40e" * 127 + "\U0001f984"),
        (" leading and trailing ", "leading and trailing"),
        ("Correct Horse", "correct horse"),
        ("no digits here", "no digits her"),
    ],
)
async def test_every_character_of_a_password_counts(
    backend: Backend, password: str, almost: str
) -> None:
    anna = await with_password(backend, password)
    token = await password_token(backend, anna)
    await second_step(backend, token, {"password": almost}, expect=400, code="password_invalid")
    await second_step(backend, token, {"password": password}, expect=200)


@pytest.mark.parametrize("password", ["z" * 129, "z" * 10_000, "nul\0inside!", "", 12345678, None])
async def test_odd_passwords_are_refused_without_a_fault(
    backend: Backend, password: object
) -> None:
    anna = await with_password(backend)
    token = await password_token(backend, anna)
    for method, path, body in (
        ("PUT", "/auth/two-step", {"password": password}),
        ("POST", "/auth/verify-password", {"password_token": token, "password": password}),
        ("POST", "/auth/confirm", {"password": password}),
    ):
        answer = await anna.call(method, path, body)
        assert answer.status_code in {400, 422}, (method, path, answer.text)
        assert "zzzz" not in answer.text


async def test_nothing_of_a_factor_stands_in_the_database(backend: Backend) -> None:
    anna, totp, codes = await with_totp(backend)
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    token = await password_token(backend, anna)
    everything = await dump(backend.deployment)
    for secret in (PASSWORD, totp.secret, token, codes[0], codes[0].replace("-", "")):
        assert secret.encode() not in everything


# TOTP and recovery codes.


async def test_an_authenticator_app_signs_in(backend: Backend) -> None:
    anna = await backend.sign_up()
    pending = await anna.post("/auth/two-step/totp", expect=201)
    uri = urlsplit(pending["uri"])
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert parse_qs(uri.query)["secret"] == [pending["secret"]]
    assert (await anna.get("/auth/two-step"))["is_on"] is False
    totp = TOTP(pending["secret"])
    state = await anna.put("/auth/two-step", {"totp": totp.now()}, expect=200)
    assert (state["has_totp"], state["has_password"]) == (True, False)
    assert len(set(state["recovery_codes"])) == state["recovery_codes_left"] == 10
    half = await first_step(backend, anna.phone)
    assert half["methods"] == ["totp"]
    await second_step(backend, half["password_token"], {"totp": next_code(totp)}, expect=200)


async def test_a_secret_counts_only_after_its_first_code(backend: Backend) -> None:
    anna = await backend.sign_up()
    totp = TOTP((await anna.post("/auth/two-step/totp", expect=201))["secret"])
    wrong = f"{(int(totp.now()) + 1) % 1_000_000:06d}"
    await anna.put("/auth/two-step", {"totp": wrong}, expect=400, code="password_invalid")
    half = await first_step(backend, anna.phone)
    assert "access_token" in half


async def test_a_used_time_step_is_refused(backend: Backend) -> None:
    anna, totp, _ = await with_totp(backend)
    code = next_code(totp)
    await sign_in(backend, anna, totp=code)
    token = await password_token(backend, anna)
    for used in (code, totp.at(int(time.time()) - 30)):
        await second_step(backend, token, {"totp": used}, expect=400, code="password_invalid")


async def test_one_code_opens_one_of_parallel_sign_ins(backend: Backend) -> None:
    anna, totp, _ = await with_totp(backend)
    tokens = [await password_token(backend, anna) for _ in range(2)]
    proof = {"totp": next_code(totp)}
    answers = await asyncio.gather(
        *(
            backend.stranger().call(
                "POST", "/auth/verify-password", {"password_token": token, **proof}
            )
            for token in tokens
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 400]


async def test_recovery_codes_are_used_once_each(backend: Backend) -> None:
    anna, _, codes = await with_totp(backend)
    await sign_in(backend, anna, recovery_code=codes[0].upper().replace("-", ""))
    assert (await anna.get("/auth/two-step"))["recovery_codes_left"] == 9
    token = await password_token(backend, anna)
    await second_step(
        backend, token, {"recovery_code": codes[0]}, expect=400, code="password_invalid"
    )
    await second_step(backend, token, {"recovery_code": codes[1]}, expect=200)


async def test_new_recovery_codes_void_the_old_ones(backend: Backend) -> None:
    anna, _, codes = await with_totp(backend)
    fresh = (await anna.post("/auth/two-step/recovery-codes", expect=201))["recovery_codes"]
    assert len(set(fresh)) == 10
    assert not set(fresh) & set(codes)
    token = await password_token(backend, anna)
    await second_step(backend, token, {"recovery_code": codes[2]}, expect=400)
    await second_step(backend, token, {"recovery_code": fresh[2]}, expect=200)


async def test_recovery_codes_of_others_open_nothing(backend: Backend) -> None:
    anna, _, _ = await with_totp(backend)
    _, _, foreign = await with_totp(backend)
    token = await password_token(backend, anna)
    await second_step(
        backend, token, {"recovery_code": foreign[0]}, expect=400, code="password_invalid"
    )


# Changing it: B9, B5, A11.


async def test_an_old_session_cannot_touch_the_factor(backend: Backend) -> None:
    anna = await with_password(backend)
    await make_stale(anna)
    wanted = {"expect": 403, "code": "fresh_authentication_required"}
    await anna.put("/auth/two-step", {"password": "another fine horse"}, **wanted)
    await anna.post("/auth/two-step/totp", **wanted)
    await anna.post("/auth/two-step/recovery-codes", **wanted)
    await anna.delete("/auth/two-step", **wanted)
    answer = await anna.post("/auth/confirm", {"password": PASSWORD}, expect=200)
    assert answer.keys() == {"fresh_until"}
    await anna.put("/auth/two-step", {"password": "another fine horse"}, expect=200)
    await sign_in(backend, anna, password="another fine horse")


async def test_a_code_to_the_phone_confirms_only_where_no_factor_is_set(backend: Backend) -> None:
    anna = await backend.sign_up()
    await make_stale(anna)
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    await anna.post("/auth/confirm", body, expect=200)
    await anna.post("/auth/confirm", body, expect=400, code="code_expired")
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    await anna.post("/auth/confirm", body, expect=403, code="password_required")


async def test_a_code_to_another_phone_confirms_nothing(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    await make_stale(anna)
    verification_id, code = await backend.ask_code(eve.phone)
    body = {"verification_id": verification_id, "code": code}
    await anna.post("/auth/confirm", body, expect=400, code="code_expired")
    await anna.delete("/auth/sessions", expect=403)


async def test_a_wrong_code_confirms_nothing(backend: Backend) -> None:
    anna = await backend.sign_up()
    verification_id, code = await backend.ask_code(anna.phone)
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    body = {"verification_id": verification_id, "code": wrong}
    problem = await anna.post("/auth/confirm", body, expect=400, code="code_invalid")
    assert problem["attempts_left"] == 4


async def test_without_a_factor_there_is_none_to_prove(backend: Backend) -> None:
    anna = await backend.sign_up()
    wanted = {"expect": 404, "code": "two_step_not_set"}
    await anna.post("/auth/confirm", {"password": PASSWORD}, **wanted)
    await anna.delete("/auth/two-step", **wanted)
    await anna.post("/auth/two-step/recovery-codes", **wanted)
    await anna.delete("/auth/two-step/reset", **wanted)


@pytest.mark.parametrize("body", [{}, {"password": PASSWORD, "totp": "123456"}, {"code": "123456"}])
async def test_a_proof_is_exactly_one(backend: Backend, body: Json) -> None:
    anna = await with_password(backend)
    await anna.post("/auth/confirm", body, expect=422)
    token = await password_token(backend, anna)
    await anna.post("/auth/verify-password", {"password_token": token, **body}, expect=422)


@pytest.mark.parametrize("change", ["set", "changed", "removed"])
async def test_a_change_is_told_and_ends_the_other_sessions(backend: Backend, change: str) -> None:
    anna = await backend.sign_up()
    if change != "set":
        await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
        other = await sign_in(backend, anna, password=PASSWORD)
    else:
        other = await backend.sign_in(anna.phone)
    mine, theirs = await anna.connect(), await other.connect()
    if change == "removed":
        await anna.delete("/auth/two-step", expect=204)
    else:
        await anna.put("/auth/two-step", {"password": "another fine horse"}, expect=200)
    await mine.expect("two_step_changed", {"change": change}, scope="user")
    await theirs.expect("two_step_changed", {"change": change}, scope="user")
    await theirs.expect_close(4401)

    async def refused() -> bool:
        return (await other.call("GET", "/users/me")).status_code == 401

    await eventually(refused, what="the end of the other session")
    body = {"refresh_token": other.tokens["refresh_token"]}
    await backend.stranger().post("/auth/refresh-token", body, expect=401)
    await anna.get("/users/me", expect=200)


async def test_an_ended_socket_is_heard_no_more(backend: Backend) -> None:
    anna = await backend.sign_up()
    other = await backend.sign_in(anna.phone)
    chat = await anna.private_chat(await backend.sign_up())
    socket = await other.connect()
    await anna.delete("/auth/sessions", expect=204)
    await socket.expect("sessions_changed", scope="user")
    body = {"chat_id": chat["id"], "text": "still here"}
    await socket.send_frame("send_message", body, "late")
    await socket.expect_close(4401)
    assert await anna.history(chat) == []


async def test_a_part_of_the_factor_can_be_removed(backend: Backend) -> None:
    anna, totp, _ = await with_totp(backend)
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    await anna.delete("/auth/two-step", expect=204, part="password")
    await anna.delete("/auth/two-step", expect=404, part="password")
    assert (await first_step(backend, anna.phone))["methods"] == ["totp"]
    await anna.delete("/auth/two-step", expect=204)
    await anna.delete("/auth/two-step", expect=404)
    state = await anna.get("/auth/two-step")
    assert (state["is_on"], state["recovery_codes_left"]) == (False, 0)
    assert "access_token" in await first_step(backend, anna.phone)
    assert totp.secret


# Reset without the factor.


async def ask_reset(backend: Backend, person: Person) -> Json:
    token = await password_token(backend, person)
    return await backend.stranger().post(
        "/auth/two-step/reset", {"password_token": token}, expect=200
    )


async def test_a_reset_waits_seven_days_and_is_told_to_all_devices(backend: Backend) -> None:
    anna = await with_password(backend)
    socket = await anna.connect()
    answer = await ask_reset(backend, anna)
    assert answer["is_done"] is False
    told = await socket.expect("two_step_changed", {"change": "reset_requested"}, scope="user")
    assert told["data"]["reset_at"] == answer["reset_at"]
    assert (await anna.get("/auth/two-step"))["reset"]["reset_at"] == answer["reset_at"]
    assert await ask_reset(backend, anna) == answer
    await shift(backend, anna, "reset_asked_at reset_at", "second_factors", 6.99)
    assert (await ask_reset(backend, anna))["is_done"] is False
    await shift(backend, anna, "reset_asked_at reset_at", "second_factors", 0.02)
    assert (await ask_reset(backend, anna))["is_done"] is True
    await socket.expect_close(4401)
    assert "access_token" in await first_step(backend, anna.phone)


async def test_any_device_cancels_a_reset(backend: Backend) -> None:
    anna = await with_password(backend)
    other = await sign_in(backend, anna, password=PASSWORD)
    socket = await anna.connect()
    await ask_reset(backend, anna)
    await make_stale(other)
    await other.delete("/auth/two-step/reset", expect=204)
    await other.delete("/auth/two-step/reset", expect=404)
    await socket.expect("two_step_changed", {"change": "reset_cancelled"}, scope="user")
    assert (await anna.get("/auth/two-step"))["reset"] is None


async def test_the_owner_who_signs_in_cancels_a_reset(backend: Backend) -> None:
    anna = await with_password(backend)
    await ask_reset(backend, anna)
    await sign_in(backend, anna, password=PASSWORD)
    assert (await anna.get("/auth/two-step"))["reset"] is None


async def test_a_reset_that_nobody_came_for_has_to_be_asked_anew(backend: Backend) -> None:
    anna = await with_password(backend)
    await ask_reset(backend, anna)
    await shift(backend, anna, "reset_asked_at reset_at", "second_factors", 14.01)
    assert (await ask_reset(backend, anna))["is_done"] is False


async def test_a_reset_needs_the_phone(backend: Backend) -> None:
    anna = await with_password(backend)
    body = {"password_token": "pt_" + "A" * 43}
    await backend.stranger().post(
        "/auth/two-step/reset", body, expect=400, code="password_token_expired"
    )
    body = {"password_token": anna.access_token}
    await backend.stranger().post("/auth/two-step/reset", body, expect=400)
    assert (await anna.get("/auth/two-step"))["reset"] is None
    assert await session_id_of(anna)
