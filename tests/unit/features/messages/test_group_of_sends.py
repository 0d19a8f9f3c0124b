"""Whatever waits in one group ends as if each send had come alone, in the same order."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.features.chats.models import ChatRow, ParticipantRow
from app.features.messages.content import Content
from app.features.messages.models import MentionRow, MessageRow
from app.features.messages.send import Draft, Send, Sent, apply_sends
from app.features.updates.models import ScopeRow, UpdateRow
from app.features.users.block import block_user
from app.infra.database.committer import Busy
from app.infra.database.database import Database
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.problems import Problem
from tests.support.databases import SetClock, open_empty_database, settings_for
from tests.unit.features.messages.conftest import Rooms, open_rooms

PEOPLE, CHATS, TARGETS = 4, 5, 3
NOBODY, NOWHERE, NOTHING = UserId(7), ChatId(2**50), MessageId(2**50)

COMPARED = (
    (
        MessageRow.id,
        MessageRow.chat_id,
        MessageRow.seq,
        MessageRow.sender_id,
        MessageRow.reply_to_id,
        MessageRow.client_message_id,
        MessageRow.fingerprint,
        MessageRow.created_at,
    ),
    (ChatRow.id, ChatRow.last_message_id, ChatRow.last_message_at),
    (ParticipantRow.chat_id, ParticipantRow.user_id, ParticipantRow.last_read_message_id),
    (MentionRow.chat_id, MentionRow.user_id, MentionRow.message_id),
    (ScopeRow.kind, ScopeRow.id, ScopeRow.seq),
    (UpdateRow.kind, UpdateRow.scope_id, UpdateRow.seq, UpdateRow.type, UpdateRow.subject_id),
)


class Wish(NamedTuple):
    """A send; numbers beyond the last one stand for what does not exist."""

    sender: int
    chat: int
    text: str
    client_id: int | None
    reply_to: int | None
    mentions: int | None


WISHES = st.lists(
    st.builds(
        Wish,
        sender=st.integers(0, PEOPLE - 1),
        chat=st.integers(0, CHATS),
        text=st.sampled_from(["one", "two"]),
        client_id=st.none() | st.integers(0, 2),
        reply_to=st.none() | st.integers(0, TARGETS),
        mentions=st.none() | st.integers(0, PEOPLE),
    ),
    min_size=1,
    max_size=24,
)


@dataclass
class Stage:
    """Three private chats, one of them with a block and one with oneself, a group and a channel."""

    directory: Path
    clock: SetClock
    people: list[UserId]
    chats: list[ChatId]
    targets: list[MessageId]

    def make_send(self, rooms: Rooms, wish: Wish) -> Send:
        entities: list[Any] = []
        if wish.mentions is not None:
            user_id = [*self.people, NOBODY][wish.mentions]
            entities = [{"type": "text_mention", "offset": 0, "length": 3, "user_id": user_id}]
        draft = Draft(
            chat_id=[*self.chats, NOWHERE][wish.chat],
            content=Content(wish.text, entities),
            reply_to_id=None if wish.reply_to is None else [*self.targets, NOTHING][wish.reply_to],
            client_message_id=None if wish.client_id is None else f"client-{wish.client_id}",
        )
        return Send(rooms.keyring, self.people[wish.sender], draft)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return asyncio.run(_build_stage(tmp_path_factory.mktemp("stage")))


@given(wishes=WISHES)
def test_a_group_is_as_good_as_its_sends_one_by_one(stage: Stage, wishes: list[Wish]) -> None:
    together = asyncio.run(_run(stage, "together", wishes, size=len(wishes)))
    alone = asyncio.run(_run(stage, "alone", wishes, size=1))
    assert together == alone


async def _run(
    stage: Stage, name: str, wishes: list[Wish], *, size: int
) -> tuple[list[Any], list[Any]]:
    """The outcomes, and what the database then holds, of these sends in groups of `size`."""
    directory = stage.directory.parent / name
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(stage.directory, directory)
    db = await open_empty_database(settings_for(directory), stage.clock)
    rooms = await open_rooms(db, stage.clock)
    sends = [stage.make_send(rooms, wish) for wish in wishes]
    outcomes: list[Any] = []
    for start in range(0, len(sends), size):
        group = sends[start : start + size]
        done = await db.write(lambda tx, it=group: apply_sends(tx, it, may_wait=size == 1))
        outcomes += [_tell(outcome) for outcome in done]
    rows = [await _read(db, columns) for columns in COMPARED]
    await db.close()
    return outcomes, rows


async def _read(db: Database, columns: Any) -> list[tuple[Any, ...]]:
    rows = await db.read(lambda tx: tx.all(select(*columns)))
    return sorted((tuple(row) for row in rows), key=repr)


def _tell(outcome: Sent | Problem | Busy) -> Any:
    match outcome:
        case Sent():
            return (outcome.message, outcome.created)
        case Problem():
            return outcome.code
        case Busy():
            # In a group nobody can know yet whether such a chat exists; alone it is said.
            return "chat_not_found"


async def _build_stage(directory: Path) -> Stage:
    clock = SetClock()
    db = await open_empty_database(settings_for(directory), clock)
    rooms = await open_rooms(db, clock)
    people = await rooms.settle(PEOPLE)
    anna, bruno, clara, dora = people
    chats = [
        await rooms.pair(anna, bruno),
        await rooms.pair(anna, clara),
        await rooms.group(anna, bruno, clara),
        await rooms.channel(bruno, anna),
        await rooms.pair(dora, dora),
    ]
    targets = [
        await rooms.say(anna, chats[0]),
        await rooms.say(bruno, chats[2]),
        await rooms.say(dora, chats[4]),
    ]
    await block_user(db, rooms.keyring, blocker=clara, user_id=anna)
    await db.close()
    return Stage(directory, clock, people, chats, targets)
