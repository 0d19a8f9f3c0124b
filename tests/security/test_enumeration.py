"""What the server tells nobody: who has an account, who hides, who blocks, who is there (group H).

Further tests of this group: `tests/features/auth/test_sign_in.py` (known and unknown phones),
`tests/features/users/test_limits.py` (H1: the budget of numbers), `tests/features/presence`,
and `tests/faults/promises/test_sign_in_timing.py` (A6 and H4 by the clock; `make promises`).
H5, `no-store`, is asserted of every answer in `tests/support/people.py`.
"""

import secrets

import httpx
import pytest

from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio

# Differ between any two answers; of the counters, what is left.
_VARIABLE = {"x-request-id", "date", "ratelimit", "retry-after"}


def comparable(answer: httpx.Response) -> object:
    """All that a caller sees but what differs between any two answers; of that the names."""
    values = {name: text for name, text in answer.headers.items() if name not in _VARIABLE}
    return answer.status_code, sorted(answer.headers), values, answer.content


async def test_send_and_verify_are_the_same_for_known_and_unknown_phones(backend: Backend) -> None:
    """A6: status, headers and body, but for what is random or the phone itself."""
    known = (await backend.sign_up()).phone
    told: list[list[object]] = []
    for phone in (known, backend.deployment.next_phone()):
        stranger = backend.stranger()
        sent = await stranger.call("POST", "/auth/send-verification", {"phone": phone})
        body = sent.json()
        verification_id = body.pop("verification_id")
        assert body.pop("phone") == phone
        answers: list[object] = [(sent.status_code, sorted(sent.headers), body)]
        right = backend.deployment.codes(phone)[-1]
        wrong = f"{(int(right) + 1) % 1_000_000:06d}"
        for _ in range(6):
            guess = {"verification_id": verification_id, "code": wrong}
            answers.append(comparable(await stranger.call("POST", "/auth/verify-code", guess)))
        told.append(answers)
    assert told[0] == told[1]


async def test_a_hidden_number_is_searched_and_imported_like_an_absent_one(
    backend: Backend,
) -> None:
    """H1: two askers, one asks for somebody who hides, the other for nobody."""
    hermit, one, other = await backend.people(3)
    await hermit.put("/users/me/privacy", {"find_by_phone": "nobody"})
    told: list[list[object]] = []
    for asker, phone in ((one, hermit.phone), (other, backend.deployment.next_phone())):
        contacts = [{"phone": phone, "first_name": "X"}]
        told.append(
            [
                comparable(await asker.call("GET", "/users/search", query={"q": phone})),
                comparable(await asker.call("POST", "/users/contacts", {"contacts": contacts})),
                comparable(await asker.call("GET", "/users/contacts")),
            ]
        )
    assert told[0] == told[1]


async def test_a_block_does_not_show_in_any_search(backend: Backend) -> None:
    """H2: looking a number or a name up again must not tell that one was blocked."""
    anna, eve = await backend.people(2)
    name = "nn_" + secrets.token_hex(6)
    await anna.put("/users/me", {"username": name})
    before = [ids(await eve.get("/users/search", q=q)) for q in (anna.phone, name)]
    await anna.put(f"/users/blocked/{eve.id}")
    assert [ids(await eve.get("/users/search", q=q)) for q in (anna.phone, name)] == before
    assert before == [[anna.id], [anna.id]]


def ids(page: Json) -> list[int]:
    return [item["id"] for item in page["items"]]


async def test_who_is_blocked_sees_what_nobody_sees(backend: Backend) -> None:
    """H2: two people are online; one has blocked the viewer, the other shows nobody anything."""
    blocker, hermit, viewer = await backend.people(3)
    closed = {"phone": "nobody", "last_seen": "nobody", "photo": "nobody"}
    await hermit.put("/users/me/privacy", closed)
    # The blocker shows everyone everything, and keeps the viewer as a contact.
    await blocker.put("/users/me/privacy", dict.fromkeys(closed, "everyone"))
    contacts = [{"phone": viewer.phone, "first_name": "V"}]
    for person in (blocker, hermit):
        await person.post("/users/contacts", {"contacts": contacts})
        await person.put("/users/me", {"username": "hh_" + secrets.token_hex(6)})
    chats = [await viewer.private_chat(person) for person in (blocker, hermit)]
    group = await viewer.group("Group", [blocker, hermit])
    await blocker.put(f"/users/blocked/{viewer.id}")
    ear = await viewer.connect()
    for person in (blocker, hermit):
        await person.connect()
    marker = await viewer.say(group, "marker")
    await ear.expect_message(marker["id"])
    views = [
        await everything_about(viewer, person, chat, group)
        for person, chat in zip((blocker, hermit), chats, strict=True)
    ]
    assert views[0] == views[1]
    told = [frame for frame in ear.frames if frame["type"] in {"user_online", "user_offline"}]
    assert told == []


async def everything_about(viewer: Person, person: Person, chat: Json, group: Json) -> object:
    """Every view of a person that the viewer has, without what is theirs alone."""
    profile = await viewer.get(f"/users/{person.id}")
    found = await viewer.get("/users/search", q=profile["username"])
    listed = await viewer.get("/chats/", limit=100)
    members = await viewer.walk(f"/chats/{group['id']}/members")
    item = next(it for it in listed["items"] if it["id"] == chat["id"])
    member = next(it for it in members if it["user"]["id"] == person.id)
    views = [profile, *found["items"], item["peer"], (await viewer.chat(chat))["peer"]]
    plain = [anonymous(view) for view in views]
    return plain, anonymous(member["user"]), sorted(member["permissions"]), item["my"]


def anonymous(view: Json) -> Json:
    names = {"id", "first_name", "last_name", "username"}
    return {key: "..." if key in names else value for key, value in view.items()}


async def test_a_stranger_hears_neither_presence_nor_typing_nor_reading(backend: Backend) -> None:
    """H3: with every door open that a stranger has: his own socket, the profile, resume."""
    anna, bruno, spy = await backend.people(3)
    await spy.get(f"/users/{anna.id}")
    chat = await anna.private_chat(bruno)
    ear = await spy.connect()
    own = await spy.private_chat(spy)
    await ear.follow(own)
    mouth, reader = await anna.connect(), await bruno.connect()
    message = await anna.say(chat, "hello")
    await mouth.request("typing", {"chat_id": chat["id"], "action": "typing"})
    await reader.request("read", {"chat_id": chat["id"], "message_id": message["id"]})
    await mouth.expect("read_by", scope=f"chat:{chat['id']}")
    epoch = ear.hello["epoch"]
    await ear.send_frame("resume", {"epoch": epoch, "state": {f"chat:{chat['id']}": 1}})
    await ear.expect("resumed")
    marker = await spy.say(own, "marker")
    await ear.expect_message(marker["id"])
    kinds = {"user_online", "user_offline", "typing", "read_by", "read", "call"}
    assert [frame for frame in ear.frames if frame["type"] in kinds] == []
    assert str(anna.id) not in str(ear.frames)


async def test_read_marks_stay_in_their_chat(backend: Backend) -> None:
    """H3: that a common acquaintance reads elsewhere shows in no other chat (careless whisper)."""
    anna, bruno, eve = await backend.people(3)
    mine, theirs = await anna.private_chat(bruno), await eve.private_chat(bruno)
    ear = await eve.connect()
    before = await eve.chat(theirs)
    message = await anna.say(mine, "hello")
    await bruno.post(f"/chats/{mine['id']}/read", {"message_id": message["id"]}, expect=204)
    marker = await eve.say(theirs, "marker")
    await ear.expect_message(marker["id"])
    assert ear.seen("read_by") == []
    after = await eve.chat(theirs)
    assert after["others_read_message_id"] == before["others_read_message_id"]


async def test_what_a_frame_says_of_a_person_is_no_more_than_a_profile(backend: Backend) -> None:
    """E7, H2: no phone, address, device or read state of others in any frame of a busy chat."""
    anna, bruno = await backend.people(2)
    device = "device" + secrets.token_hex(6)
    other = await backend.sign_in(bruno.phone, device_name=device)
    group = await anna.group("Group", [bruno])
    ear = await anna.connect()
    mouth = await other.connect()
    sent = await mouth.request("send_message", {"chat_id": group["id"], "text": "hello"})
    await mouth.request("typing", {"chat_id": group["id"], "action": "typing"})
    first = await anna.say(group, "first")
    await mouth.request("read", {"chat_id": group["id"], "message_id": first["id"]})
    await other.put(f"/messages/{sent['message']['id']}", {"text": "changed"})
    await other.delete(f"/messages/{sent['message']['id']}", for_everyone=True)
    await other.post(f"/chats/{group['id']}/leave")
    await ear.expect("message_deleted")
    await ear.expect("members_changed")
    allowed = {
        "new_message": set(first) | {"silent", "service", "is_deleted"},
        "message_edited": set(first),
        "message_deleted": {"id", "chat_id", "is_deleted", "client_message_id"},
        "typing": {"chat_id", "user_id", "action"},
        "read_by": {"user_id", "message_id"},
        "user_online": {"user_id", "last_seen_at"},
    }
    for frame in ear.frames:
        assert set(frame) <= {"type", "scope", "seq", "data"}, frame
        if frame["type"] in allowed:
            assert set(frame["data"]) <= allowed[frame["type"]], frame
    heard = str(ear.frames)
    for secret in (device, bruno.phone, bruno.phone.removeprefix("+49"), "127.0.0.1"):
        assert secret not in heard


async def test_answers_carry_no_tag_by_which_unseen_things_could_be_compared(
    backend: Backend,
) -> None:
    """H4: no ETag or Last-Modified, so no 304, on anything that concerns a person."""
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    for path in ("/users/me", "/chats/", f"/chats/{chat['id']}", f"/users/{bruno.id}"):
        answer = await anna.call("GET", path, headers={"If-None-Match": "*"})
        assert answer.status_code == 200, path
        assert not {"etag", "last-modified"} & set(answer.headers), path


async def test_answers_to_the_signed_in_are_never_stored_on_the_way(backend: Backend) -> None:
    """H5: refusals too, whose absence would tell a shared cache what exists."""
    anna, stranger = await backend.sign_up(), backend.stranger()
    for person, path in (
        (anna, "/chats/1"),
        (anna, "/users/me?x=1"),
        (anna, "/nothing"),
        (anna, "/users/search"),
        (stranger, "/users/me"),
    ):
        answer = await person.call("GET", path)
        assert "no-store" in answer.headers["cache-control"], path
