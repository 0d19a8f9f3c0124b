"""Files in messages, against real databases: what they cost, who may see them, and races for their end."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.features.chats.delete import delete_chat
from app.features.chats.leave import leave_chat
from app.features.files.delete import delete_file
from app.features.files.errors import FileInUse, FileNotFound
from app.features.files.models import FileRow, FileUseRow
from app.features.files.reclaim import end_unused_files
from app.features.files.uses import add_uses, remove_uses
from app.features.messages.access import reads_any_with
from app.features.messages.attachments import MESSAGE
from app.features.messages.content import Content, canonical_body
from app.features.messages.delete import delete_for_everyone, delete_for_me
from app.features.messages.empty import BATCH, detach_rest
from app.features.messages.errors import AttachmentsMixed, MessageNotFound
from app.features.messages.forward import ForwardDraft, forward_messages
from app.features.messages.history import read_message
from app.features.messages.models import EmptiedChatRow
from app.features.messages.send import Draft, Send, Sent, apply_sends
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import chat_scope
from tests.unit.features.messages.conftest import Rooms, open_rooms

pytestmark = pytest.mark.anyio


async def reads(rooms: Rooms, user_id: UserId, file_id: FileId) -> bool:
    return await rooms.db.read(lambda tx: reads_any_with(tx, user_id, file_id))


async def forward(
    rooms: Rooms, sender: UserId, source: ChatId, target: ChatId, *ids: MessageId
) -> list[Any]:
    draft = ForwardDraft(chat_id=target, source_id=source, message_ids=ids)
    sent = await forward_messages(rooms.db, rooms.keyring, sender_id=sender, draft=draft)
    return [one.message for one in sent]


async def erase(rooms: Rooms, user_id: UserId, message_id: MessageId) -> None:
    await delete_for_everyone(rooms.db, user_id=user_id, message_id=message_id)


async def outcome(call: Awaitable[Any]) -> type[Problem] | None:
    """The refusal, if it was one."""
    try:
        await call
    except Problem as problem:
        return type(problem)
    return None


# What it costs


async def test_a_page_of_albums_takes_as_many_statements_as_one_photo(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    for _ in range(12):
        await rooms.show(bruno, chat, *[await rooms.upload(bruno) for _ in range(4)])
    counts: list[int] = []
    for limit in (1, 3, 12):
        # As another worker, which has none of the keys at hand.
        stranger = await open_rooms(rooms.db, rooms.clock)
        await stranger.history(anna, chat, 1)
        with rooms.counting() as statements:
            page = await stranger.history(anna, chat, limit)
        counts.append(len(statements))
        assert [len(item["attachments"]) for item in page["items"]] == [4] * limit
    # The first page, whose keys are known, asks for none.
    assert counts == [6, 7, 7]


async def test_a_send_with_ten_files_takes_few_statements(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    group = await rooms.group(anna, bruno)
    counts: list[int] = []
    for count in (1, 10):
        ids = [await rooms.upload(anna) for _ in range(count)]
        draft = Draft(chat_id=group, content=Content(None), attachments=ids)
        with rooms.counting() as statements:
            [sent] = await rooms.db.write(
                lambda tx, draft=draft: apply_sends(
                    tx, [Send(rooms.keyring, anna, draft)], may_wait=True
                )
            )
        assert isinstance(sent, Sent)
        counts.append(len(statements))
    assert counts[1] <= counts[0] <= 24


# What a repeat is told by


def test_the_body_of_a_text_is_that_of_a_time_before_files() -> None:
    content = Content("text")
    plain = canonical_body(content, reply_to_id=None, forward_of=None)
    assert plain == b'{"entities":[],"forward":null,"reply_to":null,"text":"text"}'
    with_files = [
        canonical_body(content, reply_to_id=None, forward_of=None, attachments=ids)
        for ids in ([FileId(1)], [FileId(1), FileId(2)], [FileId(2), FileId(1)])
    ]
    assert len({plain, *with_files}) == 4


# Whose


async def test_only_my_own_living_files_go_into_a_message(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    mine, theirs, ended = [await rooms.upload(it) for it in (anna, bruno, anna)]
    await erase(rooms, anna, await rooms.show(anna, chat, ended))
    before = len(await rooms.log(chat_scope(chat)))
    for wrong in (theirs, ended, FileId(2**53 - 2)):
        with pytest.raises(FileNotFound):
            await rooms.show(anna, chat, mine, wrong)
    with pytest.raises(AttachmentsMixed):
        await rooms.show(anna, chat, mine, await rooms.upload(anna, "document"))
    assert len(await rooms.log(chat_scope(chat))) == before
    assert await rooms.is_alive(mine)


async def test_who_sees_a_message_sees_its_files(rooms: Rooms) -> None:
    anna, bruno, eve = await rooms.settle(3)
    group, other = await rooms.group(anna, bruno), await rooms.group(anna, bruno)
    files = [await rooms.upload(anna) for _ in range(3)]
    first, second, third = [
        await rooms.show(anna, chat, file_id)
        for chat, file_id in zip((group, group, other), files, strict=True)
    ]

    async def readable(user_id: UserId) -> set[MessageId]:
        seen: set[MessageId] = set()
        for file_id, message_id in zip(files, (first, second, third), strict=True):
            with rooms.counting() as statements:
                if await reads(rooms, user_id, file_id):
                    seen.add(message_id)
            assert len(statements) == 1
        assert not await reads(rooms, user_id, FileId(2**53 - 2))
        return seen

    assert [await readable(who) for who in (anna, bruno, eve)] == [
        {first, second, third},
        {first, second, third},
        set(),
    ]
    await delete_for_me(rooms.db, user_id=bruno, message_id=first)
    await erase(rooms, anna, second)
    assert await readable(bruno) == {third}
    await leave_chat(rooms.db, rooms.tools, user_id=bruno, chat_id=other)
    assert await readable(bruno) == set()
    assert await readable(anna) == {first, third}
    await delete_chat(rooms.db, rooms.tools, user_id=anna, chat_id=group, for_everyone=False)
    assert await readable(anna) == {third}


# Their end


async def test_a_deleted_group_ends_what_it_alone_shows(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    group, other = await rooms.group(anna, bruno), await rooms.pair(anna, bruno)
    lost, kept = await rooms.upload(bruno), await rooms.upload(bruno)
    await rooms.show(bruno, group, lost)
    message = await rooms.show(bruno, group, kept)
    await forward(rooms, anna, group, other, message)
    await delete_chat(rooms.db, rooms.tools, user_id=anna, chat_id=group, for_everyone=False)
    assert (await rooms.is_alive(lost), await rooms.is_alive(kept)) == (False, True)


async def test_a_cleared_chat_ends_what_both_have_cleared(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    file_id = await rooms.upload(anna)
    await rooms.show(anna, chat, file_id)
    await delete_chat(rooms.db, rooms.tools, user_id=anna, chat_id=chat, for_everyone=False)
    assert await rooms.is_alive(file_id)
    await delete_chat(rooms.db, rooms.tools, user_id=bruno, chat_id=chat, for_everyone=False)
    assert not await rooms.is_alive(file_id)


async def test_very_many_files_of_a_group_end_step_by_step(rooms: Rooms) -> None:
    """Nobody reads any of them from the deletion on, and no transaction takes away more than a batch."""
    anna, bruno = await rooms.settle(2)
    group, other = await rooms.group(anna, bruno), await rooms.pair(anna, bruno)
    first, second, last, kept = [await rooms.upload(anna) for _ in range(4)]
    shown = [first, *[kept] * BATCH, second, *[kept] * BATCH, last]
    messages = await rooms.show_each(anna, group, shown)
    await forward(rooms, anna, group, other, messages[1])
    with rooms.counting() as statements:
        await delete_chat(rooms.db, rooms.tools, user_id=anna, chat_id=group, for_everyone=False)
    assert len(statements) < 30
    assert not await reads(rooms, bruno, second)
    assert not await reads(rooms, bruno, last)
    assert await reads(rooms, bruno, kept)
    uses = select(func.count()).where(FileUseRow.subject_id.in_(messages))
    left = await rooms.db.read(lambda tx: tx.scalar(uses))
    assert (left, await rooms.is_alive(first)) == (len(shown) - BATCH, False)
    await detach_rest(rooms.db)
    left = await rooms.db.read(lambda tx: tx.scalar(uses))
    assert (left, await rooms.is_alive(second), await rooms.is_alive(last)) == (0, False, False)
    assert await rooms.is_alive(kept)
    assert not await rooms.db.read(lambda tx: tx.all(select(EmptiedChatRow.chat_id)))


async def test_what_is_shown_after_a_chat_was_emptied_stays(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    photo = await rooms.upload(anna)
    elsewhere = await rooms.show(anna, await rooms.group(anna), photo)
    ends = [await rooms.upload(anna) for _ in range(2)]
    # Emptied once more before the job has begun.
    for end in ends:
        await rooms.show_each(anna, chat, [*[photo] * BATCH, end])
        await delete_chat(rooms.db, rooms.tools, user_id=anna, chat_id=chat, for_everyone=True)
    later = await rooms.show(anna, chat, photo)
    await detach_rest(rooms.db)
    assert [await rooms.is_alive(end) for end in ends] == [False, False]
    assert await rooms.is_alive(photo)
    assert await reads(rooms, bruno, photo)
    await erase(rooms, anna, elsewhere)
    assert await rooms.is_alive(photo)
    await erase(rooms, anna, later)
    assert not await rooms.is_alive(photo)


async def test_more_messages_go_at_once_than_a_statement_takes_parameters(rooms: Rooms) -> None:
    [anna] = await rooms.settle(1)
    file_id = await rooms.upload(anna)
    await rooms.db.write(lambda tx: add_uses(tx, MESSAGE, {1: [file_id], 40_000: [file_id]}))
    await rooms.db.write(lambda tx: remove_uses(tx, MESSAGE, range(1, 40_000)))
    assert await rooms.is_alive(file_id)
    await rooms.db.write(lambda tx: remove_uses(tx, MESSAGE, range(1, 40_001)))
    assert not await rooms.is_alive(file_id)


async def test_what_an_account_took_along_is_not_forwarded(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat, saved = await rooms.pair(anna, bruno), await rooms.pair(bruno, bruno)
    files = [await rooms.upload(anna) for _ in range(2)]
    message = await rooms.show(anna, chat, *files)

    async def end(file_id: FileId) -> None:
        statement = update(FileRow).where(FileRow.id == file_id)
        await rooms.db.write(lambda tx: tx.execute(statement.values(ended_at=tx.now)))

    await end(files[0])
    [copy] = await forward(rooms, bruno, chat, saved, message)
    assert [file["id"] for file in copy["attachments"]] == files[1:]
    await end(files[1])
    with pytest.raises(FileNotFound):
        await forward(rooms, bruno, chat, saved, message)


# Races


async def test_two_who_take_the_last_two_away_end_the_file(rooms: Rooms) -> None:
    anna, bruno, clara = await rooms.settle(3)
    chats = [await rooms.pair(anna, bruno), await rooms.pair(anna, clara)]
    for _ in range(15):
        file_id = await rooms.upload(anna)
        messages = [await rooms.show(anna, chat, file_id) for chat in chats]
        await asyncio.gather(*(erase(rooms, anna, message) for message in messages))
        assert not await rooms.is_alive(file_id)


async def test_a_forward_races_with_the_end_of_its_original(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat, saved = await rooms.pair(anna, bruno), await rooms.pair(bruno, bruno)
    for number in range(20):
        file_id = await rooms.upload(anna)
        message = await rooms.show(anna, chat, file_id)
        calls = [forward(rooms, bruno, chat, saved, message), erase(rooms, anna, message)]
        refusals = await asyncio.gather(*(outcome(call) for call in calls[:: 1 - number % 2 * 2]))
        assert set(refusals) <= {None, MessageNotFound}
        is_forwarded = MessageNotFound not in refusals
        assert await rooms.is_alive(file_id) is is_forwarded
        if is_forwarded:
            copy = (await rooms.history(bruno, saved, 1))["items"][0]
            assert [file["id"] for file in copy["attachments"]] == [file_id]
            await erase(rooms, bruno, copy["id"])
            assert not await rooms.is_alive(file_id)


async def test_a_send_races_with_the_job_that_ends_unused_files(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    late = rooms.clock.now() + timedelta(seconds=1)
    for number in range(20):
        file_id = await rooms.upload(anna)
        calls = [rooms.show(anna, chat, file_id), end_unused_files(rooms.db, before=late)]
        refusals = await asyncio.gather(*(outcome(call) for call in calls[:: 1 - number % 2 * 2]))
        assert set(refusals) <= {None, FileNotFound}
        assert await rooms.is_alive(file_id) is (FileNotFound not in refusals)


async def test_a_send_races_with_the_deletion_of_its_file(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    for number in range(20):
        file_id = await rooms.upload(anna)
        deletion = delete_file(rooms.db, owner_id=anna, file_type="photo", name=f"name-{file_id}")
        calls = [rooms.show(anna, chat, file_id), deletion]
        refusals = await asyncio.gather(*(outcome(call) for call in calls[:: 1 - number % 2 * 2]))
        assert set(refusals) in ({None, FileNotFound}, {None, FileInUse})
        assert await rooms.is_alive(file_id) is (FileInUse in refusals)


async def test_albums_of_the_same_files_do_not_deadlock(rooms: Rooms) -> None:
    anna, *others = await rooms.settle(5)
    chats = [await rooms.pair(anna, other) for other in others]
    files = [await rooms.upload(anna) for _ in range(4)]
    turned = [files[n:] + files[:n] for n in range(len(chats))]
    for _ in range(5):
        messages = await asyncio.gather(
            *(rooms.show(anna, chat, *ids) for chat, ids in zip(chats, turned, strict=True))
        )
        first = messages[0]
        view: Any = await read_message(
            rooms.db, rooms.keyring, reader_id=others[0], message_id=first
        )
        assert [file["id"] for file in view["attachments"]] == files
        await asyncio.gather(
            *(erase(rooms, anna, it) for it in messages[1:]),
            forward(rooms, anna, chats[0], chats[1], first),
        )
    assert all([await rooms.is_alive(file_id) for file_id in files])
