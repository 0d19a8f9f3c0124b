"""Access attacked from outside: second doors, foreign ids, lost rights, hidden fields (group C).

The matrix beside asks every route as everybody; here is what takes more than one request. Further
tests of this group: `tests/features/chats/test_members.py` (C7: nobody grants what they lack),
`tests/features/messages/test_editing.py` and `test_deleting.py` (C4),
`tests/features/messages/test_forwarding.py` (C3), `tests/features/gateway/test_resume.py` (C2).
"""

import json
import re
import secrets
from collections.abc import Sequence

import pytest

from tests.support.people import API, Backend, Json, Person, new_id
from tests.support.sockets import Socket
from tests.support.world import make_world

pytestmark = pytest.mark.anyio

NEVER = 2**53 - 2


def members(chat: Json) -> str:
    return f"/chats/{chat['id']}/members"


async def look_through_every_door(
    spy: Person, chat: Json, message: Json, earlier: Sequence[Socket] = ()
) -> str:
    """All that the spy is shown, refusals included, by every door that could lead to the message."""
    place, post = f"/chats/{chat['id']}", f"/messages/{message['id']}"
    history = f"/messages/chat/{chat['id']}"
    socket = await spy.connect()
    state = {f"chat:{chat['id']}": 0, "user": 0}
    difference = {"epoch": socket.hello["epoch"], "state": state}
    saved = await spy.private_chat(spy)
    forward = {"chat_id": chat["id"], "message_ids": [message["id"]]}
    near = {"around": message["id"]}
    answers = [
        await spy.call("GET", "/chats/", query={"limit": 100}),
        await spy.call("GET", "/chats/", query={"archived": True}),
        await spy.call("GET", place),
        await spy.call("GET", f"{place}/members"),
        await spy.call("GET", history),
        await spy.call("GET", history, query=near),
        await spy.call("GET", history, query={"before": NEVER}),
        await spy.call("GET", post),
        await spy.call("PUT", post, {"text": "x"}),
        await spy.call("POST", "/updates/difference", difference),
        await spy.call("POST", "/messages/", {"chat_id": saved["id"], "forward_from": forward}),
        await spy.call(
            "POST",
            "/messages/",
            {"chat_id": saved["id"], "text": "x", "reply_to_message_id": message["id"]},
        ),
        await spy.call(
            "POST",
            "/messages/",
            {"chat_id": chat["id"], "text": "x", "reply_to_message_id": message["id"]},
        ),
        await spy.call("GET", f"/messages/chat/{saved['id']}"),
        await spy.call("GET", "/users/search", query={"q": message["text"]}),
    ]
    await socket.send_frame("resume", difference)
    await socket.expect("resumed")
    for frame in ("read", "typing"):
        data = {"chat_id": chat["id"], "message_id": message["id"]}
        await socket.send_frame(frame, data if frame == "read" else {"chat_id": chat["id"]}, "r")
        await socket.settle()
    of_chat = await spy.connect(token=spy.access_token, chat_id=chat["id"], hello=False)
    frames = [*socket.frames, *of_chat.frames, *(f for one in earlier for f in one.frames)]
    return "\n".join(answer.text for answer in answers) + json.dumps(frames)


@pytest.mark.parametrize("who", ["stranger", "left", "removed", "banned", "newcomer"])
async def test_no_door_shows_what_was_said_to_others(backend: Backend, who: str) -> None:
    """C2, C6: the words are nowhere in what the spy gets, also for whoever was in the chat before."""
    anna, bruno, spy = await backend.people(3)
    inside = [bruno] if who in {"stranger", "newcomer"} else [bruno, spy]
    group = await anna.group("Group", inside)
    earlier = await spy.connect()
    if who == "left":
        await spy.post(f"/chats/{group['id']}/leave")
    if who == "removed":
        await anna.delete(f"{members(group)}/{spy.id}")
    if who == "banned":
        await anna.put(f"{members(group)}/{spy.id}", {"role": "banned"})
    word = f"secret{secrets.token_hex(8)}"
    message = await anna.say(group, word)
    await bruno.say(group, "an answer", reply_to_message_id=message["id"])
    if who == "newcomer":
        await anna.post(f"{members(group)}", {"user_ids": [spy.id]}, expect=201)
        # An old message that changes, or is answered, now.
        await anna.put(f"/messages/{message['id']}", {"text": word + " edited"})
        await bruno.say(group, "another answer", reply_to_message_id=message["id"])
        await earlier.follow(group)
        last = await anna.say(group, "last")
        await earlier.expect_message(last["id"])
    seen = await look_through_every_door(spy, group, message, [earlier])
    # What the spy has asked for by words is his own.
    assert word not in seen.replace(f"q={word}", "")
    assert (await bruno.get(f"/messages/{message['id']}"))["text"].startswith(word)


async def test_the_same_doors_show_it_to_a_member(backend: Backend) -> None:
    """That the walk above finds what there is to find."""
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    word = f"secret{secrets.token_hex(8)}"
    message = await anna.say(group, word)
    assert (await look_through_every_door(bruno, group, message)).count(word) >= 8


async def test_a_mention_of_a_stranger_is_as_one_of_nobody(backend: Backend) -> None:
    """C3: neither sending nor editing tells whether a user id exists."""
    anna, bruno, eve = await backend.people(3)
    group = await anna.group("Group", [bruno])
    message = await anna.say(group, "hello")
    answers: list[list[bytes]] = []
    for user_id in (eve.id, 999_999_999_999):
        mention = [{"type": "text_mention", "offset": 0, "length": 5, "user_id": user_id}]
        body = {"text": "hello", "entities": mention}
        sent = await anna.call("POST", "/messages/", {**body, "chat_id": group["id"]})
        edited = await anna.call("PUT", f"/messages/{message['id']}", body)
        assert (sent.status_code, edited.status_code) == (404, 404)
        answers.append([sent.content, edited.content])
    assert answers[0] == answers[1]


async def test_a_message_from_before_my_time_is_as_one_that_never_was(backend: Backend) -> None:
    """C3, C6: reply, forward, read, edit, delete, get."""
    anna, newcomer = await backend.people(2)
    group = await anna.group("Group")
    old = await anna.say(group, "old")
    await anna.post(members(group), {"user_ids": [newcomer.id]}, expect=201)
    saved = await newcomer.private_chat(newcomer)
    answers: list[list[tuple[int, bytes]]] = []
    for message_id in (old["id"], NEVER):
        source = {"chat_id": group["id"], "message_ids": [message_id]}
        reply = {"chat_id": group["id"], "text": "x", "reply_to_message_id": message_id}
        path = f"/messages/{message_id}"
        calls: list[tuple[str, str, object]] = [
            ("POST", "/messages/", reply),
            ("POST", "/messages/", {"chat_id": saved["id"], "forward_from": source}),
            ("POST", f"/chats/{group['id']}/read", {"message_id": message_id}),
            ("GET", path, None),
            ("PUT", path, {"text": "x"}),
            ("DELETE", path, None),
            ("DELETE", path + "?for_everyone=true", None),
        ]
        got = [await newcomer.call(method, path, body) for method, path, body in calls]
        assert {answer.status_code for answer in got} == {404}
        answers.append([(answer.status_code, answer.content) for answer in got])
    assert answers[0] == answers[1]


async def test_lost_rights_are_gone_on_a_socket_that_is_open(backend: Backend) -> None:
    """C5, E3: no frame of the socket is judged by what its owner was when it was opened."""
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    socket = await bruno.connect()
    body = {"chat_id": group["id"], "text": "x"}
    await socket.request("send_message", body)
    member = f"{members(group)}/{bruno.id}"
    await anna.put(member, {"role": "restricted", "permissions": []}, expect=200)
    await socket.refused("send_message", body, "not_allowed")
    await socket.refused("typing", {"chat_id": group["id"], "action": "typing"}, "not_allowed")
    await anna.put(member, {"role": "banned"}, expect=200)
    await socket.refused("send_message", body, "chat_not_found")
    await socket.refused("read", {"chat_id": group["id"], "message_id": 1}, "chat_not_found")


async def test_no_frame_comes_after_the_number_of_the_removal(backend: Backend) -> None:
    """C5: what is told after the removal's `seq` reaches no socket of the removed."""
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    scope = f"chat:{group['id']}"
    sockets = [await bruno.connect() for _ in range(4)]
    await anna.say(group, "before")
    await anna.delete(f"{members(group)}/{bruno.id}", expect=204)
    for number in range(5):
        await anna.say(group, f"after {number}")
    elsewhere = await anna.private_chat(bruno)
    for socket in sockets:
        await socket.follow(elsewhere)
    marker = await anna.say(elsewhere, "marker")
    for socket in sockets:
        removed = await socket.expect("chat_removed", {"chat_id": group["id"]}, scope="user")
        await socket.expect_message(marker["id"])
        last = removed["data"]["seq"]
        assert all(seq <= last for seq in socket.seqs(scope)), (last, socket.seqs(scope))


HIDDEN = (
    "id",
    "owner_id",
    "user_id",
    "sender",
    "sender_id",
    "role",
    "is_admin",
    "created_at",
    "edited_at",
    "seq",
    "members_count",
    "deleted_at",
    "session_id",
    "phone_verified",
)


async def test_no_request_sets_what_is_not_its_own(backend: Backend) -> None:
    """C8: every body of the document with one more member is refused, whatever the member's name."""
    world = await make_world(backend)
    taken: list[str] = []
    for operation in backend.deployment.openapi.operations:
        name = f"{operation.method.upper()} {operation.path.removeprefix(API)}"
        good = world.body(name)
        if not operation.takes_json or not isinstance(good, dict):
            continue
        path = operation.path.removeprefix(API)
        for part in [part for part in path.split("/") if part.startswith("{")]:
            path = path.replace(part, str(world.path_value(name, part.strip("{}"))))
        for field in HIDDEN:
            if field in good:
                continue
            answer = await world.anna.call(
                operation.method.upper(), path, {**good, field: 1}, query=world.query(name)
            )
            if answer.status_code != 422:
                taken.append(f"{name} took {field}: {answer.status_code}")
    assert taken == []


async def test_answers_have_the_same_members_for_every_role(backend: Backend) -> None:
    """C8: what only some may see is absent or null as documented, and nothing else differs."""
    anna, admin, bruno, eve = await backend.people(4)
    name = "open_" + secrets.token_hex(6)
    group = await anna.group("Group", [admin, bruno], username=name)
    rights = {"role": "admin", "permissions": ["ban_members", "invite_users", "delete_messages"]}
    await anna.put(f"{members(group)}/{admin.id}", rights, expect=200)
    message = await anna.say(group, "hello")
    insiders = [anna, admin, bruno]
    chats = [await person.chat(group) for person in insiders]
    assert len({frozenset(chat) for chat in chats}) == 1
    outside = await eve.get("/chats/resolve", username=name)
    assert set(outside) == set(chats[0])
    assert outside["my"] is None
    assert outside["last_message"] is None
    assert (outside["unread_count"], outside["others_read_message_id"]) == (0, 0)
    for person in insiders:
        assert await person.get(f"/messages/{message['id']}") == message
    lists = [await person.walk(members(group)) for person in insiders]
    assert lists[0] == lists[1] == lists[2]
    known = {"id", "first_name", "last_name", "username", "is_deleted", "photo"}
    assert all(set(item["user"]) == known for item in lists[0])


async def test_a_profile_has_no_member_that_only_its_owner_may_read(backend: Backend) -> None:
    """C8, H2: a stranger reads what is documented for all, and of the phone not even the name."""
    anna, eve = await backend.people(2)
    mine, theirs = await anna.get("/users/me"), await eve.get(f"/users/{anna.id}")
    assert set(theirs) == {
        *{"id", "username", "first_name", "last_name", "bio", "photo", "presence"},
        *{"is_contact", "is_blocked"},
    }
    assert {"phone", "language", "created_at"} <= set(mine) - set(theirs)


async def test_unknown_verbs_are_405_on_every_route(backend: Backend) -> None:
    """C10: each route knows its documented methods and no others, and says which."""
    anna = await backend.sign_up()
    documented: dict[str, set[str]] = {}
    for operation in backend.deployment.openapi.operations:
        documented.setdefault(operation.path, set()).add(operation.method.upper())
    wrong: list[str] = []
    for template, known in documented.items():
        path = template.replace("{code}", "x" * 32)
        path = re.sub(r"\{\w+\}", str(NEVER), path)
        siblings = {
            method for other, ms in documented.items() if fits(other, path) for method in ms
        }
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"} - siblings:
            answer = await anna.client.request(
                method, path, headers={"Authorization": f"Bearer {anna.access_token}"}
            )
            allowed = {it.strip() for it in answer.headers.get("allow", "").split(",")}
            if answer.status_code != 405 or not known <= allowed:
                wrong.append(f"{method} {template} -> {answer.status_code} allow {sorted(allowed)}")
    assert wrong == []


def fits(template: str, path: str) -> bool:
    """Whether a path is also one of another template, as /users/me is one of /users/{user_id}."""
    parts, given = template.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part == it or part.startswith("{") for part, it in zip(parts, given, strict=True)
    )


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/api/v1/admin",
        "/api/v1/admin/users",
        "/api/v1/audit",
        "/api/v1/users",
        "/api/v1/users/1/sessions",
        "/api/v1/keys",
        "/api/v1/internal",
        "/api/v2/users/me",
        "/debug",
        "/console",
        "/.git/HEAD",
        "/.env",
        "/var/secret_key",
        "/docs/../var/master_key",
        "/docs/assets/../../app/settings.py",
        "/docs/assets/%2e%2e/%2e%2e/pyproject.toml",
        "/docs/assets/..%2f..%2fpyproject.toml",
        "//etc/passwd",
        "/server-status",
        "/actuator/env",
    ],
)
async def test_what_operators_do_is_not_on_the_network(backend: Backend, path: str) -> None:
    """C10: the administration is a command on the machine; nothing of it answers here."""
    anna = await backend.sign_up()
    head = {"Authorization": f"Bearer {anna.access_token}"}
    for headers in ({}, head):
        for method in ("GET", "POST"):
            answer = await anna.client.request(method, path, headers=headers)
            assert answer.status_code in {404, 405}, f"{method} {path} -> {answer.status_code}"


async def test_an_invite_code_of_one_chat_is_none_of_another(backend: Backend) -> None:
    """C1, C3: the owner of one group cannot see or end the links of another."""
    anna, eve = await backend.people(2)
    mine, theirs = await anna.group("Mine"), await eve.group("Theirs")
    invite = await anna.post(f"/chats/{mine['id']}/invites", {}, expect=201)
    got = [
        await eve.call("DELETE", f"/chats/{theirs['id']}/invites/{code}")
        for code in (invite["code"], "x" * len(invite["code"]))
    ]
    assert [answer.status_code for answer in got] == [404, 404]
    assert got[0].content == got[1].content
    await eve.get(f"/invites/{invite['code']}", expect=200)


async def test_calls_are_for_the_two_and_for_no_other_device(backend: Backend) -> None:
    """C9: whoever is not in the chat neither rings nor hears it ring, and cannot tell if it exists."""
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    caller, callee, spy = [await person.connect() for person in (anna, bruno, eve)]
    call = {"call_id": new_id(), "kind": "audio", "action": "offer", "sdp": "v=0"}
    refusals = [
        await spy.refused("call", {**call, "chat_id": chat_id}, "chat_not_found")
        for chat_id in (chat["id"], NEVER)
    ]
    assert refusals[0] == refusals[1]
    await caller.request("call", {**call, "chat_id": chat["id"]})
    await callee.expect("call", {"call_id": call["call_id"]})
    elsewhere = await anna.private_chat(eve)
    await spy.follow(elsewhere)
    marker = await anna.say(elsewhere, "marker")
    await spy.expect_message(marker["id"])
    assert spy.seen("call") == []
    await callee.settle()
    assert len(callee.seen("call")) == 1
