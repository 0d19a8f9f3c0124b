"""What the slice decides by itself: origins of forwards, blocks, mentions, races of client ids, emptied chats."""

import asyncio
from typing import Any

import pytest

from app.features.chats.errors import MemberNotFound
from app.features.messages.delete import delete_for_everyone
from app.features.messages.edit import edit_message
from app.features.messages.errors import ClientMessageIdReused, MessageNotFound, PeerBlocked
from app.features.messages.forward import ForwardDraft, forward_messages
from app.features.messages.history import read_message
from app.features.messages.send import Sent
from app.features.messages.service_messages import MessageEraser
from app.features.messages.unread import count_unread
from app.features.users.block import block_user
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.problems import Forbidden
from app.kernel.scopes import chat_scope
from tests.unit.features.messages.conftest import Rooms

pytestmark = pytest.mark.anyio


async def forward(
    rooms: Rooms, sender: UserId, source: ChatId, target: ChatId, *ids: MessageId
) -> list[Any]:
    draft = ForwardDraft(chat_id=target, source_id=source, message_ids=ids)
    sent = await forward_messages(rooms.db, rooms.keyring, sender_id=sender, draft=draft)
    return [one.message for one in sent]


async def test_a_forward_names_the_writer_and_never_a_chat_that_is_not_public(rooms: Rooms) -> None:
    anna, bruno, clara = await rooms.settle(3)
    source, target = await rooms.pair(anna, bruno), await rooms.pair(anna, clara)
    message = await rooms.say(bruno, source, "secret place")
    [copy] = await forward(rooms, anna, source, target, message)
    assert copy["forward_from"].keys() == {"date", "sender"}
    assert copy["forward_from"]["sender"]["id"] == bruno
    further = await rooms.pair(clara, clara)
    [second] = await forward(rooms, clara, target, further, copy["id"])
    assert second["forward_from"] == copy["forward_from"]
    [same] = await forward(rooms, anna, source, source, message)
    assert same["forward_from"]["message_id"] == message


async def test_a_forward_from_a_channel_names_it_and_opens_it_only_if_public(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    target = await rooms.pair(anna, bruno)
    hidden, public = await rooms.channel(anna), await rooms.channel(anna, username="news_of_anna")
    post = await rooms.say(anna, hidden)
    [copy] = await forward(rooms, anna, hidden, target, post)
    assert copy["forward_from"].keys() == {"date", "sender_name"}
    assert copy["forward_from"]["sender_name"] == "News"
    post = await rooms.say(anna, public)
    [copy] = await forward(rooms, anna, public, target, post)
    assert copy["forward_from"]["sender"] == {"chat_id": public, "title": "News"}
    assert (copy["forward_from"]["chat_id"], copy["forward_from"]["message_id"]) == (public, post)


async def test_a_forward_is_not_edited(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    message = await rooms.say(bruno, chat)
    [copy] = await forward(rooms, anna, chat, chat, message)
    with pytest.raises(Forbidden):
        await edit_message(
            rooms.db, rooms.keyring, editor_id=anna, message_id=copy["id"], text="x", entities=None
        )


async def test_a_block_silences_both_sides(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat, group = await rooms.pair(anna, bruno), await rooms.group(anna, bruno)
    mine, theirs = await rooms.say(anna, chat), await rooms.say(bruno, chat)
    await block_user(rooms.db, rooms.keyring, blocker=anna, user_id=bruno)
    with pytest.raises(PeerBlocked):
        await rooms.say(anna, chat)
    with pytest.raises(Forbidden) as refused:
        await rooms.say(bruno, chat)
    assert refused.value.code == "not_allowed"
    with pytest.raises(Forbidden):
        await forward(rooms, bruno, group, chat, await rooms.say(bruno, group))
    with pytest.raises(Forbidden):
        await edit_message(
            rooms.db, rooms.keyring, editor_id=bruno, message_id=theirs, text="x", entities=None
        )
    await delete_for_everyone(rooms.db, user_id=bruno, message_id=theirs)
    assert [item["id"] for item in (await rooms.history(bruno, chat))["items"]] == [mine]


async def test_mentions_are_of_members_alone(rooms: Rooms) -> None:
    anna, bruno, eve = await rooms.settle(3)
    group = await rooms.group(anna, bruno)
    for user_id in (eve, UserId(7)):
        entity = {"type": "text_mention", "offset": 0, "length": 4, "user_id": user_id}
        with pytest.raises(MemberNotFound):
            await rooms.say(anna, group, "text", entities=[entity])
    entity = {"type": "text_mention", "offset": 0, "length": 4, "user_id": bruno}
    message = await rooms.say(anna, group, "text", entities=[entity])
    pairs = [(group, bruno), (group, anna)]
    unread = await rooms.db.read(lambda tx: count_unread(tx, pairs))
    assert (unread[group, bruno].mentions, unread[group, anna].mentions) == (1, 0)
    await delete_for_everyone(rooms.db, user_id=anna, message_id=message)
    unread = await rooms.db.read(lambda tx: count_unread(tx, pairs))
    assert unread[group, bruno].mentions == 0


async def test_one_client_id_racing_into_two_chats_is_used_once(rooms: Rooms) -> None:
    anna, bruno, clara = await rooms.settle(3)
    chats = [await rooms.pair(anna, bruno), await rooms.pair(anna, clara)]
    for number in range(10):
        client_id = f"client-{number}"
        outcomes = await asyncio.gather(
            *(rooms.send(anna, chat, client_message_id=client_id) for chat in chats),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            ClientMessageIdReused.__name__,
            Sent.__name__,
        ]
    for chat in chats:
        seqs = [update.seq for update in await rooms.log(chat_scope(chat))]
        assert seqs == list(range(1, len(seqs) + 1))


async def test_an_edit_that_changes_nothing_makes_no_update(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    message = await rooms.say(anna, chat, "same")
    before = len(await rooms.log(chat_scope(chat)))
    view: Any = await edit_message(
        rooms.db, rooms.keyring, editor_id=anna, message_id=message, text="same", entities=None
    )
    assert view["edited_at"] is None
    assert len(await rooms.log(chat_scope(chat))) == before


async def test_an_emptied_chat_holds_tombstones(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    first, second = await rooms.say(anna, chat), await rooms.say(anna, chat)
    await rooms.db.write(lambda tx: MessageEraser().erase_messages(tx, chat_id=chat, upto=first))
    assert [item["id"] for item in (await rooms.history(bruno, chat))["items"]] == [second]
    view = await read_message(rooms.db, rooms.keyring, reader_id=bruno, message_id=first)
    assert view == {"id": first, "chat_id": chat, "is_deleted": True}
    with pytest.raises(MessageNotFound):
        await rooms.say(anna, chat, reply_to_id=first)
