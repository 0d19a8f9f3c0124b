"""What happened stands in the record: who, when, where, once; and the record tells if it was touched."""

import asyncio
import json
import re
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import BACKENDS
from tests.support.audit import logged_events, read_events, run_admin, wait_for_log
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Person
from tests.support.rows import change_rows, read_values
from tests.support.servers import LAUNCHER, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
ADDRESS = "203.0.113.55"
FROM = {"X-Forwarded-For": ADDRESS}


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    """A server whose record a test may spoil."""
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "METRICS_ALLOWED": "127.0.0.0/8"}
    with lone_server(request, directory, settings) as made:
        yield made


async def verify(backend: Backend, *words: str) -> subprocess.CompletedProcess[str]:
    return await run_admin(backend.deployment, "audit", "verify", *words)


async def wait_until_chained(backend: Backend) -> None:
    queued = "SELECT count(*) FROM audit_events WHERE seq IS NULL"

    async def is_empty() -> bool:
        return await read_values(backend.deployment, queued) == [0]

    await eventually(is_empty, what="an empty queue")


async def test_each_thing_is_one_event_with_who_when_and_where(backend: Backend) -> None:
    marker = f"m-{secrets.token_hex(6)}"
    anna, bruno = await backend.people(2)
    other = await backend.sign_in(anna.phone, device_name=marker)
    group = await bruno.group("Secret")
    await anna.get(f"/chats/{group['id']}", expect=404)
    chat = await anna.private_chat(bruno)
    await bruno.put(f"/users/blocked/{anna.id}")
    body = {"chat_id": chat["id"], "text": "Hi"}
    refused = await anna.call("POST", "/messages/", body, headers=FROM)
    assert refused.status_code == 403
    forged = FROM | {"Authorization": "Bearer forged"}
    await backend.stranger().call("GET", "/users/me", headers=forged)
    await anna.delete(f"/auth/sessions/{await session_of(other)}")
    await anna.connect(token="nonsense", hello=False)
    await wait_for_log(backend.deployment, "session_ended")
    await wait_for_log(backend.deployment, "token_refused", count=2)
    await wait_for_log(backend.deployment, "permission_refused")
    events = await read_events(backend.deployment)
    signed_in = [event for event in events if event["name"] == "signed_in"]
    assert [event["user_id"] for event in signed_in] == [anna.id, bruno.id, anna.id]
    assert signed_in[2]["personal"]["device_name"] == marker
    assert signed_in[2]["personal"]["address"] == "127.0.0.1"
    (denied,) = [event for event in events if event["name"] == "permission_refused"]
    assert denied["user_id"] == anna.id
    assert denied["details"] == {
        "code": "not_allowed",
        "method": "POST",
        "route": "/api/v1/messages/",
    }
    assert denied["request_id"] == refused.headers["x-request-id"]
    assert denied["personal"]["address"] == ADDRESS
    assert denied["session_id"] == await session_of(anna)
    (missing,) = [event for event in events if event["name"] == "not_found"]
    assert missing["personal"]["subjects"] == [f"chat_id:{group['id']}"]
    assert missing["details"]["route"] == "/api/v1/chats/{chat_id}"
    assert Counter(event["name"] for event in events)["session_ended"] == 1
    assert {"audit_search_personal"} == {
        event["details"]["act"] for event in events if event["name"] == "admin_act"
    }


async def session_of(person: Person) -> int:
    page = await person.get("/auth/sessions")
    return next(item["id"] for item in page["items"] if item["is_current"])


async def test_what_is_personal_is_shown_only_on_request_which_is_recorded(
    backend: Backend,
) -> None:
    marker = f"Laptop-{secrets.token_hex(6)}"
    await backend.sign_up(device_name=marker)
    for words in (("tail",), ("tail", "--json"), ("search", "--name", "signed_in")):
        done = await run_admin(backend.deployment, "audit", *words)
        assert "signed_in" in done.stdout
        assert "127.0.0.1" not in done.stdout
        assert marker not in done.stdout
    shown = await run_admin(backend.deployment, "audit", "tail", "--show-personal")
    assert marker in shown.stdout
    assert "127.0.0.1" in shown.stdout
    told = await run_admin(backend.deployment, "audit", "search", "--name", "admin_act")
    assert "audit_tail_personal" in told.stdout


async def test_nothing_that_a_caller_sends_forges_a_line_or_drives_a_terminal(
    backend: Backend,
) -> None:
    nasty = "Phone\u001b[2J\u202e\u2028\u009b2J\x7f"
    head = {"X-Request-ID": "x y=z level=error", "User-Agent": "a b"}
    anna = await backend.sign_up()
    code = await backend.ask_code(anna.phone)
    body = {"verification_id": code[0], "code": code[1], "device_name": nasty}
    await backend.stranger().call("POST", "/auth/verify-code", body, headers=head)
    for words in (("--show-personal",), ("--show-personal", "--json")):
        done = await run_admin(backend.deployment, "audit", "tail", *words)
        assert done.stdout.isascii()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    log = backend.deployment.nodes[0].log()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", log)


DAMAGES = (
    ("UPDATE audit_events SET name = 'nothing' WHERE seq = 2", "was changed"),
    ("UPDATE audit_events SET user_id = 1 WHERE seq = 2", "was changed"),
    ("UPDATE audit_events SET at = at + 1 WHERE seq = 2", "was changed"),
    ("UPDATE audit_events SET count = 7 WHERE seq = 2", "was changed"),
    ("UPDATE audit_events SET details = '{}' WHERE seq = 2", "was changed"),
    ("UPDATE audit_events SET personal = NULL WHERE seq = 2", "was changed"),
    ("DELETE FROM audit_events WHERE seq = 2", "missing"),
    ("DELETE FROM audit_events WHERE seq <= 2", "missing"),
    ("DELETE FROM audit_events WHERE seq > 3", "cut off"),
    ("UPDATE audit_events SET seq = 1000 WHERE seq = 2", "missing"),
    ("UPDATE audit_events SET mac = NULL WHERE seq = 2", "was changed"),
    (
        (
            "INSERT INTO audit_events (seq, hash, name, at, count, details)"
            " SELECT seq + 1, hash, name, at, count, details FROM audit_events"
            " ORDER BY seq DESC LIMIT 1"
        ),
        "put in from outside",
    ),
)
# Without a place in the chain, as a server queues its own.
FORGED = "INSERT INTO audit_events (name, at, count, details) VALUES ('admin_act', 1, 1, '{}')"


async def test_an_edit_a_deletion_and_a_cut_tail_are_found(backend: Backend) -> None:
    await backend.people(3)
    await wait_until_chained(backend)
    await change_rows(backend.deployment, "CREATE TABLE kept AS SELECT * FROM audit_events")
    assert (await verify(backend)).returncode == 0
    for damage, fault in DAMAGES:
        assert await change_rows(backend.deployment, damage) > 0, damage
        done = await verify(backend)
        assert done.returncode == 1, damage
        assert fault in done.stderr, damage
        assert "NOT WHOLE" in done.stdout
        await change_rows(backend.deployment, "DELETE FROM audit_events")
        await change_rows(backend.deployment, "INSERT INTO audit_events SELECT * FROM kept")
    assert (await verify(backend)).returncode == 0, "all is as it was"


@pytest.mark.parametrize(
    "forged",
    [
        FORGED,
        # With the proof of another row.
        (
            "INSERT INTO audit_events (name, at, count, details, mac)"
            " SELECT name, at, count, details, mac FROM audit_events WHERE seq = 2"
        ),
    ],
)
async def test_an_event_that_no_server_wrote_is_told_at_once_and_found(
    backend: Backend, forged: str
) -> None:
    await backend.people(2)
    await wait_until_chained(backend)
    assert (await verify(backend)).returncode == 0
    assert await change_rows(backend.deployment, forged) == 1
    (alert,) = await wait_for_log(backend.deployment, "alert_forged_event")
    assert (alert["level"], alert["rows"]) == ("warning", 1)
    await wait_until_chained(backend)
    done = await verify(backend)
    assert done.returncode == 1
    assert "was written by none of our servers" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "and nothing else is wrong"


@pytest.mark.parametrize("damage", ["DELETE FROM audit_events WHERE seq = 2", DAMAGES[0][0]])
async def test_going_on_after_it_hides_nothing(backend: Backend, damage: str) -> None:
    await backend.people(2)
    await wait_until_chained(backend)
    await change_rows(backend.deployment, damage)
    await backend.sign_up()
    await wait_until_chained(backend)
    assert (await verify(backend)).returncode == 1


async def test_a_head_that_is_kept_elsewhere_finds_a_chain_that_was_cut_with_all_traces(
    backend: Backend,
) -> None:
    await backend.people(2)
    await wait_until_chained(backend)
    head = json.loads((await verify(backend, "--json")).stdout)["head"]
    (early,) = await read_values(backend.deployment, "SELECT hash FROM audit_events WHERE seq = 2")
    assert isinstance(early, bytes)
    await backend.sign_up()
    await wait_until_chained(backend)
    for kept in (head, head.partition(":")[2], early.hex()):
        assert (await verify(backend, "--head", kept)).returncode == 0
    for wrong in ("1" * 64, "x", f"9:{early.hex()}"):
        assert (await verify(backend, "--head", wrong)).returncode == 1
    await change_rows(backend.deployment, "DELETE FROM audit_events WHERE seq > 2")
    cut = f"UPDATE server_state SET value = '2:{early.hex()}' WHERE name = 'audit_head'"
    await change_rows(backend.deployment, cut)
    assert (await verify(backend)).returncode == 0, "from inside nothing can be seen"
    done = await verify(backend, "--head", head)
    assert done.returncode == 1
    assert "not in this chain" in done.stderr


async def test_the_chain_stays_whole_when_a_person_is_forgotten(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    await wait_until_chained(backend)
    await change_rows(backend.deployment, f"DELETE FROM keys WHERE id = 'user:{anna.id}'")
    assert (await verify(backend)).returncode == 0
    events = {
        event["user_id"]: event
        for event in await read_events(backend.deployment, "--name", "signed_in")
    }
    assert events[anna.id]["personal"] == {}
    assert events[bruno.id]["personal"]["address"] == "127.0.0.1"


async def test_a_flood_is_a_few_rows_that_count_everything(backend: Backend) -> None:
    head = FROM | {"Authorization": "Bearer forged"}
    stranger = backend.stranger()

    async def flood() -> None:
        for _ in range(50):
            await stranger.call("GET", "/users/me", headers=head)

    await asyncio.gather(*(flood() for _ in range(8)))
    # What waits for its minute is written and chained when the server stops, and the head told.
    for node in backend.deployment.nodes:
        node.stop()
    queued = "SELECT count(*) FROM audit_events WHERE seq IS NULL"
    assert await read_values(backend.deployment, queued) == [0]
    newest = await read_values(backend.deployment, "SELECT max(seq) FROM audit_events")
    head = logged_events(backend.deployment, "audit_head")[-1]["head"]
    assert head.partition(":")[0] == str(newest[0])
    for node in backend.deployment.nodes:
        node.start(LAUNCHER)
    assert logged_events(backend.deployment, "audit_head")[-1]["head"] == head
    rows = await read_events(backend.deployment, "--name", "token_refused")
    assert sum(event["count"] for event in rows) == 400
    assert len(rows) <= 8
    assert (await verify(backend, "--head", head)).returncode == 0


async def test_a_report_counts_by_name(backend: Backend) -> None:
    await backend.people(2)
    report = await run_admin(backend.deployment, "audit", "report", "--json")
    assert json.loads(report.stdout)["totals"]["signed_in"] == 2


async def test_metrics_count_each_class_for_those_who_may_know(backend: Backend) -> None:
    await backend.people(2)
    await wait_until_chained(backend)
    client = backend.stranger().client
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert 'messenger_security_events_total{name="signed_in"} 2.0' in answer.text
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Proto"):
        refused = await client.get("/metrics", headers={name: "127.0.0.1"})
        unknown = await client.get("/no-metrics", headers={name: "127.0.0.1"})
        assert refused.status_code == 404
        assert refused.content == unknown.content


@pytest.mark.parametrize("allowed", ["", "192.0.2.0/24"])
def test_metrics_are_closed_to_others(directory: Path, allowed: str) -> None:
    with Server(directory, {"METRICS_ALLOWED": allowed}) as server:
        answer = httpx.get(f"{server.base_url}/metrics", trust_env=False)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
