"""Each thing that matters to security is one event of the record, with who, when and from where (K3).

Every name that the source can record is brought about from outside, or stands in ELSEWHERE.
"""

import ast
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyotp.totp import TOTP

from app.transport.http.refusals import _NAMES as REFUSALS
from tests.architecture.source import APP, list_modules
from tests.conftest import BACKENDS
from tests.security.browser import EVIL, Browser
from tests.security.test_second_factor import (
    DAY,
    PASSWORD,
    password_token,
    with_password,
)
from tests.support.audit import read_events, wait_for_log
from tests.support.clamd import EICAR, ClamdServer
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Person
from tests.support.ports import free_port
from tests.support.rows import change_rows
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END

pytestmark = pytest.mark.anyio

ADDRESS = "198.51.100.77"
FROM = {"X-Forwarded-For": ADDRESS}
SEARCHES = 3
SETTINGS = {
    "TRUSTED_PROXIES": "127.0.0.1",
    "RATE_LIMIT_SEARCH": str(SEARCHES),
    "SMS_LIMIT_PER_PHONE": "4",
}
Act = Callable[[Backend], Awaitable[int | None]]


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        ClamdServer(free_port()) as clamd,
        lone_server(request, Path(directory), SETTINGS | {"CLAMD_ADDRESS": clamd.address}) as made,
    ):
        yield made


# Each act comes from ADDRESS and answers whose doing it is, None for nobody's.


async def send(person: Person, method: str, path: str, body: object = None) -> int:
    answer = await person.call(method, path, body, headers=FROM)
    return answer.status_code


async def ask_for_code(backend: Backend) -> None:
    phone = backend.deployment.next_phone()
    assert (
        await send(backend.stranger(), "POST", "/auth/send-verification", {"phone": phone}) == 200
    )


async def ask_too_often(backend: Backend) -> None:
    body = {"phone": backend.deployment.next_phone()}
    stranger = backend.stranger()
    asked = [await send(stranger, "POST", "/auth/send-verification", body) for _ in range(5)]
    assert asked == [200] * 4 + [429]


async def guess_code(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": wrong(code)}
    assert await send(backend.stranger(), "POST", "/auth/verify-code", body) == 400


async def sign_up(backend: Backend) -> int:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": code}
    answer = await backend.stranger().call("POST", "/auth/verify-code", body, headers=FROM)
    return answer.json()["user"]["id"]


async def come_without_token(backend: Backend) -> None:
    assert await send(backend.stranger(), "GET", "/users/me") == 401


async def forge_token(backend: Backend) -> None:
    head = FROM | {"Authorization": "Bearer forged"}
    assert (await backend.stranger().call("GET", "/users/me", headers=head)).status_code == 401


async def write_where_blocked(backend: Backend) -> int:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await bruno.put(f"/users/blocked/{anna.id}")
    assert await send(anna, "POST", "/messages/", {"chat_id": chat["id"], "text": "Hi"}) == 403
    return anna.id


async def ask_for_strange_id(backend: Backend) -> int:
    anna = await backend.sign_up()
    assert await send(anna, "GET", "/messages/1000000") == 404
    return anna.id


async def ask_for_strange_route(backend: Backend) -> None:
    assert await send(backend.stranger(), "GET", "/nothing/here") == 404


async def search_too_often(backend: Backend) -> int:
    anna = await backend.sign_up()
    found = [await send(anna, "GET", "/users/search?q=nobody") for _ in range(SEARCHES + 1)]
    assert found[-1] == 429
    return anna.id


async def probe(backend: Backend) -> None:
    assert await send(backend.stranger(), "GET", "/..%2f..%2fetc/passwd") == 404


async def call_from_foreign_page(backend: Backend) -> None:
    browser = Browser(backend)
    await browser.sign_in(backend.deployment.next_phone())
    answer = await browser.call("POST", "/chats/", {}, origin=EVIL, headers=FROM)
    assert answer.status_code == 403


async def call_without_csrf_token(backend: Backend) -> None:
    browser = Browser(backend)
    await browser.sign_in(backend.deployment.next_phone())
    answer = await browser.call("POST", "/chats/", {}, csrf=None, headers=FROM)
    assert answer.status_code == 403


async def replay_refresh_token(backend: Backend) -> int:
    anna = await backend.sign_up()
    first = {"refresh_token": anna.tokens["refresh_token"]}
    second = await anna.post("/auth/refresh-token", first)
    await anna.post("/auth/refresh-token", {"refresh_token": second["refresh_token"]})
    assert await send(backend.stranger(), "POST", "/auth/refresh-token", first) == 401
    return anna.id


async def log_out(backend: Backend) -> int:
    anna = await backend.sign_up()
    assert await send(anna, "POST", "/auth/logout") == 204
    return anna.id


async def set_password(backend: Backend) -> int:
    anna = await backend.sign_up()
    assert await send(anna, "PUT", "/auth/two-step", {"password": PASSWORD}) == 200
    return anna.id


async def change_password(backend: Backend) -> int:
    anna = await with_password(backend)
    assert await send(anna, "PUT", "/auth/two-step", {"password": "another fine horse"}) == 200
    return anna.id


async def remove_factor(backend: Backend) -> int:
    anna = await with_password(backend)
    assert await send(anna, "DELETE", "/auth/two-step") == 204
    return anna.id


async def begin_with_factor(backend: Backend) -> int:
    anna = await with_password(backend)
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    assert await send(backend.stranger(), "POST", "/auth/verify-code", body) == 200
    return anna.id


async def guess_password(backend: Backend) -> int:
    anna = await with_password(backend)
    body = {"password_token": await password_token(backend, anna), "password": "a wrong horse"}
    assert await send(backend.stranger(), "POST", "/auth/verify-password", body) == 400
    return anna.id


async def make_recovery_codes(backend: Backend) -> int:
    anna = await backend.sign_up()
    totp = TOTP((await anna.post("/auth/two-step/totp", expect=201))["secret"])
    await anna.put("/auth/two-step", {"totp": totp.now()}, expect=200)
    assert await send(anna, "POST", "/auth/two-step/recovery-codes") == 201
    return anna.id


async def confirm(backend: Backend) -> int:
    anna = await with_password(backend)
    assert await send(anna, "POST", "/auth/confirm", {"password": PASSWORD}) == 200
    return anna.id


async def confirm_wrongly(backend: Backend) -> int:
    anna = await backend.sign_up()
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": wrong(code)}
    assert await send(anna, "POST", "/auth/confirm", body) == 400
    return anna.id


async def ask_for_reset(backend: Backend) -> int:
    anna = await with_password(backend)
    body = {"password_token": await password_token(backend, anna)}
    assert await send(backend.stranger(), "POST", "/auth/two-step/reset", body) == 200
    return anna.id


async def cancel_reset(backend: Backend) -> int:
    anna = await with_password(backend)
    body = {"password_token": await password_token(backend, anna)}
    await backend.stranger().post("/auth/two-step/reset", body, expect=200)
    assert await send(anna, "DELETE", "/auth/two-step/reset") == 204
    return anna.id


async def reset(backend: Backend) -> int:
    anna = await with_password(backend)
    body = {"password_token": await password_token(backend, anna)}
    await backend.stranger().post("/auth/two-step/reset", body, expect=200)
    past = 8 * DAY
    await change_rows(
        backend.deployment,
        f"UPDATE second_factors SET reset_asked_at = reset_asked_at - {past},"
        f" reset_at = reset_at - {past} WHERE user_id = {anna.id}",
    )
    body = {"password_token": await password_token(backend, anna)}
    assert await send(backend.stranger(), "POST", "/auth/two-step/reset", body) == 200
    return anna.id


async def import_contacts(backend: Backend) -> int:
    anna = await backend.sign_up()
    contact = {"phone": backend.deployment.next_phone(), "first_name": "N"}
    assert await send(anna, "POST", "/users/contacts", {"contacts": [contact]}) == 200
    return anna.id


async def export(backend: Backend) -> int:
    anna = await backend.sign_up()
    assert await send(anna, "GET", "/users/me/export") == 200
    return anna.id


async def upload_malware(backend: Backend) -> int:
    anna = await backend.sign_up()
    head = FROM | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = FILE_HEAD + EICAR + FORM_END
    answer = await anna.call("POST", "/files/upload", content=body, headers=head)
    assert answer.status_code == 422
    return anna.id


async def delete(backend: Backend) -> int:
    anna = await backend.sign_up()
    assert await send(anna, "DELETE", "/users/me") == 204
    return anna.id


async def delete_chat(backend: Backend) -> int:
    anna = await backend.sign_up()
    chat = await anna.group("Group")
    assert await send(anna, "DELETE", f"/chats/{chat['id']}") == 204
    return anna.id


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06d}"


ACTS: dict[str, Act] = {
    "sign_in_code_asked": ask_for_code,
    "sign_in_code_limited": ask_too_often,
    "sign_in_refused": guess_code,
    "signed_in": sign_up,
    "sign_in_missing": come_without_token,
    "token_refused": forge_token,
    "permission_refused": write_where_blocked,
    "not_found": ask_for_strange_id,
    "unknown_route": ask_for_strange_route,
    "rate_limited": search_too_often,
    "probe_seen": probe,
    "origin_refused": call_from_foreign_page,
    "csrf_refused": call_without_csrf_token,
    "refresh_token_replayed": replay_refresh_token,
    "session_ended": log_out,
    "second_factor_set": set_password,
    "second_factor_changed": change_password,
    "second_factor_removed": remove_factor,
    "second_factor_asked": begin_with_factor,
    "second_factor_refused": guess_password,
    "recovery_codes_made": make_recovery_codes,
    "session_confirmed": confirm,
    "confirmation_refused": confirm_wrongly,
    "second_factor_reset_requested": ask_for_reset,
    "second_factor_reset_cancelled": cancel_reset,
    "second_factor_reset": reset,
    "contacts_imported": import_contacts,
    "malware_found": upload_malware,
    "account_exported": export,
    "account_deleted": delete,
    "chat_deleted": delete_chat,
}
# What stands where a name would: each of these is one of the names of `ACTS` and `ELSEWHERE`.
COMPUTED = {"f'second_factor_{change}'", "event", "name", "alert.name", "PRUNED"}
ELSEWHERE = {
    "alert_forged_event": "tests/security/test_audit.py",
    "admin_act": "tests/security/test_operators_sessions.py",
    "audit_events_dropped": "tests/unit/features/audit/test_record.py",
    "audit_pruned": "tests/unit/features/audit/test_record.py",
    "ciphertext_invalid": "tests/security/test_sealed_columns.py",
    "sign_in_budget_spent": "tests/features/auth/test_limits.py",
    "token_expired": "tests/security/test_flooded_record.py",
}


def test_every_name_that_the_source_records_is_brought_about() -> None:
    computed: set[str] = set()
    recorded = {*REFUSALS.values(), "unknown_route", "sign_in_missing", "token_expired"}
    for module in list_modules(APP):
        constants = {
            target.id: node.value.value
            for node in module.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "SecurityEvent":
                match node.args[0] if node.args else None:
                    case ast.Constant(value=name):
                        recorded.add(name)
                    case ast.Name(id=name) if name in constants:
                        recorded.add(constants[name])
                    case name:
                        computed.add("" if name is None else ast.unparse(name))
    assert computed == COMPUTED, "names that are put together hide from this test: write them down"
    assert recorded <= ACTS.keys() | ELSEWHERE.keys(), "write down how the new event comes about"
    assert ACTS.keys() & ELSEWHERE.keys() == set()


@pytest.mark.parametrize("name", ACTS)
async def test_each_act_is_one_event_with_who_when_and_where(backend: Backend, name: str) -> None:
    began = datetime.now(UTC) - timedelta(seconds=2)
    known = {event["id"] for event in await read_events(backend.deployment, "--name", name)}
    user_id = await ACTS[name](backend)
    about = {} if user_id is None else {"user_id": user_id}
    await wait_for_log(backend.deployment, name, **about)
    events = await read_events(backend.deployment, "--name", name)
    fresh = [it for it in events if it["name"] == name and it["id"] not in known]
    told = [it for it in fresh if user_id is None or it["user_id"] == user_id]
    assert told, f"{name} is in the log and not in the record"
    event = told[-1]
    assert datetime.fromisoformat(event["at"]) >= began
    assert event["request_id"]
    if name not in FORGOTTEN:
        assert event["personal"]["address"] == ADDRESS or name in SETUP_TOO, event
    assert (event["session_id"] is not None) == (name in OF_A_SESSION), event


# With the key of the person, in the same transaction, what it sealed is gone.
FORGOTTEN = {"account_deleted"}
# Also done by what prepares other acts, from the tests' own address: the newest need not be ours.
SETUP_TOO = {"signed_in", "sign_in_code_asked", "second_factor_asked", "session_ended"}
OF_A_SESSION = {
    "signed_in",
    "permission_refused",
    "not_found",
    "rate_limited",
    "csrf_refused",
    "refresh_token_replayed",
    "session_ended",
    "second_factor_set",
    "second_factor_changed",
    "second_factor_removed",
    "recovery_codes_made",
    "session_confirmed",
    "confirmation_refused",
    "second_factor_reset_cancelled",
    "contacts_imported",
    "malware_found",
    "account_exported",
    "account_deleted",
    "chat_deleted",
}
