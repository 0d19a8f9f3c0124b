"""Messages with attachments: what goes into one, who reads its files, and how long."""

import hashlib

import httpx
import pytest

from tests.support.people import Backend, Json, Person, new_id
from tests.support.shown_files import fetch, make_photo, show, upload, upload_all
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

NEVER = 2**53 - 1


def body_of(chat: Json, files: list[Json], **fields: object) -> Json:
    return {"chat_id": chat["id"], "attachments": [file["id"] for file in files], **fields}


def shown(message: Json) -> list[int]:
    """The ids of its attachments."""
    return [file["id"] for file in message["attachments"]]


def settled(message: Json) -> Json:
    """Without what a job finds out later."""
    plain = {"id", "file_type", "filename", "original_name", "url", "size", "mime_type", "sha256"}
    files = [{k: v for k, v in file.items() if k in plain} for file in message["attachments"]]
    return {**message, "attachments": files}


async def forward(person: Person, source: Json, target: Json, *messages: Json) -> Json:
    ids = [message["id"] for message in messages]
    origin = {"chat_id": source["id"], "message_ids": ids}
    body = {"chat_id": target["id"], "forward_from": origin}
    return await person.post("/messages/", body, expect=201)


# Sending


async def test_a_photo_with_a_caption_is_read_by_the_other(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sockets = [await anna.connect(), await bruno.connect()]
    file = await upload(anna)
    bold = [{"type": "bold", "offset": 0, "length": 4}]
    body = body_of(chat, [file], text="Look!", entities=bold, client_message_id=new_id())
    message = await anna.post("/messages/", body, expect=201)
    assert (message["type"], message["text"], message["entities"]) == ("photo", "Look!", bold)
    assert message["attachments"] == [file]
    for socket in sockets:
        assert (await socket.expect_message(message["id"]))["data"] == message
    assert await bruno.get(f"/messages/{message['id']}") == message
    assert await bruno.history(chat) == [message]
    assert (await bruno.chat(chat))["last_message"] == message
    content = (await fetch(bruno, file)).content
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    for thumbnail in file["thumbnails"]:
        assert (await fetch(bruno, thumbnail)).headers["content-type"] == "image/webp"


@pytest.mark.parametrize("kind", ["photo", "video", "audio", "voice", "document"])
async def test_the_type_is_that_of_the_file(backend: Backend, kind: str) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await show(anna, chat, kind)
    assert (message["type"], message["text"]) == (kind, None)
    assert [file["file_type"] for file in message["attachments"]] == [kind]


async def test_an_album_keeps_its_order_and_is_of_its_first_type(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    files = await upload_all(anna, "photo", "video", "photo")
    for order, kind in (([2, 1, 0], "photo"), ([1, 0, 2], "video")):
        album = [files[position] for position in order]
        message = await anna.post("/messages/", body_of(chat, album), expect=201)
        assert (message["type"], shown(message)) == (kind, [file["id"] for file in album])
    for kind in ("audio", "document"):
        assert (await show(anna, chat, kind, kind))["type"] == kind
    ten = await show(anna, chat, *["photo"] * 10)
    assert len(ten["attachments"]) == 10


async def test_what_does_not_go_together_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    kinds = ("photo", "video", "audio", "voice", "document")
    files = dict(zip(kinds, await upload_all(anna, *kinds), strict=True))
    second = await upload(anna, "voice")
    mixed = [("photo", "document"), ("video", "audio"), ("audio", "document"), ("voice", "audio")]
    for album in [[files[kind] for kind in pair] for pair in mixed] + [[files["voice"], second]]:
        body = body_of(chat, album)
        await anna.post("/messages/", body, expect=422, code="attachments_mixed")
    photo = files["photo"]["id"]
    for wrong in ([], [photo, photo], [photo] * 11, [str(photo)], [0], [NEVER + 1], photo):
        body = {"chat_id": chat["id"], "attachments": wrong}
        await anna.post("/messages/", body, expect=422, code="validation_error")
    both = body_of(chat, [files["photo"]])
    source = {"chat_id": chat["id"], "message_ids": [1]}
    await anna.post("/messages/", both | {"forward_from": source}, expect=422)
    assert await anna.history(chat) == []


async def test_a_caption_is_optional_and_shorter_than_a_text(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    body = body_of(chat, [await upload(anna)])
    longest = "😀" * 512
    for text, kept in ((None, None), ("", None), ("a", "a"), (longest, longest)):
        message = await anna.post("/messages/", body | {"text": text}, expect=201)
        assert message["text"] == kept
    for text in (longest + "a", "x" * 4097):
        too_long = body | {"text": text}
        await anna.post("/messages/", too_long, expect=422, code="caption_too_long")
    await anna.post("/messages/", body | {"text": " \n"}, expect=422, code="message_empty")
    marked = body | {"entities": [{"type": "bold", "offset": 0, "length": 1}]}
    await anna.post("/messages/", marked, expect=422, code="entities_invalid")


async def test_a_frame_sends_files_as_http_does(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    file = await upload(anna)
    socket, other = await anna.connect(), await bruno.connect()
    data = body_of(chat, [file], text="Look!", client_message_id=new_id())
    ack = await socket.request("send_message", data)
    assert (ack["created"], ack["message"]["attachments"]) == (True, [file])
    assert (await other.expect_message(ack["message"]["id"]))["data"] == ack["message"]
    again = await socket.request("send_message", data)
    assert again == {"message": ack["message"], "created": False}


async def test_the_uploader_shows_a_file_again(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    file = await upload(anna)
    for reader in (bruno, clara):
        chat = await anna.private_chat(reader)
        await anna.post("/messages/", body_of(chat, [file]), expect=201)
        await fetch(reader, file)


# Retries


async def test_a_send_with_files_is_safe_to_retry(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    files = await upload_all(anna, "photo", "photo")
    body = body_of(chat, files, client_message_id=new_id())
    first = await anna.post("/messages/", body, expect=201)
    assert await anna.post("/messages/", body, expect=200) == first
    others = (
        body_of(chat, files[::-1], client_message_id=body["client_message_id"]),
        body_of(chat, files[:1], client_message_id=body["client_message_id"]),
        body | {"text": "Look!"},
        {"chat_id": chat["id"], "text": "x", "client_message_id": body["client_message_id"]},
    )
    for other in others:
        await anna.post("/messages/", other, expect=409, code="client_message_id_reused")
    assert len(await bruno.history(chat)) == 1


async def test_a_repeat_is_answered_when_its_files_have_ended(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    body = body_of(chat, [await upload(anna)], client_message_id=new_id())
    message = await anna.post("/messages/", body, expect=201)
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
    again = await anna.post("/messages/", body, expect=200)
    assert again == {
        "id": message["id"],
        "chat_id": chat["id"],
        "is_deleted": True,
        "client_message_id": body["client_message_id"],
    }
    fresh = body | {"client_message_id": new_id()}
    await anna.post("/messages/", fresh, expect=404, code="file_not_found")


# Editing


async def test_a_caption_is_edited_and_the_files_stay(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await bruno.connect()
    message = await show(
        anna, chat, text="Old", entities=[{"type": "bold", "offset": 0, "length": 3}]
    )
    path = f"/messages/{message['id']}"
    for text, kept in (("New words", "New words"), ("", None), ("Back", "Back")):
        edited = await anna.put(path, {"text": text}, expect=200)
        assert (edited["text"], edited["entities"]) == (kept, [])
        assert edited["attachments"] == message["attachments"]
        assert edited["edited_at"] is not None
        frame = await socket.expect("message_edited", scope=f"chat:{chat['id']}")
        assert frame["data"] == edited
    await anna.put(path, {"text": "x" * 1025}, expect=422, code="caption_too_long")
    await anna.put(path, {"text": "  "}, expect=422, code="message_empty")
    await bruno.put(path, {"text": "x"}, expect=403, code="not_allowed")


async def test_a_text_does_not_turn_into_media(backend: Backend) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    message = await anna.say(chat, "Words")
    path, file = f"/messages/{message['id']}", await upload(anna)
    await anna.put(path, {"text": "x", "attachments": [file["id"]]}, expect=422)
    await anna.put(path, {"text": ""}, expect=422, code="message_empty")


# Rights


async def test_texts_and_media_are_rights_of_their_own(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    chat, member = f"/chats/{group['id']}", f"/chats/{group['id']}/members/{bruno.id}"
    media = body_of(group, [await upload(bruno)])
    text = {"chat_id": group["id"], "text": "Hello"}
    socket = await bruno.connect()

    async def expect(*, may_media: bool, may_text: bool) -> None:
        for body, is_allowed in ((media, may_media), (text, may_text)):
            if is_allowed:
                await bruno.post("/messages/", body, expect=201)
                await socket.request("send_message", body)
            else:
                await bruno.post("/messages/", body, expect=403, code="not_allowed")
                await socket.refused("send_message", body, "not_allowed")

    sent = await bruno.post("/messages/", media, expect=201)
    await expect(may_media=True, may_text=True)
    for permissions in ([], ["send_media"], ["send_messages"]):
        await anna.put(chat, {"permissions": permissions})
        await expect(may_media="send_media" in permissions, may_text="send_messages" in permissions)
    await anna.put(chat, {"permissions": ["send_messages", "send_media"]})
    for permissions in (["send_media"], ["send_messages"], []):
        await anna.put(member, {"role": "restricted", "permissions": permissions})
        await expect(may_media="send_media" in permissions, may_text="send_messages" in permissions)
    await bruno.put(f"/messages/{sent['id']}", {"text": "x"}, expect=403, code="not_allowed")
    await fetch(bruno, sent["attachments"][0])


async def test_what_i_show_that_i_do_is_what_i_may_do(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    member = f"/chats/{group['id']}/members/{bruno.id}"
    socket, other = await bruno.connect(), await anna.connect()
    actions = {"send_messages": "typing", "send_media": "uploading_file"}
    for permission, action in actions.items():
        await anna.put(member, {"role": "restricted", "permissions": [permission]})
        for shown_action in ("cancel", *actions.values()):
            data = {"chat_id": group["id"], "action": shown_action}
            if shown_action in {"cancel", action}:
                await socket.request("typing", data)
                await other.expect("typing", {"action": shown_action})
            else:
                await socket.refused("typing", data, "not_allowed")
    await anna.put(member, {"role": "restricted", "permissions": []})
    for shown_action in ("cancel", *actions.values()):
        data = {"chat_id": group["id"], "action": shown_action}
        await socket.refused("typing", data, "not_allowed")


async def test_a_caption_needs_no_right_but_that_to_send_media(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group = await anna.group("Group", [bruno])
    await anna.put(f"/chats/{group['id']}", {"permissions": ["send_media"]})
    message = await show(bruno, group, text="Words")
    await bruno.put(f"/messages/{message['id']}", {"text": "Other words"}, expect=200)
    saved = await bruno.private_chat(bruno)
    text = await bruno.say(saved, "Words")
    origin = {"chat_id": saved["id"], "message_ids": [text["id"]]}
    body = {"chat_id": group["id"], "forward_from": origin}
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    picture = await show(bruno, saved)
    assert (await forward(bruno, saved, group, picture))["type"] == "photo"


async def test_only_who_posts_in_a_channel_posts_media(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    channel = await anna.channel("News", [bruno])
    body = body_of(channel, [await upload(bruno)])
    await bruno.post("/messages/", body, expect=403, code="not_allowed")
    post = await show(anna, channel, "video", text="Look!")
    await fetch(bruno, post["attachments"][0])


async def test_a_block_silences_files_and_leaves_the_old_ones(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    old = [await show(anna, chat), await show(bruno, chat)]
    await anna.put(f"/users/blocked/{bruno.id}")
    for person, code in ((bruno, "not_allowed"), (anna, "peer_blocked")):
        body = body_of(chat, [await upload(person)])
        await person.post("/messages/", body, expect=403, code=code)
        for message in old:
            await fetch(person, message["attachments"][0])


# Replies and forwards


async def test_a_reply_tells_what_a_photo_without_words_is(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    bare, captioned = await show(anna, chat), await show(anna, chat, "document", text="Read this")
    answer = await bruno.say(chat, "Nice", reply_to_message_id=bare["id"])
    assert answer["reply_to"] == {
        "message_id": bare["id"],
        "type": "photo",
        "sender": bare["sender"],
    }
    answer = await bruno.say(chat, "Done", reply_to_message_id=captioned["id"])
    quoted = {"message_id": captioned["id"], "type": "document", "text_excerpt": "Read this"}
    assert answer["reply_to"] == quoted | {"sender": captioned["sender"]}
    assert (await bruno.history(chat))[0]["reply_to"] == answer["reply_to"]
    await anna.delete(f"/messages/{bare['id']}", for_everyone=True)
    answer = await anna.get(f"/messages/{answer['id'] - 1}")
    assert answer["reply_to"] == {"message_id": bare["id"]}
    reply = await show(bruno, chat, reply_to_message_id=captioned["id"])
    assert reply["reply_to"]["message_id"] == captioned["id"]


async def test_an_album_is_forwarded_without_copying(backend: Backend) -> None:
    anna, bruno, clara, eve = await backend.people(4)
    source, target = await anna.private_chat(bruno), await bruno.private_chat(clara)
    album = await show(anna, source, "photo", "photo", text="Holidays")
    socket = await clara.connect()
    copy = await forward(bruno, source, target, album)
    assert (copy["type"], copy["text"]) == ("photo", "Holidays")
    assert copy["attachments"] == album["attachments"]
    assert copy["forward_from"]["sender"]["id"] == anna.id
    assert (await socket.expect_message(copy["id"]))["data"] == copy
    for file in album["attachments"]:
        await fetch(clara, file)
        await fetch(eve, file, expect=404)
    # Bruno may pass it on, but the file is not his to attach.
    await bruno.post("/messages/", body_of(target, album["attachments"]), expect=404)
    further = await clara.private_chat(eve)
    await forward(clara, target, further, copy)
    await fetch(eve, album["attachments"][0])


async def test_a_forwarded_file_outlives_its_original(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, saved = await anna.private_chat(bruno), await bruno.private_chat(bruno)
    message = await show(anna, chat)
    [file] = message["attachments"]
    copy = await forward(bruno, chat, saved, message)
    await anna.delete(f"/messages/{message['id']}", for_everyone=True)
    await fetch(bruno, file)
    await bruno.delete(f"/messages/{copy['id']}", for_everyone=True)
    for person in (anna, bruno):
        await fetch(person, file, expect=404)


async def test_texts_and_files_are_forwarded_together(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, saved = await anna.private_chat(bruno), await bruno.private_chat(bruno)
    messages = [
        await anna.say(chat, "Words"),
        await show(anna, chat, "audio"),
        await show(anna, chat),
    ]
    answer = await forward(bruno, chat, saved, *messages)
    assert [item["type"] for item in answer["items"]] == ["text", "audio", "photo"]
    assert [shown(item) for item in answer["items"]] == [shown(message) for message in messages]


# Deleting


async def test_deleting_for_everyone_kills_the_url_at_once(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    state = (await bruno.connect()).hello
    message = await show(anna, chat, "photo", "video")
    for file in message["attachments"]:
        await fetch(bruno, file)
    await anna.delete(f"/messages/{message['id']}", for_everyone=True, expect=204)
    for person in (anna, bruno):
        for file in message["attachments"]:
            await fetch(person, file, expect=404)
            for thumbnail in file.get("thumbnails", []):
                await fetch(person, thumbnail, expect=404)
    body = {"epoch": state["epoch"], "state": state["state"]}
    missed = str(await bruno.post("/updates/difference", body))
    assert all(file["filename"] not in missed for file in message["attachments"])


async def test_a_file_lives_until_its_last_message_goes(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    file = await upload(anna)
    body = body_of(chat, [file])
    first, second = [await anna.post("/messages/", body, expect=201) for _ in range(2)]
    await anna.delete(f"/messages/{first['id']}", for_everyone=True)
    await fetch(bruno, file)
    await anna.delete(f"/messages/{second['id']}", for_everyone=True)
    await fetch(bruno, file, expect=404)


async def test_deleting_for_me_takes_my_view_alone(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await show(anna, chat)
    [file] = message["attachments"]
    await bruno.delete(f"/messages/{message['id']}", expect=204)
    await fetch(bruno, file, expect=404)
    await fetch(anna, file)


async def test_clearing_a_private_chat_ends_what_nobody_sees(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    for for_everyone in (False, True):
        chat = await anna.private_chat(bruno)
        [file] = (await show(anna, chat))["attachments"]
        await bruno.delete(f"/chats/{chat['id']}", for_everyone=for_everyone, expect=204)
        await fetch(bruno, file, expect=404)
        if not for_everyone:
            await fetch(anna, file)
            await anna.delete(f"/chats/{chat['id']}", expect=204)
        await fetch(anna, file, expect=404)
        await anna.post("/messages/", body_of(await anna.private_chat(anna), [file]), expect=404)


async def test_a_deleted_group_takes_its_files_along(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    group, saved = await anna.group("Group", [bruno]), await bruno.private_chat(bruno)
    message, lost = await show(bruno, group), await show(bruno, group, "document")
    await forward(bruno, group, saved, message)
    await anna.delete(f"/chats/{group['id']}", expect=204)
    for file in lost["attachments"]:
        await fetch(anna, file, expect=404)
        await fetch(bruno, file, expect=404)
    [kept] = message["attachments"]
    await fetch(anna, kept, expect=404)
    await fetch(bruno, kept)


async def test_who_leaves_or_is_put_out_reads_nothing_more(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [bruno, clara])
    [file] = (await show(anna, group))["attachments"]
    await fetch(bruno, file)
    await bruno.post(f"/chats/{group['id']}/leave", expect=204)
    await fetch(bruno, file, expect=404)
    await anna.put(f"/chats/{group['id']}/members/{clara.id}", {"role": "banned"})
    await fetch(clara, file, expect=404)


async def test_newcomers_read_no_files_of_before_their_time(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    group = await anna.group("Group", [clara])
    [old] = (await show(anna, group))["attachments"]
    await anna.post(f"/chats/{group['id']}/members", {"user_ids": [bruno.id]})
    [new] = (await show(anna, group))["attachments"]
    await fetch(bruno, old, expect=404)
    await fetch(bruno, new)
    await anna.put(f"/chats/{group['id']}", {"history_visible": True})
    await fetch(bruno, old)


# What is known later


async def test_a_film_is_told_when_it_is_known(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, saved = await anna.private_chat(bruno), await anna.private_chat(anna)
    socket = await bruno.connect()
    message = await show(anna, chat, "video", text="Look!")
    copy = await forward(anna, chat, saved, message)
    if message["attachments"][0].get("is_processing"):
        frame = await socket.expect("message_edited", {"id": message["id"]}, timeout_seconds=30)
        assert frame["data"] == await bruno.get(f"/messages/{message['id']}")

    async def is_known() -> bool:
        views = [await anna.get(f"/messages/{it['id']}") for it in (message, copy)]
        return not any(view["attachments"][0].get("is_processing") for view in views)

    await eventually(is_known, timeout_seconds=30, what="the look into the film")
    for item in (message, copy):
        known = await anna.get(f"/messages/{item['id']}")
        [film] = known["attachments"]
        assert (film["width"], film["height"], film["duration"]) == (64, 48, 1.0)
        assert known["edited_at"] is None
        assert settled(known) == settled(item)


async def test_equal_uploads_are_two_files_that_end_apart(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, content = await anna.private_chat(bruno), make_photo()
    files = [await upload(anna, content=content) for _ in range(2)]
    assert len({file["id"] for file in files}) == 2
    messages = [await anna.post("/messages/", body_of(chat, [it]), expect=201) for it in files]
    await anna.delete(f"/messages/{messages[0]['id']}", for_everyone=True)
    await fetch(bruno, files[0], expect=404)
    assert (await fetch(bruno, files[1])).status_code == httpx.codes.OK
