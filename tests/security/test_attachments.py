"""Files of messages attacked from outside: ids that are not mine, doors that are not mine any more (C3, C4, F1, H6)."""

import asyncio
import os
from collections.abc import Mapping, Sequence

import httpx
import pytest

from tests.security.test_account_deletion import delete, wait_for_erasure
from tests.support.people import Backend, Json, Person, new_id
from tests.support.servers import Server
from tests.support.shown_files import fetch, known, show, upload
from tests.support.sockets import FrameRefused, Socket

pytestmark = pytest.mark.anyio

NEVER = 2**53 - 2


async def refuse(person: Person, socket: Socket, chat: Json, file_ids: Sequence[int]) -> list[str]:
    """What both doors say to a message with these files."""
    body = {"chat_id": chat["id"], "attachments": file_ids}
    response = await person.call("POST", "/messages/", body)
    with pytest.raises(FrameRefused) as refused:
        await socket.request("send_message", body)
    return [response.text, str(refused.value.problem)]


async def test_nothing_tells_a_file_of_somebody_else_from_none(backend: Backend) -> None:
    anna, eve = await backend.people(2)
    chat, saved = await anna.private_chat(eve), await eve.private_chat(eve)
    socket = await eve.connect()
    mine, unused = (await upload(eve))["id"], (await upload(anna))["id"]
    seen = (await show(anna, chat))["attachments"][0]["id"]
    ended = await show(eve, saved)
    await eve.delete(f"/messages/{ended['id']}", for_everyone=True, expect=204)
    said = await refuse(eve, socket, saved, [NEVER])
    assert '"code":"file_not_found"' in said[0]
    foreign = (unused, seen, ended["attachments"][0]["id"])
    for file_id in foreign:
        for ids in ([file_id], [mine, file_id], [file_id, mine], [file_id, NEVER]):
            assert await refuse(eve, socket, saved, ids) == said
    # In a chat of which she knows nothing that comes first.
    other = await anna.group("Group")
    hidden = {str(await refuse(eve, socket, other, [file_id])) for file_id in (*foreign, mine)}
    hidden.add(str(await refuse(eve, socket, {"id": NEVER}, [mine])))
    assert len(hidden) == 1
    assert "chat_not_found" in hidden.pop()
    assert [item["id"] for item in await eve.history(saved)] == []


async def test_the_socket_of_one_chat_sends_files_nowhere_else(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, saved = await anna.private_chat(bruno), await anna.private_chat(anna)
    socket = await anna.connect(chat_id=chat["id"])
    file = await upload(anna)
    elsewhere = {"chat_id": saved["id"], "attachments": [file["id"]]}
    await socket.refused("send_message", elsewhere, "other_chat")
    ack = await socket.request("send_message", elsewhere | {"chat_id": chat["id"]})
    assert ack["message"]["attachments"] == [file]


async def test_what_i_cannot_see_i_cannot_forward_with_its_files(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    group, saved = await anna.group("Group", [bruno, eve]), await eve.private_chat(eve)
    hidden, cleared = await show(anna, group), await show(anna, group)
    await eve.delete(f"/messages/{hidden['id']}", expect=204)
    await anna.delete(f"/messages/{cleared['id']}", for_everyone=True, expect=204)
    unseen = await show(anna, await anna.private_chat(bruno))
    last = await show(anna, group)
    await anna.put(f"/chats/{group['id']}/members/{eve.id}", {"role": "left"})
    for message in (hidden, cleared, unseen, last):
        origin = {"chat_id": group["id"], "message_ids": [message["id"]]}
        body = {"chat_id": saved["id"], "forward_from": origin}
        await eve.post("/messages/", body, expect=404)
        for file in message["attachments"]:
            await fetch(eve, file, expect=404)
    assert await eve.history(saved) == []


async def test_a_file_answers_who_may_not_see_it_as_none(backend: Backend) -> None:
    anna, bruno, eve = await backend.people(3)
    group = await anna.group("Group", [bruno])
    [file] = (await show(anna, group))["attachments"]
    never = {"url": file["url"].replace(file["filename"], "A" * len(file["filename"]))}
    await bruno.post(f"/chats/{group['id']}/leave", expect=204)
    for person in (bruno, eve):
        said = await fetch(person, never, expect=404)
        for url in (file["url"], *(it["url"] for it in file["thumbnails"])):
            assert (await fetch(person, {"url": url}, expect=404)).content == said.content


async def test_a_message_deleted_for_everyone_ends_its_files_on_every_door_at_once(
    backend: Backend,
) -> None:
    """On every worker, from the answer to the deletion on; nothing that a client has kept opens one again."""
    anna, bruno = await backend.people(2)
    message = await show(anna, await anna.private_chat(bruno), "photo", "video")
    photo, film = message["attachments"]
    etag = (await bruno.download(photo)).headers["etag"]
    await bruno.download(photo, expect=304, If_None_Match=etag)
    await bruno.download(photo, thumbnail="small")
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
    for node in backend.deployment.nodes:
        for person in (bruno, anna):
            # A line of its own each, so that the workers of a node take turns.
            answers = await asyncio.gather(
                *(
                    ask(node, person, method, file["url"], headers)
                    for file in (photo, film)
                    for method in ("GET", "HEAD")
                    for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": etag})
                    for _ in range(2)
                ),
                ask(node, person, "GET", photo["url"] + "?thumbnail=small", {}),
                ask(node, person, "HEAD", photo["url"] + "?thumbnail=small", {}),
            )
            assert set(answers) == {404}


async def ask(
    node: Server, person: Person, method: str, url: str, headers: Mapping[str, str]
) -> int:
    async with httpx.AsyncClient(base_url=node.base_url, timeout=30, trust_env=False) as client:
        head = {"Authorization": f"Bearer {person.access_token}", **headers}
        return (await client.request(method, url, headers=head)).status_code


async def test_a_download_under_way_may_finish_when_its_message_is_deleted(
    backend: Backend,
) -> None:
    """Whoever has begun could have had it a moment earlier; the next request finds nothing."""
    anna, bruno = await backend.people(2)
    content = os.urandom(16 << 20)
    message = await anna.post(
        "/messages/",
        {
            "chat_id": (await anna.private_chat(bruno))["id"],
            "attachments": [(await anna.upload(content))["id"]],
        },
        expect=201,
    )
    [file] = message["attachments"]
    headers = {"Authorization": f"Bearer {bruno.access_token}"}
    async with bruno.client.stream("GET", file["url"], headers=headers) as answer:
        pieces = answer.aiter_raw()
        received = [await anext(pieces)]
        await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
        await fetch(bruno, file, expect=404)
        received += [piece async for piece in pieces]
    assert b"".join(received) == content


async def test_a_right_that_was_taken_holds_for_captions_too(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    message = await show(bruno, group, text="Words")
    member = f"/chats/{group['id']}/members/{bruno.id}"
    only_text = {"role": "restricted", "permissions": ["send_messages"]}
    await anna.put(member, only_text)
    path = f"/messages/{message['id']}"
    await bruno.put(path, {"text": "Other"}, expect=403, code="not_allowed")
    saved = await bruno.private_chat(bruno)
    picture = await show(bruno, saved)
    origin = {"chat_id": saved["id"], "message_ids": [picture["id"]]}
    body = {"chat_id": group["id"], "forward_from": origin, "client_message_id": new_id()}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    await fetch(bruno, message["attachments"][0])
    await bruno.delete(path, for_everyone=True, expect=204)
    await fetch(anna, message["attachments"][0], expect=404)


async def test_who_joins_again_sees_no_files_of_the_time_away(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    await bruno.post(f"/chats/{group['id']}/leave", expect=204)
    [away] = (await show(anna, group))["attachments"]
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [bruno.id]})
    await fetch(bruno, away, expect=404)
    [back] = (await show(anna, group))["attachments"]
    await fetch(bruno, back)


async def test_a_deleted_account_takes_its_files_along(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    private, group = await anna.private_chat(bruno), await bruno.group("Group", [anna])
    saved = await bruno.private_chat(bruno)
    mine = [await show(anna, chat) for chat in (private, group)]
    [theirs] = (await show(bruno, private))["attachments"]
    passed_on = await show(anna, group, text="Look!")
    origin = {"chat_id": group["id"], "message_ids": [passed_on["id"]]}
    await bruno.post("/messages/", {"chat_id": saved["id"], "forward_from": origin}, expect=201)
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    for message in mine:
        await fetch(bruno, message["attachments"][0], expect=404)
    # Of the private chat nothing stays, whoever wrote it.
    await fetch(bruno, theirs, expect=404)
    # What Bruno passed on stays his message, without what was hers.
    await fetch(bruno, passed_on["attachments"][0], expect=404)
    [left] = await bruno.history(saved)
    assert (left["type"], left["text"], left["attachments"]) == ("photo", "Look!", [])
    origin = {"chat_id": saved["id"], "message_ids": [left["id"]]}
    body = {"chat_id": saved["id"], "forward_from": origin}
    await bruno.post("/messages/", body, expect=404, code="file_not_found")


async def test_who_passed_on_what_went_with_an_account_is_told(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    source = await anna.group("Source", [bruno])
    album = await show(anna, source, "photo", "video", text="Look!")
    await known(anna, album)
    places = [await bruno.group("Friends", [clara]), await bruno.private_chat(bruno)]
    origin = {"chat_id": source["id"], "message_ids": [album["id"]]}
    sockets = {person.id: await person.connect() for person in (bruno, clara)}
    shown = [
        await bruno.post("/messages/", {"chat_id": chat["id"], "forward_from": origin}, expect=201)
        for chat in places
    ]
    await delete(anna)
    await wait_for_erasure(backend, anna.id)
    for message, chat, watchers in zip(shown, places, ([bruno, clara], [bruno]), strict=True):
        scope = f"chat:{chat['id']}"
        left = {"text": "Look!", "type": message["type"], "attachments": [], "edited_at": None}
        edits = [
            await sockets[person.id].expect(
                "message_edited", lambda frame: frame["data"]["attachments"] == [], scope=scope
            )
            for person in watchers
        ]
        assert all(edit["data"].items() >= left.items() for edit in edits)
        assert (await bruno.history(chat))[0] == edits[0]["data"]
        # Once, and nothing else.
        last = await bruno.say(chat, "After that")
        told = await sockets[bruno.id].expect_message(last["id"])
        assert told["seq"] == edits[0]["seq"] + 1


async def test_files_stay_with_the_messages_of_who_left_them(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    private = await anna.private_chat(bruno)
    message = await show(anna, private, text="Keep this")
    await delete(anna, keep_messages=True)
    await wait_for_erasure(backend, anna.id)
    [kept] = await bruno.history(private)
    assert kept["attachments"] == message["attachments"]
    await fetch(bruno, kept["attachments"][0])


async def test_the_export_names_the_files_of_my_messages(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    file = await anna.upload(b"The only page\n", name="diary.txt")
    body = {"chat_id": chat["id"], "attachments": [file["id"]]}
    message = await anna.post("/messages/", body, expect=201)
    await show(bruno, chat)
    said = await anna.say(chat, "Words")
    exported = (await anna.get("/users/me/export"))["messages"]
    assert [item["id"] for item in exported] == [message["id"], said["id"]]
    assert [item["attachments"] for item in exported] == [message["attachments"], []]
    assert exported[0]["attachments"][0]["original_name"] == "diary.txt"
