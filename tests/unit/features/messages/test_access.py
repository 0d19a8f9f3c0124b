"""The way to a message is the membership in its chat; all that I may not see answers as what never was."""

import pytest
from sqlalchemy import update

from app.features.chats.add_members import add_members
from app.features.chats.leave import leave_chat
from app.features.chats.models import ParticipantRow
from app.features.messages.access import get_message, require_writing
from app.features.messages.delete import delete_for_everyone, delete_for_me
from app.features.messages.errors import MessageNotFound, PeerBlocked
from app.features.messages.queries import MessageRecord
from app.features.users.block import block_user
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.problems import Forbidden, Problem
from tests.unit.features.messages.conftest import Rooms

pytestmark = pytest.mark.anyio
NEVER = MessageId(2**53 - 2)


async def look(rooms: Rooms, user_id: UserId, message_id: MessageId) -> MessageRecord | None:
    """None for what the user cannot find."""

    async def work(tx: Tx) -> MessageRecord:
        record, membership = await get_message(tx, user_id, message_id)
        assert (membership.user_id, membership.chat.id) == (user_id, record.chat_id)
        return record

    try:
        return await rooms.db.read(work)
    except MessageNotFound:
        return None


async def test_members_find_a_message_and_nobody_else_does(rooms: Rooms) -> None:
    anna, bruno, eve = await rooms.settle(3)
    chat_id = await rooms.group(anna, bruno)
    message_id = await rooms.say(anna, chat_id)
    for reader in (anna, bruno):
        record = await look(rooms, reader, message_id)
        assert record is not None
        assert (record.id, record.chat_id, record.sender_id) == (message_id, chat_id, anna)
    assert await look(rooms, eve, message_id) is None
    assert await look(rooms, anna, NEVER) is None
    await leave_chat(rooms.db, rooms.tools, user_id=bruno, chat_id=chat_id)
    assert await look(rooms, bruno, message_id) is None


async def test_what_i_deleted_for_myself_is_gone_for_me_alone(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat_id = await rooms.pair(anna, bruno)
    first, second = await rooms.say(anna, chat_id), await rooms.say(anna, chat_id)
    await delete_for_me(rooms.db, user_id=bruno, message_id=first)
    found = [await look(rooms, who, it) for who in (anna, bruno) for it in (first, second)]
    assert [record is not None for record in found] == [True, True, False, True]
    await delete_for_everyone(rooms.db, user_id=anna, message_id=second)
    tombstone = await look(rooms, bruno, second)
    assert tombstone is not None
    assert tombstone.deleted_at is not None


async def test_what_was_said_before_my_time_or_cleared_away_is_not_there(rooms: Rooms) -> None:
    anna, bruno = await rooms.settle(2)
    chat_id = await rooms.group(anna)
    old = await rooms.say(anna, chat_id)
    await add_members(rooms.db, rooms.tools, actor_id=anna, chat_id=chat_id, user_ids=[bruno])
    new = await rooms.say(anna, chat_id)
    found = [await look(rooms, who, it) for who in (anna, bruno) for it in (old, new)]
    assert [record is not None for record in found] == [True, True, False, True]

    async def clear(tx: Tx) -> None:
        where = (ParticipantRow.chat_id == chat_id, ParticipantRow.user_id == bruno)
        await tx.execute(update(ParticipantRow).where(*where).values(cleared_id=new))

    await rooms.db.write(clear)
    assert await look(rooms, bruno, new) is None
    assert await look(rooms, anna, new) is not None


async def test_blocks_are_read_from_the_table(rooms: Rooms) -> None:
    anna, bruno, clara = await rooms.settle(3)
    chat_id, other = await rooms.pair(anna, bruno), await rooms.pair(anna, clara)
    message_id, elsewhere = await rooms.say(anna, chat_id), await rooms.say(anna, other)
    await rooms.say(bruno, chat_id)

    async def judge(user_id: UserId, at: MessageId) -> type[Problem] | None:
        async def work(tx: Tx) -> None:
            _, membership = await get_message(tx, user_id, at)
            await require_writing(tx, membership, text=True, media=False)

        try:
            await rooms.db.read(work)
        except Problem as problem:
            return type(problem)
        return None

    assert (await judge(anna, message_id), await judge(bruno, message_id)) == (None, None)
    await block_user(rooms.db, rooms.keyring, blocker=anna, user_id=bruno)
    assert (await judge(anna, message_id), await judge(bruno, message_id)) == (
        PeerBlocked,
        Forbidden,
    )
    assert (await judge(anna, elsewhere), await judge(clara, elsewhere)) == (None, None)
    assert ChatId(chat_id) != other
