"""Invite links: with an expiry, a limit of uses, and revocable."""

import asyncio

import pytest

from tests.support.people import Backend, Json
from tests.support.rows import change_rows

pytestmark = pytest.mark.anyio


def invites(chat: Json) -> str:
    return f"/chats/{chat['id']}/invites"


async def test_a_link_lets_a_stranger_in(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    group = await anna.group("Private")
    invite = await anna.post(invites(group), {}, expect=201)
    assert len(invite["code"]) >= 22
    shown = await eve.get(f"/invites/{invite['code']}", expect=200)
    assert shown.get("chat", shown)["title"] == "Private"
    await eve.get(f"/chats/{group['id']}", expect=404)
    await eve.post(f"/invites/{invite['code']}/join")
    assert (await eve.chat(group))["my"]["role"] == "member"
    assert [item["code"] for item in await anna.walk(invites(group))] == [invite["code"]]


async def test_a_link_is_used_as_often_as_it_says(backend: Backend) -> None:
    anna, *others = await backend.people(7)
    group = await anna.group("Private")
    invite = await anna.post(invites(group), {"max_uses": 2}, expect=201)
    joins = [other.call("POST", f"/invites/{invite['code']}/join") for other in others]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*joins))
    assert [status // 100 for status in statuses] == [2, 2, 4, 4, 4, 4]
    assert (await anna.chat(group))["members_count"] == 3


async def test_joining_again_uses_nothing_up(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Private")
    invite = await anna.post(invites(group), {"max_uses": 2}, expect=201)
    for person in (bruno, bruno, clara):
        await person.post(f"/invites/{invite['code']}/join")
    assert (await anna.chat(group))["members_count"] == 3


async def test_a_link_expires(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    group = await anna.group("Private")
    body = {"expires_at": "2099-01-01T00:00:00.000Z"}
    invite = await anna.post(invites(group), body, expect=201)
    assert invite["expires_at"] == body["expires_at"]
    past = f"UPDATE chat_invites SET expires_at = 1 WHERE code = '{invite['code']}'"
    assert await change_rows(backend.deployment, past) == 1
    await eve.get(f"/invites/{invite['code']}", expect=404)
    await eve.post(f"/invites/{invite['code']}/join", expect=404)


async def test_a_revoked_link_is_as_if_it_never_was(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    group = await anna.group("Private")
    invite = await anna.post(invites(group), {}, expect=201)
    path = f"{invites(group)}/{invite['code']}"
    await anna.delete(path, expect=204)
    await anna.delete(path, expect=404)
    revoked = await eve.get(f"/invites/{invite['code']}", expect=404)
    assert revoked == await eve.get("/invites/" + "x" * 32, expect=404)
    await eve.post(f"/invites/{invite['code']}/join", expect=404)
    assert await anna.walk(invites(group)) == []


async def test_members_without_the_right_make_no_links(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Private", [bruno])
    invite = await anna.post(invites(group), {}, expect=201)
    await bruno.post(invites(group), {}, expect=403, code="not_allowed")
    await bruno.get(invites(group), expect=403, code="not_allowed")
    await bruno.delete(f"{invites(group)}/{invite['code']}", expect=403, code="not_allowed")
    rights = {"role": "admin", "permissions": ["invite_users"]}
    await anna.put(f"/chats/{group['id']}/members/{bruno.id}", rights)
    await bruno.post(invites(group), {}, expect=201)


@pytest.mark.parametrize(
    "body",
    [
        {"max_uses": 0},
        {"max_uses": True},
        {"max_uses": "2"},
        {"max_uses": 1.5},
        {"expires_at": "x"},
        {"expires_at": 5},
        {"expires_at": "2020-01-01T00:00:00.000Z"},
        {"code": "mine"},
    ],
)
async def test_a_wrong_link_is_not_made(backend: Backend, body: dict[str, object]) -> None:
    anna = await backend.sign_up()
    group = await anna.group("Private")
    await anna.post(invites(group), body, expect=422)
    assert await anna.walk(invites(group)) == []


async def test_who_is_banned_sees_nothing_behind_a_link(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Private", [bruno])
    invite = await anna.post(invites(group), {}, expect=201)
    await anna.put(f"/chats/{group['id']}/members/{bruno.id}", {"role": "banned"})
    await bruno.get(f"/invites/{invite['code']}", expect=403, code="not_allowed")
