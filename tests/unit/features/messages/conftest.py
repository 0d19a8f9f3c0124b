"""People in chats in a real database, and a count of the statements that a use case runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select

from app.features.auth import models as auth_models
from app.features.chats.access import find_chat
from app.features.chats.changes import Tools
from app.features.chats.create import NewChat, create_chat, create_private_chat
from app.features.chats.policy import ChatType
from app.features.chats.rules import ChatContents, ServiceMessages
from app.features.files.models import BlobRow, FileRow, FileUseRow
from app.features.files.views import Details, seal_details
from app.features.messages.append import NewMessage, append_messages
from app.features.messages.content import Content, check_content
from app.features.messages.history import HistoryPage, Position, list_history
from app.features.messages.send import Draft, Sent, send_message
from app.features.messages.service_messages import MessageEraser, ServiceMessageWriter
from app.features.sessions import models as session_models
from app.features.updates.log import lock_scopes
from app.features.updates.read import LoggedUpdate, read_log
from app.features.users.create import create_user
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring, blob_key, open_keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import BlobId, ChatId, FileId, MessageId, UserId
from app.kernel.rules import Rules
from app.kernel.scopes import Scope, chat_scope
from tests.support.databases import SetClock

TABLES = (auth_models, session_models)


@dataclass
class Rooms:
    """Accounts and chats of one worker."""

    db: Database
    clock: SetClock
    keyring: Keyring
    tools: Tools
    index: BlindIndex
    phones: int = 4_915_110_000_000

    async def settle(self, number: int) -> list[UserId]:
        return [await self._settle() for _ in range(number)]

    async def _settle(self) -> UserId:
        self.phones += 1
        phone = f"+{self.phones}"

        async def work(tx: Tx) -> UserId:
            return await create_user(
                tx, self.keyring, self.index, phone=phone, first_name="Anna", last_name=None
            )

        return await self.db.write(work)

    async def pair(self, one: UserId, other: UserId) -> ChatId:
        chat_id, _ = await create_private_chat(self.db, self.tools, user_id=one, peer_id=other)
        return chat_id

    async def group(self, owner: UserId, *members: UserId, **details: Any) -> ChatId:
        new = NewChat(type=ChatType.GROUP, title="Group", member_ids=members, **details)
        return await create_chat(self.db, self.tools, owner_id=owner, new=new)

    async def channel(self, owner: UserId, *members: UserId, **details: Any) -> ChatId:
        new = NewChat(type=ChatType.CHANNEL, title="News", member_ids=members, **details)
        return await create_chat(self.db, self.tools, owner_id=owner, new=new)

    async def send(
        self,
        sender: UserId,
        chat_id: ChatId,
        text: str = "text",
        *,
        entities: Sequence[dict[str, object]] = (),
        **details: Any,
    ) -> Sent:
        content = check_content(text, entities)
        draft = Draft(chat_id=chat_id, content=content, **details)
        return await send_message(self.db, self.keyring, sender_id=sender, draft=draft)

    async def upload(self, owner: UserId, kind: str = "photo") -> FileId:
        """A file that nothing shows yet; its bytes lie nowhere."""

        async def work(tx: Tx) -> FileId:
            [blob_id] = [BlobId(it) for it in await tx.reserve_ids(BlobRow, 1)]
            [file_id] = [FileId(it) for it in await tx.reserve_ids(FileRow, 1)]
            key = await self.keyring.create(tx, blob_key(blob_id))
            blob = {
                "id": blob_id,
                "owner_id": owner,
                "object_name": f"object-{blob_id}",
                "size": 7,
                "stored_size": 7,
                "chunk_size": 0,
                "created_at": tx.now,
            }
            await tx.execute(insert(BlobRow).values(blob))
            details: Details = {"original_name": "name", "sha256": "0" * 64}
            file = {
                "id": file_id,
                "owner_id": owner,
                "blob_id": blob_id,
                "name": f"name-{file_id}",
                "file_type": kind,
                "mime_type": "application/octet-stream",
                "details": seal_details(key, file_id, details),
                "state": "ready",
                "created_at": tx.now,
                "unused_since": tx.now,
            }
            await tx.execute(insert(FileRow).values(file))
            return file_id

        return await self.db.write(work)

    async def show(
        self, sender: UserId, chat_id: ChatId, *file_ids: FileId, **details: Any
    ) -> MessageId:
        """A message without a caption that shows these files, or a new photo."""
        attachments = file_ids or [await self.upload(sender)]
        draft = Draft(chat_id=chat_id, content=Content(None), attachments=attachments, **details)
        sent = await send_message(self.db, self.keyring, sender_id=sender, draft=draft)
        return sent.message["id"]

    async def show_each(
        self, sender: UserId, chat_id: ChatId, file_ids: Sequence[FileId]
    ) -> list[MessageId]:
        """Each photo in a message of its own, all in one transaction."""

        async def work(tx: Tx) -> list[MessageId]:
            log = await lock_scopes(tx, [chat_scope(chat_id)])
            chat = await find_chat(tx, chat_id)
            assert chat is not None
            messages = [
                NewMessage(
                    chat=chat,
                    sender_id=sender,
                    content=Content(None),
                    type="photo",
                    attachments=[file_id],
                )
                for file_id in file_ids
            ]
            views = await append_messages(tx, log, self.keyring, messages)
            return [view["id"] for view in views]

        return await self.db.write(work)

    async def is_alive(self, file_id: FileId) -> bool:
        """Whether it has not ended; if something shows it, it may not have."""
        statement = select(FileRow.ended_at).where(FileRow.id == file_id)
        uses = select(FileUseRow.subject_id).where(FileUseRow.file_id == file_id)
        is_alive = await self.db.read(lambda tx: tx.scalar(statement)) is None
        is_shown = bool(await self.db.read(lambda tx: tx.scalars(uses)))
        assert is_alive or not is_shown
        return is_alive

    async def say(
        self, sender: UserId, chat_id: ChatId, text: str = "text", **details: Any
    ) -> MessageId:
        return (await self.send(sender, chat_id, text, **details)).message["id"]

    async def history(
        self, reader: UserId, chat_id: ChatId, limit: int = 50, **at: Any
    ) -> HistoryPage:
        return await list_history(
            self.db,
            self.keyring,
            reader_id=reader,
            chat_id=chat_id,
            position=Position(**at),
            limit=limit,
        )

    async def log(self, scope: Scope) -> Sequence[LoggedUpdate]:
        return await self.db.read(lambda tx: read_log(tx, {scope: (0, 2**31)}, limit=10_000))

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """The statements that run meanwhile."""
        statements: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        engines = list(self._engines())
        for engine in engines:
            event.listen(engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            for engine in engines:
                event.remove(engine, "before_cursor_execute", note)

    def _engines(self) -> Iterator[Engine]:
        connections: Any = self.db.connections
        if self.db.dialect == "postgresql":
            yield connections.engine.sync_engine
        else:
            yield connections.engine
            yield connections._reader_engine


async def open_rooms(db: Database, clock: SetClock) -> Rooms:
    """One worker over a database."""
    keyring = await open_keyring(db, b"m" * 32, rounds=1000, personal=True, messages=True)
    rules = Rules()
    rules.register(ServiceMessages, ServiceMessageWriter())
    rules.register(ChatContents, MessageEraser())
    tools = Tools(keyring=keyring, rules=rules, max_members=1000)
    return Rooms(db, clock, keyring, tools, BlindIndex(b"i" * 32))


@pytest.fixture
async def rooms(db: Database, clock: SetClock) -> Rooms:
    return await open_rooms(db, clock)
