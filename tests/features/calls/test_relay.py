"""Calls: signals between the two people of a private chat, seen by nobody else."""

import pytest

from tests.support.people import Backend, Json, new_id

pytestmark = pytest.mark.anyio


def offer(chat: Json, **changes: object) -> dict[str, object]:
    call = {"call_id": new_id(), "chat_id": chat["id"], "kind": "video", "action": "offer"}
    return {**call, "sdp": "v=0", **changes}


async def test_an_offer_rings_on_all_devices_of_the_other(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat = await anna.private_chat(bruno)
    await eve.private_chat(anna)
    caller, stranger = await anna.connect(), await eve.connect()
    phones = [await bruno.connect(), await (await backend.sign_in(bruno.phone)).connect()]
    call = offer(chat)
    await caller.request("call", call)
    for phone in phones:
        data = (await phone.expect("call", {"call_id": call["call_id"]}))["data"]
        assert {**data, **call} == data
        assert data["from_user_id"] == anna.id
        assert data["from_device"]
    await stranger.settle()
    assert stranger.seen("call") == []
    assert caller.seen("call") == []


@pytest.mark.parametrize("action", ["answer", "reject", "hangup"])
async def test_an_answer_stops_the_ringing_of_my_other_devices(
    backend: Backend, action: str
) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    caller, phone = await anna.connect(), await bruno.connect()
    tablet = await (await backend.sign_in(bruno.phone)).connect()
    call = offer(chat)
    await caller.request("call", call)
    for device in (phone, tablet):
        await device.expect("call", {"action": "offer"})
    answer = {**call, "action": action}
    if action != "answer":
        del answer["sdp"]
    await phone.request("call", answer)
    for device in (caller, tablet):
        data = (await device.expect("call", {"action": action}))["data"]
        assert data["from_user_id"] == bruno.id
    await phone.settle()
    assert phone.seen("call", {"action": action}) == []


async def test_candidates_reach_the_other_side_only(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    caller, phone = await anna.connect(), await bruno.connect()
    second = await (await backend.sign_in(anna.phone)).connect()
    call = offer(chat, action="candidate", candidate="candidate:1 1 udp 1 10.0.0.1 5000 typ host")
    del call["sdp"]
    await caller.request("call", call)
    await phone.expect("call", {"action": "candidate"})
    await second.settle()
    assert second.seen("call") == []


async def test_calls_are_for_private_chats_of_one_s_own(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    chat, group = await anna.private_chat(bruno), await anna.group("Group", [bruno])
    socket, stranger = await anna.connect(), await eve.connect()
    await socket.refused("call", offer(group), "call_not_allowed")
    await stranger.refused("call", offer(chat), "chat_not_found")
    await stranger.refused("call", offer({"id": 2**53 - 1}), "chat_not_found")


@pytest.mark.parametrize(
    "change",
    [
        {"call_id": "x"},
        {"kind": "hologram"},
        {"action": "sing"},
        {"sdp": 5},
        {"chat_id": True},
        {"volume": 11},
        {"from_user_id": 5},
        {"sdp": "x" * 33_000},
    ],
)
async def test_a_wrong_call_is_refused(backend: Backend, change: dict[str, object]) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket, phone = await anna.connect(), await bruno.connect()
    problem = {}
    try:
        await socket.request("call", offer(chat, **change))
    except Exception as refusal:  # noqa: BLE001 - its kind is checked below
        problem = getattr(refusal, "problem", {})
    assert problem.get("status") in {413, 422}, problem
    await phone.settle()
    assert phone.seen("call") == []


async def test_a_call_leaves_nothing_in_the_log_of_updates(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await anna.connect()
    before = (await anna.chat(chat))["seq"]
    await socket.request("call", offer(chat))
    assert (await anna.chat(chat))["seq"] == before
    assert await bruno.history(chat) == []
