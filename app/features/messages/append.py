"""The one place that writes messages: sends, forwards and service messages all end here.

The caller holds the locks of the chats' scopes and has decided, under them, that every message may
stand. Ids are taken under the same locks, so that they grow with `seq` inside a chat.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from app.features.chats.policy import ChatFacts
from app.features.messages.attachments import attach
from app.features.messages.content import Content, seal_content
from app.features.messages.forwards import ForwardOrigin, store_origin
from app.features.messages.models import MessageRow
from app.features.messages.policy import SERVICE, TEXT
from app.features.messages.queries import (
    MessageRecord,
    ReplyTarget,
    insert_mentions,
    insert_messages,
    move_marks,
    touch_chats,
)
from app.features.messages.render import Rendered, render_messages
from app.features.updates.log import ScopeLog
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.tx import Tx
from app.kernel.ids import FileId, MessageId, UserId
from app.kernel.scopes import chat_scope

NEW_MESSAGE = "new_message"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that may stand. `canonical` is what its fingerprint is made of, see `canonical_body`.

    `attachments` cannot end before the transaction does: the caller holds the files, or the chat of a
    message that shows them.
    """

    chat: ChatFacts
    sender_id: UserId
    content: Content
    type: str = TEXT
    reply_to: ReplyTarget | None = None
    origin: ForwardOrigin | None = None
    service: Mapping[str, object] | None = None
    client_message_id: str | None = None
    canonical: bytes = b""
    silent: bool = False
    mentioned: Collection[UserId] = ()
    attachments: Sequence[FileId] = ()


async def append_messages(
    tx: Tx, log: ScopeLog, keyring: Keyring, items: Sequence[NewMessage]
) -> list[Rendered]:
    """Write the messages and their `new_message` updates, in this order; however many, in as many statements.

    Returns:
        Each message as every viewer sees it.
    """
    if not items:
        return []
    ids = [MessageId(number) for number in await tx.reserve_ids(MessageRow, len(items))]
    keys = await keyring.load(tx, {chat_key(item.chat.id) for item in items})
    records = [
        _make_record(tx, keyring, keys[chat_key(item.chat.id)], message_id, item)
        for message_id, item in zip(ids, items, strict=True)
    ]
    await attach(
        tx,
        {record.id: item.attachments for record, item in zip(records, items, strict=True)},
    )
    views = await render_messages(
        tx,
        keyring,
        records,
        chats={item.chat.id: item.chat for item in items},
        contents={message_id: item.content for message_id, item in zip(ids, items, strict=True)},
    )
    rows: list[dict[str, object]] = []
    for record, item, view in zip(records, items, views, strict=True):
        seq = log.append(
            chat_scope(record.chat_id),
            NEW_MESSAGE,
            subject_id=record.id,
            content=cast("dict[str, object]", view),
        )
        rows.append(_make_row(record, item, seq=seq, key=keys[chat_key(record.chat_id)]))
    await insert_messages(tx, rows)
    await touch_chats(tx, {record.chat_id: record.id for record in records})
    await move_marks(
        tx,
        {
            (record.chat_id, record.sender_id): record.id
            for record in records
            if record.type != SERVICE
        },
    )
    await insert_mentions(
        tx,
        [
            (record.chat_id, user_id, record.id)
            for record, item in zip(records, items, strict=True)
            for user_id in item.mentioned
        ],
    )
    return views


def _make_record(
    tx: Tx, keyring: Keyring, key: DataKey, message_id: MessageId, item: NewMessage
) -> MessageRecord:
    target = item.reply_to
    return MessageRecord(
        id=message_id,
        chat_id=item.chat.id,
        sender_id=item.sender_id,
        type=item.type,
        body=seal_content(key, message_id, item.content, encrypt=keyring.messages),
        reply_to_id=target and target.id,
        forward=item.origin and store_origin(item.origin),
        service=item.service,
        client_message_id=item.client_message_id,
        silent=item.silent,
        created_at=tx.now,
        edited_at=None,
        deleted_at=None,
        target_sender_id=target and target.sender_id,
        target_body=target and target.body,
        target_deleted_at=None,
        target_type=target and target.type,
        target_revision=target.revision if target else 0,
    )


def _make_row(
    record: MessageRecord, item: NewMessage, *, seq: int, key: DataKey
) -> dict[str, object]:
    is_repeatable = item.client_message_id is not None
    return {
        "id": record.id,
        "chat_id": record.chat_id,
        "seq": seq,
        "sender_id": record.sender_id,
        "type": record.type,
        "body": record.body,
        "reply_to_id": record.reply_to_id,
        "forward": record.forward,
        "service": record.service,
        "client_message_id": record.client_message_id,
        "fingerprint": key.fingerprint(item.canonical) if is_repeatable else None,
        "silent": record.silent,
        "created_at": record.created_at,
        "edited_at": None,
        "deleted_at": None,
    }
