"""No count of statements grows with the page, the chat, the group of sends or what is unread."""

import asyncio

import pytest

from app.features.messages.content import check_content
from app.features.messages.read import Mark, apply_marks
from app.features.messages.send import Draft, Send, Sent, apply_sends
from app.features.messages.unread import Unread, count_unread
from app.kernel.ids import ChatId, MessageId, UserId
from tests.unit.features.messages.conftest import Rooms

pytestmark = pytest.mark.anyio


async def send_group(rooms: Rooms, sends: list[tuple[UserId, ChatId, dict[str, object]]]) -> int:
    """One group of sends; how many statements it took."""
    items = [
        Send(
            rooms.keyring,
            sender,
            Draft(chat_id=chat_id, content=check_content("text", []), **details),  # pyright: ignore[reportArgumentType]
        )
        for sender, chat_id, details in sends
    ]
    with rooms.counting() as statements:
        outcomes = await rooms.db.write(lambda tx: apply_sends(tx, items, may_wait=False))
    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    return len(statements)


async def test_a_group_of_sends_takes_as_many_statements_as_one(rooms: Rooms) -> None:
    anna, *others = await rooms.settle(9)
    chats = [await rooms.pair(anna, other) for other in others]
    target = {chat: await rooms.say(anna, chat) for chat in chats}
    few = await send_group(rooms, [(anna, chats[0], {"reply_to_id": target[chats[0]]})])
    many = await send_group(
        rooms,
        [(anna, chat, {"reply_to_id": target[chat]}) for chat in chats]
        + [(other, chat, {}) for other, chat in zip(others, chats, strict=True)] * 6,
    )
    assert many <= few
    assert many <= 16


async def test_a_plain_send_takes_few_statements(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    group = await rooms.group(anna, bruno)
    await rooms.say(anna, group)
    assert await send_group(rooms, [(anna, group, {"client_message_id": "c" * 36})]) <= 11


async def test_a_page_takes_three_statements_however_long(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat = await rooms.pair(anna, bruno)
    first = await rooms.say(anna, chat)
    await asyncio.gather(*(rooms.say(bruno, chat, reply_to_id=first) for _ in range(120)))
    for limit in (1, 10, 100):
        for at in ({}, {"before": first + 50}, {"after": first}, {"around": first + 50}):
            with rooms.counting() as statements:
                page = await rooms.history(anna, chat, limit, **at)
            assert len(statements) == 3
            assert len(page["items"]) in {limit, 50}


async def test_a_group_of_marks_takes_as_many_statements_as_one(rooms: Rooms) -> None:
    anna, *others = await rooms.settle(9)
    chats = [await rooms.pair(anna, other) for other in others]
    newest = {chat: await rooms.say(anna, chat) for chat in chats}

    async def mark_group(marks: list[Mark]) -> int:
        with rooms.counting() as statements:
            outcomes = await rooms.db.write(lambda tx: apply_marks(tx, marks, may_wait=False))
        assert outcomes == [None] * len(marks)
        return len(statements)

    marks = [Mark(other, chat, newest[chat]) for other, chat in zip(others, chats, strict=True)]
    assert await mark_group(marks[1:]) <= await mark_group(marks[:1]) <= 10


async def test_counting_unread_is_one_statement_and_stops_at_the_cap(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat, other = await rooms.pair(anna, bruno), await rooms.group(anna, bruno)
    items = [
        Send(rooms.keyring, anna, Draft(chat_id=chat, content=check_content("text", [])))
        for _ in range(64)
    ]
    pairs = [(chat, bruno), (other, bruno), (chat, anna)]
    counts: list[Unread] = []
    for _ in range(16):
        with rooms.counting() as statements:
            unread = await rooms.db.read(lambda tx: count_unread(tx, pairs))
        assert len(statements) == 1
        counts.append(unread[chat, bruno])
        await rooms.db.write(lambda tx: apply_sends(tx, items, may_wait=False))
    assert [count.messages for count in counts] == [64 * n for n in range(16)]
    assert unread[other, bruno] == unread[chat, anna] == Unread(0, 0, is_capped=False)
    unread = await rooms.db.read(lambda tx: count_unread(tx, pairs))
    assert unread[chat, bruno] == Unread(1000, 0, is_capped=True)
    assert MessageId(1) <= await rooms.say(bruno, chat)
