"""Members, roles and rights: who may do what to whom."""

import pytest

from tests.support.people import Backend, Json, Person, new_id

pytestmark = pytest.mark.anyio

ADMIN_RIGHTS = ["change_info", "delete_messages", "ban_members", "invite_users"]


def members(chat: Json) -> str:
    return f"/chats/{chat['id']}/members"


async def role_of(viewer: Person, chat: Json, person: Person) -> str | None:
    for item in await viewer.walk(members(chat)):
        if item.get("user", item)["id"] == person.id:
            return item["role"]
    return None


async def test_members_are_listed_with_their_roles(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    listed = await bruno.walk(members(group), limit=1)
    ids = sorted(item.get("user", item)["id"] for item in listed)
    assert ids == sorted([anna.id, bruno.id, clara.id])
    assert sorted(item["role"] for item in listed) == ["member", "member", "owner"]


async def test_added_members_are_told_and_everybody_sees_them(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    watcher, newcomer = await bruno.connect(), await clara.connect()
    await anna.post(members(group), {"user_ids": [clara.id]})
    await watcher.expect("members_changed", scope=f"chat:{group['id']}")
    created = await newcomer.expect("chat_created", scope="user")
    assert created["data"].get("chat", created["data"])["id"] == group["id"]
    assert (await clara.chat(group))["members_count"] == 3
    message = await anna.say(group, "Welcome")
    await newcomer.expect_message(message["id"])


@pytest.mark.parametrize("body", [{}, {"user_ids": []}, {"user_ids": ["1"]}, {"user_ids": [0]}])
async def test_wrong_members_are_refused(backend: Backend, body: dict[str, object]) -> None:
    anna = await backend.sign_up()
    group = await anna.group("Group")
    await anna.post(members(group), body, expect=422)
    await anna.post(members(group), {"user_ids": [2**53 - 1]}, expect=404)
    assert (await anna.chat(group))["members_count"] == 1


async def test_members_add_others_only_if_they_may(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    await anna.put(f"/chats/{group['id']}", {"permissions": ["send_messages"]})
    body = {"user_ids": [clara.id]}
    await bruno.post(members(group), body, expect=403, code="not_allowed")
    await anna.put(f"/chats/{group['id']}", {"permissions": ["add_members"]})
    await bruno.post(members(group), body)
    assert await role_of(anna, group, clara) == "member"


async def test_nobody_is_added_to_a_private_chat(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat = await anna.private_chat(bruno)
    answer = await anna.call("POST", members(chat), {"user_ids": [clara.id]})
    assert answer.status_code in {403, 422}
    await clara.get(f"/chats/{chat['id']}", expect=404)


async def test_a_removed_member_gets_nothing_more(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    socket, watcher = await bruno.connect(), await anna.connect()
    await anna.delete(f"{members(group)}/{bruno.id}", expect=204)
    removed = await socket.expect("chat_removed", {"chat_id": group["id"]}, scope="user")
    assert removed["data"]["reason"]
    hidden = await anna.say(group, "without you")
    await watcher.expect_message(hidden["id"])
    elsewhere = await anna.private_chat(bruno)
    await socket.follow(elsewhere)
    marker = await anna.say(elsewhere, "marker")
    await socket.expect_message(marker["id"])
    assert socket.seen("new_message", {"id": hidden["id"]}) == []
    await anna.delete(f"{members(group)}/{bruno.id}", expect=404)


async def test_who_leaves_is_gone_until_they_rejoin(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    await bruno.post(f"/chats/{group['id']}/leave")
    await bruno.get(f"/chats/{group['id']}", expect=404)
    await bruno.post(f"/chats/{group['id']}/leave", expect=404)
    assert (await anna.chat(group))["members_count"] == 1
    await anna.post(members(group), {"user_ids": [bruno.id]})
    assert (await bruno.chat(group))["my"]["role"] == "member"


async def test_the_owner_hands_over_before_leaving(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    leave = f"/chats/{group['id']}/leave"
    await anna.post(leave, expect=409, code="owner_must_transfer")
    await bruno.put(f"{members(group)}/{bruno.id}", {"role": "owner"}, expect=403)
    await anna.put(f"{members(group)}/{bruno.id}", {"role": "owner"}, expect=200)
    assert (await bruno.chat(group))["my"]["role"] == "owner"
    assert (await anna.chat(group))["my"]["role"] == "admin"
    await anna.post(leave)


async def test_the_owner_is_not_removed_or_demoted(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    rights = {"role": "admin", "permissions": [*ADMIN_RIGHTS, "promote_members"]}
    await anna.put(f"{members(group)}/{bruno.id}", rights)
    await bruno.delete(f"{members(group)}/{anna.id}", expect=403, code="not_allowed")
    for role in ("member", "restricted", "banned", "left"):
        answer = await bruno.call("PUT", f"{members(group)}/{anna.id}", {"role": role})
        assert answer.status_code in {403, 422}, role
    assert (await anna.chat(group))["my"]["role"] == "owner"


async def test_nobody_grants_what_they_lack(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    rights = {"role": "admin", "permissions": ["change_info", "promote_members"]}
    await anna.put(f"{members(group)}/{bruno.id}", rights)
    path = f"{members(group)}/{clara.id}"
    more = {"role": "admin", "permissions": ["ban_members"]}
    await bruno.put(path, more, expect=403, code="not_allowed")
    await bruno.put(path, {"role": "owner"}, expect=403)
    own = {"role": "admin", "permissions": ADMIN_RIGHTS}
    await bruno.put(f"{members(group)}/{bruno.id}", own, expect=403)
    await bruno.put(path, {"role": "admin", "permissions": ["change_info"]}, expect=200)
    assert (await clara.chat(group))["my"]["role"] == "admin"


async def test_a_member_promotes_and_removes_nobody(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    await bruno.delete(f"{members(group)}/{clara.id}", expect=403, code="not_allowed")
    for role in ("admin", "restricted", "banned"):
        await bruno.put(f"{members(group)}/{clara.id}", {"role": role}, expect=403)
    await bruno.put(f"{members(group)}/{bruno.id}", {"role": "admin"}, expect=403)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "king"},
        {"role": "admin", "permissions": ["fly"]},
        {"role": "restricted", "until": "tomorrow"},
        {"role": "restricted", "until": "2026-13-01T00:00:00Z"},
        {"role": 1},
    ],
)
async def test_a_wrong_role_is_refused(backend: Backend, body: dict[str, object]) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    await anna.put(f"{members(group)}/{bruno.id}", body, expect=422)
    assert await role_of(anna, group, bruno) == "member"


async def test_a_restricted_member_reads_but_does_not_write(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    restricted = {"role": "restricted", "permissions": [], "until": None}
    await anna.put(f"{members(group)}/{bruno.id}", restricted, expect=200)
    body = {"chat_id": group["id"], "text": "x"}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    message = await anna.say(group, "read this")
    assert message in await bruno.history(group)
    await anna.put(f"{members(group)}/{bruno.id}", {"role": "member"})
    await bruno.say(group, "again")


async def test_a_restriction_ends_by_itself(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    path = f"{members(group)}/{bruno.id}"
    past, future = "2020-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"
    body = {"chat_id": group["id"], "text": "x"}
    await anna.put(path, {"role": "restricted", "permissions": [], "until": future}, expect=200)
    await bruno.post("/messages/", body, expect=403)
    answer = await anna.call("PUT", path, {"role": "restricted", "permissions": [], "until": past})
    assert answer.status_code in {200, 422}
    if answer.status_code == 200:
        await bruno.post("/messages/", body, expect=201)


async def test_a_banned_member_is_out_and_stays_out(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    name = "public_" + new_id()[:8]
    group = await anna.group("Group", [bruno], username=name)
    invite = await anna.post(f"/chats/{group['id']}/invites", {}, expect=201)
    await anna.put(f"{members(group)}/{bruno.id}", {"role": "banned"}, expect=200)
    body = {"chat_id": group["id"], "text": "x"}
    await bruno.post("/messages/", body, expect=404)
    await bruno.get(f"/messages/chat/{group['id']}", expect=404)
    for path in (f"/chats/{group['id']}/join", f"/invites/{invite['code']}/join"):
        answer = await bruno.call("POST", path)
        assert answer.status_code in {403, 404}, path
    await anna.put(f"{members(group)}/{bruno.id}", {"role": "left"})
    await bruno.post(f"/chats/{group['id']}/join")
    await bruno.say(group, "back")


async def test_only_admins_list_the_members_of_a_channel(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    channel = await anna.channel("News", [bruno])
    await bruno.get(members(channel), expect=403, code="not_allowed")
    assert len(await anna.walk(members(channel))) == 2


async def test_a_public_chat_is_joined_by_everyone(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    group = await anna.group("Public", username="public_" + new_id()[:8])
    old = await anna.say(group, "before")
    socket = await eve.connect()
    await eve.post(f"/chats/{group['id']}/join")
    created = await socket.expect("chat_created", scope="user")
    assert created["data"].get("chat", created["data"])["id"] == group["id"]
    assert (await eve.chat(group))["my"]["role"] == "member"
    assert old in await eve.history(group)


async def test_every_change_of_members_has_one_number(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno])
    socket = await bruno.connect()
    scope = f"chat:{group['id']}"
    first = socket.state[scope]
    await anna.post(members(group), {"user_ids": [clara.id]})
    await anna.put(f"{members(group)}/{clara.id}", {"role": "admin"})
    await anna.delete(f"{members(group)}/{clara.id}")
    last = await anna.say(group, "last")
    await socket.expect_message(last["id"])
    seqs = socket.seqs(scope)
    assert seqs == list(range(first + 1, first + 1 + len(seqs)))
    assert (await bruno.chat(group))["seq"] == seqs[-1]


async def test_the_owner_does_not_leave_by_removing_themselves(backend: Backend) -> None:
    anna = await backend.sign_up()
    group = await anna.group("Group")
    path = f"{members(group)}/{anna.id}"
    await anna.delete(path, expect=409, code="owner_must_transfer")


async def test_nobody_leaves_a_private_chat(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.post(f"/chats/{chat['id']}/leave", expect=403, code="not_allowed")


async def test_a_restriction_outlives_leaving_and_coming_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", username="muted_" + new_id()[:8])
    join = f"/chats/{group['id']}/join"
    await bruno.post(join)
    restricted = {"role": "restricted", "permissions": []}
    await anna.put(f"{members(group)}/{bruno.id}", restricted, expect=200)
    body = {"chat_id": group["id"], "text": "free again"}
    await bruno.post(f"/chats/{group['id']}/leave")
    await bruno.post(join)
    assert (await bruno.chat(group))["my"]["role"] == "restricted"
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    # Neither being put out nor being added by somebody else lifts it.
    await anna.delete(f"{members(group)}/{bruno.id}")
    await anna.post(members(group), {"user_ids": [bruno.id]})
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    await anna.put(f"{members(group)}/{bruno.id}", {"role": "member"}, expect=200)
    await bruno.post(f"/chats/{group['id']}/leave")
    await bruno.post(join)
    await bruno.post("/messages/", body, expect=201)


async def test_nobody_gives_all_members_what_they_lack_themselves(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    path = f"/chats/{group['id']}"
    await anna.put(path, {"permissions": ["send_messages"]})
    rights = {"role": "admin", "permissions": ["ban_members"]}
    await anna.put(f"{members(group)}/{bruno.id}", rights, expect=200)
    wanted = {"permissions": ["send_messages", "change_info"]}
    await bruno.put(path, wanted, expect=403, code="not_allowed")
    await bruno.put(path, {"title": "Mine now"}, expect=403, code="not_allowed")
    # What members have already may be kept or taken.
    await anna.put(path, wanted, expect=200)
    await bruno.put(path, {"permissions": ["change_info"]}, expect=200)
    await bruno.put(path, {"permissions": []}, expect=200)
