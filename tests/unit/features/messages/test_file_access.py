"""Who reads a file that messages show: by the rule of messages, at the same cost however often it was forwarded."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, text, update

from app.features.chats.models import ParticipantRow
from app.features.files.models import FileUseRow
from app.features.messages import access as access_module
from app.features.messages import queries
from app.features.messages.access import get_message, reads_any_with
from app.features.messages.delete import delete_for_me
from app.features.messages.errors import MessageNotFound
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from tests.support.plans import Explain
from tests.unit.features.messages.conftest import Rooms

pytestmark = pytest.mark.anyio

MANY = 20_000

# So many messages of one chat, each with the file; as a crowd of forwards would leave them.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)",
    "postgresql": "WITH n(i) AS (SELECT generate_series(1, CAST(:count AS bigint)))",
}
_MESSAGES = """
INSERT INTO messages (id, chat_id, seq, sender_id, type, silent, created_at)
{numbers} SELECT :first + i, m.chat_id, :first + i, m.sender_id, m.type, m.silent, m.created_at
FROM n, messages m WHERE m.id = :model
"""
_USES = """
INSERT INTO file_uses (kind, subject_id, position, file_id)
{numbers} SELECT 'message', :first + i, 0, :file_id FROM n
"""


async def spread(rooms: Rooms, model: MessageId, file_id: FileId, *, first: int) -> None:
    """`MANY` more messages like this one, from behind the id `first` on."""
    numbers = _NUMBERS[rooms.db.dialect]
    common = {"count": MANY, "first": first}

    async def work(tx: Tx) -> None:
        await tx.execute(text(_MESSAGES.format(numbers=numbers)), common | {"model": model})
        await tx.execute(text(_USES.format(numbers=numbers)), common | {"file_id": file_id})
        await tx.execute(text("ANALYZE"))

    await rooms.db.write(work, timeout_seconds=120)


async def reads(rooms: Rooms, user_id: UserId, file_id: FileId) -> bool:
    return await rooms.db.read(lambda tx: reads_any_with(tx, user_id, file_id), timeout_seconds=60)


async def sees_one(rooms: Rooms, user_id: UserId, messages: Sequence[MessageId]) -> bool:
    """Asked one by one, by the way on which messages are read."""

    async def work(tx: Tx) -> bool:
        for message_id in messages:
            try:
                record, _ = await get_message(tx, user_id, message_id)
            except MessageNotFound:
                continue
            if record.deleted_at is None:
                return True
        return False

    return await rooms.db.read(work)


async def change_member(rooms: Rooms, user_id: UserId, chat_id: ChatId, **values: object) -> None:
    mine = (ParticipantRow.user_id == user_id, ParticipantRow.chat_id == chat_id)
    await rooms.db.write(lambda tx: tx.execute(update(ParticipantRow).where(*mine).values(values)))


@pytest.mark.parametrize("chats_at_once", [1, 500])
async def test_every_role_reads_what_it_read_message_by_message(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, chats_at_once: int
) -> None:
    monkeypatch.setattr(access_module, "_CHATS_AT_ONCE", chats_at_once)
    owner, *people = await rooms.settle(12)
    group = await rooms.group(owner, *people[:-1], history_visible=False)
    channel = await rooms.channel(owner, people[0])
    file_id = await rooms.upload(owner)
    older = await rooms.show(owner, group, file_id)
    messages = [older, await rooms.show(owner, group, file_id)]
    messages.append(await rooms.show(owner, channel, file_id))
    newest, soon = messages[1], rooms.clock.now() + timedelta(hours=1)
    gone = rooms.clock.now() - timedelta(hours=1)
    of_group: list[dict[str, object]] = [
        {"role": "left"},
        {"role": "banned"},
        {"role": "banned", "restricted_until": soon},
        {"role": "banned", "restricted_until": gone},
        {"role": "restricted", "permissions": 0},
        {"first_visible_id": newest},
        {"first_visible_id": newest + 1},
        {"cleared_id": older},
        {"cleared_id": newest},
        {"role": "admin", "permissions": 0},
    ]
    for person, values in zip(people[:-1], of_group, strict=True):
        await change_member(rooms, person, group, **values)
    seen: dict[UserId, bool] = {}
    for person in (owner, *people):
        seen[person] = await reads(rooms, person, file_id)
        assert seen[person] == await sees_one(rooms, person, messages), person
    # The first is in the channel; of the others each by what is true of them in the group.
    expected = [True, True, False, False, False, True, True, False, True, False, True, False]
    assert list(seen.values()) == expected
    await delete_for_me(rooms.db, user_id=people[7], message_id=newest)
    assert not await reads(rooms, people[7], file_id)
    await delete_for_me(rooms.db, user_id=people[4], message_id=newest)
    assert await reads(rooms, people[4], file_id), "the older one is still shown"


async def test_a_file_that_was_forwarded_very_often_costs_no_more(rooms: Rooms) -> None:
    owner, member, late, former, eve = await rooms.settle(5)
    group = await rooms.group(owner, member, former, late, history_visible=False)
    saved = await rooms.pair(eve, eve)
    file_id, other = await rooms.upload(owner), await rooms.upload(owner)
    message = await rooms.show(owner, group, file_id)
    elsewhere = await rooms.show(owner, group, other)
    await spread(rooms, message, file_id, first=100_000)
    await spread(rooms, elsewhere, other, first=200_000)
    await change_member(rooms, former, group, role="left")
    await change_member(rooms, late, group, first_visible_id=300_000)
    answers: dict[UserId, bool] = {}
    for person in (member, late, former, eve):
        with rooms.counting() as statements:
            answers[person] = await reads(rooms, person, file_id)
        assert len([it for it in statements if it.startswith("SELECT")]) == 1, statements
    assert list(answers.values()) == [True, False, False, False]
    parameters = {"file_id": file_id, "below": 2**53, "limit": 500}
    for person, count in ((member, 1), (late, 1), (former, 1), (eve, 0)):
        of_person = parameters | {"user_id": person}
        rows = await rooms.db.read(lambda tx, it=of_person: tx.all(queries._NEWEST_WITH_FILE, it))
        assert len(rows) == count, "a row a chat, not a row a message"
    # Among all those of the chat the one that is shown in a chat of hers is found.
    shown = {"kind": "message", "subject_id": 0, "position": 0, "file_id": file_id}
    shown["subject_id"] = await rooms.say(eve, saved)
    await rooms.db.write(lambda tx: tx.execute(insert(FileUseRow).values(shown)))
    assert await reads(rooms, eve, file_id)
    mine = FileUseRow.subject_id == shown["subject_id"]
    await rooms.db.write(lambda tx: tx.execute(delete(FileUseRow).where(mine)))
    assert not await reads(rooms, eve, file_id)


async def test_the_uses_of_a_file_are_found_by_an_index(rooms: Rooms) -> None:
    owner, eve = await rooms.settle(2)
    group = await rooms.group(owner)
    message = await rooms.show(owner, group, wide := await rooms.upload(owner))
    await spread(rooms, message, wide, first=100_000)
    file_id = await rooms.upload(owner)
    await rooms.show(owner, group, file_id)
    parameters = {"user_id": eve, "file_id": file_id, "below": 2**53, "limit": 500}
    rows = await rooms.db.read(lambda tx: tx.all(Explain(queries._NEWEST_WITH_FILE), parameters))
    plan = [" ".join(str(value) for value in row) for row in rows]
    assert any("ix_file_uses_file_id" in line for line in plan), plan
    scans = ("SCAN file_uses", "SCAN messages", "Seq Scan on file_uses", "Seq Scan on messages")
    assert not [line for line in plan if any(scan in line for scan in scans)], plan
