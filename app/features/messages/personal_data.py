"""What messages keep about a person: what they wrote, hid and were mentioned in; erased and exported."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import cast

from sqlalchemy import BigInteger, Boolean, delete, literal, literal_column, select, tuple_, update

from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.policy import ChatType
from app.features.messages.attachments import empty_messages, load_attachments
from app.features.messages.content import find_content
from app.features.messages.delete import MESSAGE_DELETED
from app.features.messages.forwards import parse_origin
from app.features.messages.models import HiddenMessageRow, MentionRow, MessageRow
from app.features.messages.queries import load_records
from app.features.messages.render import render_tombstone
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import chat_scope
from app.transport.personal_data import Leaver, Page, Section, in_pages

# The lock of a chat is held for this many messages: some 10 ms.
_BATCH = 50
_REFERENCES = 500
_PAGE = 500
# The words of the partial index, so that SQLite uses it.
_COUNTABLE = literal_column("messages.deleted_at IS NULL AND messages.type <> 'service'", Boolean)


class MessagesPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Nothing at once: there may be many, and others must be told."""

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Tombstones for everyone, in batches, each chat's lock held shortly, and as long not at all."""
        user_id = leaver.user_id
        for table in (HiddenMessageRow, MentionRow):
            while await services.db.write(
                lambda tx, table=table: _forget_references(tx, table, user_id),
                timeout_seconds=LONG_SECONDS,
            ):
                pass
        after = ChatId(0)
        while chat := await services.db.read(
            lambda tx, after=after: _next_chat(tx, user_id, after), timeout_seconds=LONG_SECONDS
        ):
            after, is_gone = chat
            # Of a private chat that went with the account nothing stays, whoever wrote it.
            if is_gone:
                await _erase_chat(services, after, of_user=None)
            elif not leaver.keep_messages:
                await _erase_chat(services, after, of_user=user_id)

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """All that the person wrote, chat by chat, also where they are not a member any more."""
        return [Section("messages", _walk_messages(services, user_id))]


async def _walk_messages(services: Services, user_id: UserId) -> AsyncIterator[object]:
    after = ChatId(0)
    while chat := await services.db.read(
        lambda tx, after=after: _next_chat(tx, user_id, after), timeout_seconds=LONG_SECONDS
    ):
        after = chat_id = chat[0]
        pages = in_pages(
            services.db,
            lambda tx, last, chat_id=chat_id: _page(tx, services.keyring, chat_id, user_id, last),
        )
        async for item in pages:
            yield item


async def _page(tx: Tx, keyring: Keyring, chat_id: ChatId, user_id: UserId, after: int) -> Page:
    ids = await _list_ids(tx, chat_id, of_user=user_id, after=MessageId(after), limit=_PAGE)
    records = await load_records(tx, ids)
    key = (await keyring.load(tx, [chat_key(chat_id)])).get(chat_key(chat_id))
    attachments = await load_attachments(tx, keyring, records.values())
    items: list[dict[str, object]] = []
    for record in (records[it] for it in ids if it in records):
        if key is None or record.body is None or record.deleted_at is not None:
            continue
        content = find_content(key, record.id, record.body, record.revision)
        if content is None:
            continue
        origin = parse_origin(record.forward)
        items.append(
            {
                "id": record.id,
                "chat_id": chat_id,
                "type": record.type,
                "text": content.text,
                "entities": content.entities,
                "attachments": attachments.get(record.id, []),
                "reply_to_message_id": record.reply_to_id,
                "first_written_at": None if origin is None else format_time(origin.created_at),
                "created_at": format_time(record.created_at),
                "edited_at": record.edited_at and format_time(record.edited_at),
            }
        )
    return items, ids[-1] if len(ids) == _PAGE else None


async def _next_chat(tx: Tx, user_id: UserId, after: ChatId) -> tuple[ChatId, bool] | None:
    """The next chat in which the person ever was, and whether it is a private one that is deleted."""
    row = await tx.first(
        select(ChatRow.id, ChatRow.type, ChatRow.deleted_at)
        .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
        .where(ParticipantRow.user_id == user_id, ParticipantRow.chat_id > after)
        .order_by(ParticipantRow.chat_id)
        .limit(1)
    )
    if row is None:
        return None
    return row.id, row.type == str(ChatType.PRIVATE) and row.deleted_at is not None


async def _erase_chat(services: Services, chat_id: ChatId, *, of_user: UserId | None) -> None:
    after = MessageId(0)
    while True:
        found = await services.db.read(
            lambda tx, after=after: _list_ids(tx, chat_id, of_user=of_user, after=after),
            timeout_seconds=LONG_SECONDS,
        )
        if not found:
            return
        begun = time.monotonic()
        await services.db.write(
            lambda tx, found=found: _erase(tx, chat_id, found), timeout_seconds=LONG_SECONDS
        )
        after = found[-1]
        # Others send meanwhile.
        await asyncio.sleep(time.monotonic() - begun)


async def _list_ids(
    tx: Tx, chat_id: ChatId, *, of_user: UserId | None, after: MessageId, limit: int = _BATCH
) -> Sequence[MessageId]:
    """Without a lock: a chat may hold a million messages of others in between."""
    statement = (
        select(MessageRow.id)
        .where(MessageRow.chat_id == chat_id, MessageRow.id > after)
        .order_by(MessageRow.chat_id, MessageRow.id)
        .limit(limit)
    )
    if tx.dialect == "postgresql":
        # The id alone may lead it along the primary key, over everybody's messages.
        place = tuple_(MessageRow.chat_id, MessageRow.id)
        statement = statement.where(
            place > tuple_(literal(chat_id, BigInteger), literal(after, BigInteger))
        )
    if of_user is None:
        return await tx.scalars(statement.where(MessageRow.deleted_at.is_(None)))
    return await tx.scalars(statement.where(MessageRow.sender_id == of_user, _COUNTABLE))


async def _erase(tx: Tx, chat_id: ChatId, message_ids: Sequence[MessageId]) -> None:
    log = await lock_scopes(tx, [chat_scope(chat_id)])
    records = await load_records(tx, message_ids)
    live = [records[it] for it in sorted(records) if records[it].deleted_at is None]
    if not live:
        return
    ids = [record.id for record in live]
    await empty_messages(tx, live)
    # Nobody will repeat a send of theirs, and a client may write anything into its id.
    await tx.execute(
        update(MessageRow)
        .where(MessageRow.id.in_(ids))
        .values(client_message_id=None, fingerprint=None)
    )
    await tx.execute(delete(MentionRow).where(MentionRow.message_id.in_(ids)))
    is_there = select(ChatRow.id).where(ChatRow.id == chat_id, ChatRow.deleted_at.is_(None))
    if await tx.scalar(is_there) is None:
        return
    for record in live:
        content = cast(
            "dict[str, object]", render_tombstone(record._replace(client_message_id=None))
        )
        log.append(chat_scope(chat_id), MESSAGE_DELETED, subject_id=record.id, content=content)


async def _forget_references(
    tx: Tx, table: type[HiddenMessageRow] | type[MentionRow], user_id: UserId
) -> int:
    """How many."""
    rows = await tx.all(
        select(table.chat_id, table.message_id).where(table.user_id == user_id).limit(_REFERENCES)
    )
    for chat_id in {row.chat_id for row in rows}:
        ids = [row.message_id for row in rows if row.chat_id == chat_id]
        await tx.execute(
            delete(table).where(
                table.user_id == user_id, table.chat_id == chat_id, table.message_id.in_(ids)
            )
        )
    return len(rows)
